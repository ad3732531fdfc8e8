"""`make bench`: from a save to the verdict in watch, beside the commands one would type.

    python tests/upkeep/bench_watch.py [ROUNDS]

The file is the reference, saved with another comment each time, without notes. The floor is the
same tests by pytest in a process that has run them before: no fork, no wire, nothing to start.
Leaves out: a promise; machines differ, ratios less.
"""

from __future__ import annotations

import contextlib
import io
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from bench import EMPTY_ROUNDS, Timed, command, contract, seconds, types
from harness import LAB, REFERENCE
from rich.console import Console
from rich.table import Table

from minituner.grading import practice, relay
from minituner.grading.child import start
from minituner.grading.registry import ROOT
from minituner.watch import Watch

WAIT = 60.0  # seconds for one verdict
KINDS = ("tests", "whole", "pytest", "mypy", "mypy empty", "ruff", "floor")


def floor(wire: Connection, rounds: int) -> None:
    """Entry point of the process that runs the contract over and over: seconds of each run."""
    relay.hush(ROOT)
    for index in range(rounds + 1):
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            args = [LAB.contract, f"--impl={REFERENCE}", f"--randomly-seed={index}"]
            args += ["--device=cpu", f"--basetemp={folder}/t", *relay.PLUGINS, "-q"]
            took = seconds(partial(pytest.main, args))
        wire.send(took)


def save(watch: Watch, star: Path, index: int) -> tuple[float, float]:
    """Seconds from a save to the tests' verdict, and to the whole."""
    text = REFERENCE.read_text(encoding="utf-8") + f"# {index} {os.urandom(4).hex()}\n"
    before, started = watch.number, time.perf_counter()
    star.write_text(text, encoding="utf-8")

    def until(there: Callable[[], bool]) -> float:
        while not there():
            if time.perf_counter() - started > WAIT:
                raise TimeoutError("no verdict")
            time.sleep(0.001)
        return time.perf_counter() - started

    until(lambda: watch.number > before)
    tests = until(lambda: watch.state.tests_s is not None)
    return tests, until(lambda: watch.state.whole_s is not None)


def drive(watch: Watch, star: Path, rounds: int, took: Timed) -> None:
    """Saves and cold commands take turns."""
    ruff = command("ruff", "check", str(REFERENCE))
    try:
        while watch.state.whole_s is None:
            time.sleep(0.05)
        save(watch, star, -1)
        with tempfile.TemporaryDirectory() as warm:
            types(warm)()
            for index in range(rounds):
                tests, whole = save(watch, star, index)
                took["tests"].append(tests)
                took["whole"].append(whole)
                took["pytest"].append(seconds(contract()))
                took["mypy"].append(seconds(types(warm)))
                took["ruff"].append(seconds(ruff))
                if index < EMPTY_ROUNDS:
                    with tempfile.TemporaryDirectory() as empty:
                        took["mypy empty"].append(seconds(types(empty)))
    finally:
        watch.events.put(("key", "q"))


def measure(rounds: int) -> Timed:
    took: Timed = {name: [] for name in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        star = Path(folder) / LAB.star
        star.write_text(REFERENCE.read_text(encoding="utf-8"), encoding="utf-8")
        silent = Console(file=io.StringIO(), width=80)
        watch = Watch(LAB, practice.Submission(star, None), silent)
        driver = threading.Thread(target=drive, args=(watch, star, rounds, took))
        driver.start()
        watch.run()
        driver.join()
    wire, child = start("bench_watch:floor", rounds)
    for index in range(rounds + 1):
        once = wire.recv()
        if index:
            took["floor"].append(once)
    child.join()
    return took


def table(took: Timed) -> list[tuple[str, str, str]]:
    mid = {name: statistics.median(values) for name, values in took.items()}
    commands = mid["pytest"] + mid["ruff"]
    cold, warm = commands + mid["mypy empty"], commands + mid["mypy"]
    tests, whole = mid["tests"], mid["whole"]
    return [
        ("save → the tests' verdict", f"{tests:.3f} s", ""),
        ("  cold pytest -k lora", f"{mid['pytest']:.3f} s", f"{mid['pytest'] / tests:.1f}×"),
        (
            "  the same tests in-process",
            f"{mid['floor']:.3f} s",
            f"{tests / mid['floor']:.2f} of it",
        ),
        ("save → everything: gates, tests, mypy, ruff", f"{whole:.3f} s", ""),
        ("  pytest, mypy (empty cache), ruff", f"{cold:.3f} s", f"{cold / whole:.1f}×"),
        ("  pytest, mypy (warm cache), ruff", f"{warm:.3f} s", f"{warm / whole:.1f}×"),
    ]


def main() -> None:
    turns = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    shown = Table("watch", "median", "beside it", title=f"medians of {turns} saves", box=None)
    for row in table(measure(turns)):
        shown.add_row(*row)
    Console(highlight=False).print(shown)


if __name__ == "__main__":
    import bench_watch  # under its own name, so that a child finds `floor`

    bench_watch.main()
