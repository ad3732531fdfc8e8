"""mypy and ruff on one file: the types gate and the advice. Both run in processes of their own.

mypy sees a copy without comments and the grader's own settings, so the file cannot talk it round.
Leaves out: a warm daemon, which `watch` will bring.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from minituner.grading.gates import without_comments
from minituner.grading.registry import ROOT
from minituner.grading.report import GateResult
from minituner.words import say

MYPY_SECONDS = 600.0  # a first run, on a cold disk, reads all of torch's types
CACHE = ROOT / ".mypy_cache"
# What is worth a learner's eye: errors, unused names, likely bugs. Costs nothing.
RUFF = ("check", "--isolated", "--ignore-noqa", "--select=E,F,B", "--line-length=100")


def check_types(path: Path, text: str) -> GateResult:
    """`mypy --strict` on the file, its comments blanked."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        copy.write_text(without_comments(text), encoding="utf-8")
        flags = ["--strict", "--config-file=", f"--cache-dir={CACHE}", "--no-error-summary"]
        flags += ["--no-color-output", "--hide-error-context", copy.name]
        try:
            done = subprocess.run(
                [sys.executable, "-m", "mypy", *flags],
                cwd=folder,
                env=os.environ | {"MYPYPATH": str(ROOT / "src")},
                capture_output=True,
                text=True,
                encoding="utf-8",
                timeout=MYPY_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return GateResult("types", "error", (say("mypy did not run: {why}", why=error),))
    found = tuple(line for line in done.stdout.splitlines() if ": error:" in line)
    if done.returncode == 0:
        return GateResult("types", "passed")
    if done.returncode == 1 and found:
        return GateResult("types", "failed", found)
    why = (done.stderr or done.stdout).strip()[-500:]
    return GateResult("types", "error", (say("mypy did not run: {why}", why=why),))


def advise(path: Path) -> GateResult:
    """ruff's findings as advice: the outcome is passed unless ruff itself is missing."""
    command = [sys.executable, "-m", "ruff", *RUFF, "--output-format=json", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        rows = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return GateResult("ruff", "passed", (say("ruff did not run: {why}", why=error),))
    found = (f"{path.name}:{r['location']['row']} {r['code']} {r['message']}" for r in rows)
    return GateResult("ruff", "passed", tuple(found))
