"""One round of watch: a grade in a thread of its own, which a newer save may end at any moment.

Everything is told as it comes, with the round's number: what an ended round still says is known by
it. Leaves out: when a round starts (watch.py) and how it is shown (screen.py).
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from minituner.grading import child, practice, tools
from minituner.grading.clerk import Clerk, DeskLost
from minituner.grading.registry import Lab
from minituner.grading.report import GateResult, Report, TaskResult


@dataclass(frozen=True)
class Known:
    """What is known so far, and what goes on."""

    round: int
    tasks: tuple[TaskResult, ...]
    doing: str


@dataclass(frozen=True)
class Types:
    """What mypy says, whether or not the code is green yet."""

    round: int
    gate: GateResult


@dataclass(frozen=True)
class Finished:
    """The verdict."""

    round: int
    report: Report


@dataclass(frozen=True)
class Failed:
    """Something of ours broke."""

    round: int
    why: str


PARTS = min(2, os.cpu_count() or 1)  # children for a contract: more would wait for each other
Told = Known | Types | Finished | Failed
Tell = Callable[[Told], None]


class Superseded(Exception):
    """There is a newer save."""


class Typist:
    """mypy, one text after the other: in memory on Linux, else from its disk cache."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.clerk = Clerk() if sys.platform == "linux" else None
        self.pool = ThreadPoolExecutor(1)

    def __enter__(self) -> Typist:
        if self.clerk is not None:
            self.pool.submit(self._warm, self.clerk)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.clerk is not None:
            self.clerk.stop()  # first: whoever waits for an answer then has none to wait for
        self.pool.shutdown(cancel_futures=True)
        if self.clerk is not None:
            self.clerk.stop()  # a desk that started meanwhile

    def _warm(self, clerk: Clerk) -> None:
        with contextlib.suppress(DeskLost):  # it is asked again, and says so then
            clerk.prepare(self.lab)

    def check(self, star: Path, text: str) -> Future[GateResult]:
        """The types gate on a text, when its turn has come."""
        if self.clerk is None:
            return self.pool.submit(tools.check_types, star, text)
        return self.pool.submit(self.clerk.types, self.lab, text)


class Round:
    """One grade of what is on disk now."""

    def __init__(
        self, number: int, lab: Lab, submission: practice.Submission, typist: Typist, tell: Tell
    ) -> None:
        self.number, self.lab, self.submission = number, lab, submission
        self.typist, self.tell = typist, tell
        self.lock = threading.Lock()
        self.over = False
        self.ends: list[Callable[[], None]] = []
        self.types: Future[GateResult] | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self.thread.start()

    def end(self) -> None:
        """End it, its child and what that started; nothing it says counts any more."""
        with self.lock:
            self.over = True
            if self.types is not None:
                self.types.cancel()
            for end in self.ends:
                end()

    def _on_child(self, end: Callable[[], None]) -> None:
        with self.lock:
            if self.over:
                raise Superseded
            self.ends.append(end)

    def _run(self) -> None:
        try:
            text = self.submission.star.read_text(encoding="utf-8")
            self.types = self.typist.check(self.submission.star, text)
            self.types.add_done_callback(self._typed)
        except (OSError, UnicodeDecodeError, RuntimeError):
            pass  # the gates say what is wrong with the file
        try:
            report = practice.grade(
                self.lab,
                self.submission,
                progress=lambda tasks, doing: self.tell(Known(self.number, tasks, doing)),
                types=self._types,
                on_child=self._on_child,
                parts=PARTS,
            )
        except (Superseded, CancelledError):
            return
        except Exception as error:
            self.tell(Failed(self.number, repr(error)))
        else:
            self.tell(Finished(self.number, report))
            child.stock(PARTS)  # for the next save

    def _types(self, star: Path, text: str) -> GateResult:
        return tools.check_types(star, text) if self.types is None else self.types.result()

    def _typed(self, done: Future[GateResult]) -> None:
        if not done.cancelled() and done.exception() is None:
            self.tell(Types(self.number, done.result()))
