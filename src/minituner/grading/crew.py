"""What a cohort's worker does: one submission after another, with one Examiner for its life.

Paths go in and reports as JSON come out. A fault of the grader is tried again with a new Examiner;
a worker whose run was killed, or whose grader hangs, ends itself.
Leaves out: where workers come from (engines.py), where results lie (cache.py).
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from minituner.grading.cache import Asked, Reader, Result, Source
from minituner.grading.registry import Lab
from minituner.grading.report import Report
from minituner.words import VARIABLE, say

ATTEMPTS = 2
HUNG_SECONDS = 1200.0  # far above every limit of the exam: only a grader that hangs gets there
LOOK_SECONDS = 0.5


class Session(Protocol):
    """What the exam offers: one examiner holds one box and one clerk."""

    def __enter__(self) -> Session: ...
    def __exit__(self, *args: Any) -> object: ...  # Any: whatever with hands over
    def examine(self, submission: Path, *, seed: int | None = None) -> Report: ...


@dataclass(frozen=True)
class Order:
    """What every worker of one run is told; it is pickled, so functions stand in modules."""

    run: str  # tells this run's examiner from an earlier run's in the same process
    chief: int  # process id of whoever gives the order
    lab: Lab
    folder: Path
    asked: Asked
    make: Callable[[Lab, str], Session]
    reader: Reader


@dataclass(frozen=True)
class Graded:
    """A worker's answer. Without a report `error` says why; `started`: an examiner was there."""

    name: str
    source: Source
    report: Result | None
    error: str = ""
    started: bool = True


def examiner(lab: Lab, require: str) -> Session:
    """The exam itself; imported by the workers only, when they need it."""
    from minituner.grading.exam import Examiner

    return Examiner(lab, require=require)


class _Desk:
    """This process's examiner and what guards it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()  # Dask may run several threads in one process
        self.run = ""
        self.examiner: Session | None = None
        self.began: float | None = None
        self.guarded = False

    def open(self, order: Order) -> Session:
        if self.examiner is None or self.run != order.run:
            self.close()
            self.examiner = order.make(order.lab, order.asked.require).__enter__()
            self.run = order.run
        return self.examiner

    def close(self) -> None:
        examiner, self.examiner = self.examiner, None
        if examiner is not None:
            with suppress(Exception):  # it is being thrown away; its verdicts are already out
                examiner.__exit__(None, None, None)

    def guard(self, chief: int) -> None:
        """In a worker process only: end it when it is orphaned or hangs."""
        if not self.guarded and os.getpid() != chief:
            self.guarded = True
            threading.Thread(target=self._look, args=(os.getppid(),), daemon=True).start()

    def _look(self, parent: int) -> None:
        while os.getppid() == parent:
            began = self.began
            if began is not None and time.monotonic() - began > HUNG_SECONDS:
                break
            time.sleep(LOOK_SECONDS)
        os._exit(70)  # the main thread may be stuck: nothing gentler ends it for certain


desk = _Desk()
atexit.register(desk.close)


def grade_one(order: Order, name: str) -> Graded:
    """One submission's verdict, from this process's examiner; never raises for a grader's fault."""
    os.environ[VARIABLE] = order.asked.language
    with desk.lock:
        desk.guard(order.chief)
        desk.began = time.monotonic()
        try:
            for _ in range(ATTEMPTS):
                graded = _attempt(order, name)
                if not graded.error:
                    break
                desk.close()
        finally:
            desk.began = None
    return graded


def _attempt(order: Order, name: str) -> Graded:
    path, source = order.folder / name, Source("", "")
    try:
        source = order.reader(order.lab, path)
        try:
            examiner = desk.open(order)
        except Exception as error:
            why = " ".join(str(error).split()) or type(error).__name__
            return Graded(name, source, None, why, started=False)
        report = examiner.examine(path, seed=order.asked.seed)
        if fault := _fault(report):
            return Graded(name, source, None, fault)
        if order.reader(order.lab, path).digest != source.digest:
            changed = say("the submission changed while it was graded; run the same command again")
            return Graded(name, source, None, changed)
    except Exception as error:
        return Graded(name, source, None, fault_line(named(error)))
    return Graded(name, source, report.to_json())


def _fault(report: Report) -> str:
    """What of ours is broken, in one line; empty for a verdict."""
    for task in report.tasks:
        if task.outcome == "error":
            return fault_line(f"{task.id}: {task.message}")
    for gate in report.gates:
        if gate.outcome == "error":
            return fault_line(f"{gate.id}: {' '.join(gate.findings)}")
    return ""


def named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def fault_line(why: str) -> str:
    return say("the grader failed, try again later: {why}", why=" ".join(why.split())[:500])
