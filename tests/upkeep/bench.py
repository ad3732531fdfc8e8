"""`make bench`: what the exam costs, beside the commands one would type instead, in one run.

    python tests/upkeep/bench.py [ROUNDS]

Cold and warm take turns, so that a busy machine slows both; the table gives medians and ratios.
Start-up of the warm session is told apart. Leaves out: a promise; machines differ, ratios less.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial

from harness import LAB, REFERENCE
from rich.console import Console
from rich.table import Table

from minituner.grading.checks.lab00 import CHECKS
from minituner.grading.exam import Examiner
from minituner.grading.registry import ROOT
from minituner.grading.sitting import sit

EMPTY_ROUNDS = 5  # of mypy with an empty cache: each takes as long as fifty examined submissions
Timed = dict[str, list[float]]


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def command(*words: str) -> Callable[[], object]:
    """A fresh process; it has to succeed, or its time means nothing."""
    line = [sys.executable, "-m", *words]
    return lambda: subprocess.run(line, cwd=ROOT, check=True, capture_output=True)


def contract() -> Callable[[], object]:
    return command("pytest", "-k", "lora", "--impl=reference", "--device=cpu", "-q")


def types(cache: str) -> Callable[[], object]:
    return command("mypy", "--strict", f"--cache-dir={cache}", str(REFERENCE))


def measure(rounds: int) -> tuple[Timed, float]:
    """Seconds of each kind of run, and of the session's start."""
    took: Timed = {name: [] for name in ("exam", "whole", "pytest", "mypy", "ruff", "mypy empty")}
    source = REFERENCE.read_text(encoding="utf-8")
    ruff = command("ruff", "check", str(REFERENCE))
    with tempfile.TemporaryDirectory() as warm_cache:
        types(warm_cache)()
        started = time.perf_counter()
        with Examiner(LAB) as examiner:
            start = time.perf_counter() - started
            for index in range(rounds):
                took["exam"].append(seconds(partial(sit, examiner.box, LAB, CHECKS, source, index)))
                took["whole"].append(seconds(lambda: examiner.examine(ROOT / "solutions")))
                took["pytest"].append(seconds(contract()))
                took["mypy"].append(seconds(types(warm_cache)))
                took["ruff"].append(seconds(ruff))
                if index < EMPTY_ROUNDS:
                    with tempfile.TemporaryDirectory() as empty:
                        took["mypy empty"].append(seconds(types(empty)))
    return took, start


def table(took: Timed, start: float) -> Sequence[tuple[str, str, str]]:
    """(what, median, ratio to the warm session) rows."""
    mid = {name: statistics.median(values) for name, values in took.items()}
    commands = mid["pytest"] + mid["ruff"]
    cold, warm = commands + mid["mypy empty"], commands + mid["mypy"]
    return (
        ("exam of the reference, checks only", f"{mid['exam']:.3f} s", ""),
        ("  cold pytest -k lora", f"{mid['pytest']:.3f} s", f"{mid['pytest'] / mid['exam']:.1f}×"),
        ("whole pipeline: gates, checks, notes, types", f"{mid['whole']:.3f} s", ""),
        ("  pytest, mypy (empty cache), ruff", f"{cold:.3f} s", f"{cold / mid['whole']:.1f}×"),
        ("  pytest, mypy (warm cache), ruff", f"{warm:.3f} s", f"{warm / mid['whole']:.1f}×"),
        ("submissions a second and core", f"{1 / mid['whole']:.1f}", ""),
        ("start of a session, its canary included", f"{start:.1f} s", ""),
    )


if __name__ == "__main__":
    turns = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    shown = Table("what", "median", "beside it", title=f"medians of {turns} rounds", box=None)
    for row in table(*measure(turns)):
        shown.add_row(*row)
    Console(highlight=False).print(shown)
