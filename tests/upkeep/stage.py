"""A stage for the scripts in autograder/: a folder, an environment, a pretended minituner.

Leaves out: the claims (test_autograder.py, test_workflow.py).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from golden import samples

from minituner.grading.formats import render
from minituner.words import VARIABLE

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / "autograder"
SCRIPTS = [HOME / "gradescope" / name for name in ("setup.sh", "run_autograder", "build.sh")]
TORCH = "".join(re.findall(r"^torch==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
Done = subprocess.CompletedProcess[str]
# The start of a pretended minituner: notes its call and finds the file to write.
EXAM = 'echo "$@" >>"$LOG"; while [ $# -gt 1 ]; do [ "$1" = --out ] && OUT=$2; shift; done\n'


def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders as on Gradescope, and nothing of this machine's own settings."""
    for name in ("LAB", "LEVEL", "LIMIT", "SUBMISSION", "RESULTS", "TORCH_INDEX", "STATUS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(VARIABLE, "en")
    monkeypatch.setenv("AUTOGRADER", str(tmp_path / "autograder"))
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    ours = Path(sys.executable).parent  # `make test` does not put it on the path
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{ours}:{os.environ['PATH']}")
    for name in ("bin", "autograder/source/minituner", "autograder/results"):
        (tmp_path / name).mkdir(parents=True)
    for name, sample in (("mixed", samples.mixed), ("error", samples.error)):
        (tmp_path / name).write_text(render(sample(), samples.LAB, "gradescope"), encoding="utf-8")


def pretend(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


def bash(*words: str | Path, cwd: Path | None = None) -> Done:
    return subprocess.run(
        ["bash", *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )
