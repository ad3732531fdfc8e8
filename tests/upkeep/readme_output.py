"""Rewrites the output quoted in the READMEs: run as a command, or compared by test_readme.py.

A block is `<!-- output: COMMAND -->` and the console fence after it. The command runs as on a fresh
clone: with the stub in place of src/minituner/lora.py. Leaves out: times, which change by the hour.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from functools import cache
from pathlib import Path

from minituner.grading.registry import ROOT, lab
from minituner.grading.stub import stub

PAGES = ("README.md", "README.es.md")
BLOCK = re.compile(r"(<!-- output: (?P<command>.+?) -->\n```console\n).*?(```)", re.DOTALL)
PARTS = ("src", "tests", "lab", "theory", "solutions", "experiments")
FILES = ("conftest.py", "pyproject.toml", "constraints.txt")


def fresh_clone(folder: Path) -> None:
    """A learner's clone: the working tree with the stub in place, and mypy's cache beside it.

    Without what git ignores, and the tests that are a maintainer's.
    """
    others = shutil.ignore_patterns("__pycache__", "results", "upkeep", "attacks")
    for part in PARTS:
        shutil.copytree(ROOT / part, folder / part, ignore=others)
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    (folder / lab("00").file).write_text(stub(lab("00")), encoding="utf-8")
    take_types(folder / ".mypy_cache")


def take_types(cache: Path) -> None:
    """Copy what mypy knows of torch's types, as after a first grade: half a minute's work.

    Whole, whoever writes to it meanwhile.
    """
    for known in (ROOT / ".mypy_cache").rglob("*.db"):
        copy = cache / known.relative_to(ROOT / ".mypy_cache")
        copy.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(known)) as one, closing(sqlite3.connect(copy)) as other:
            other.execute("PRAGMA synchronous = OFF")  # nobody needs it after a power cut
            one.backup(other)


@cache
def output(command: str, folder: Path) -> str:
    """What the command prints there, trailing blanks and times left out; run once for all pages."""
    tool, *args = shlex.split(command)
    here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    env = os.environ | {"PYTHONPATH": str(folder / "src"), "COLUMNS": "80", "PATH": here}
    done = subprocess.run(
        [sys.executable, "-m", tool, *args],
        cwd=folder,
        env=env | {"PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    if tool == "pytest":
        lines = [re.sub(r" in [\d.]+s.*", "", lines[-1])]
    return "\n".join([f"$ {command}", *lines]) + "\n"


def rewritten(text: str, folder: Path) -> str:
    """The page with every block's output as it is now."""
    return BLOCK.sub(lambda m: m[1] + output(m["command"], folder) + m[3], text)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        fresh_clone(Path(folder))
        for name in PAGES:
            page = ROOT / name
            page.write_text(rewritten(page.read_text(encoding="utf-8"), Path(folder)), "utf-8")
            print(f"{name}: rewritten")


if __name__ == "__main__":
    main()
