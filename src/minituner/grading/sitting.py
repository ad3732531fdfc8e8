"""One submission through a lab's checks: a worker, and a result for each check.

A worker that ends, hangs or talks nonsense costs the check that waited for it and what is left of
its task; from then on the checks come one by one, each after a loss with a fresh worker.
Leaves out: how checks share a worker (stream.py); gates, notes and points (exam.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from minituner.grading.asked import Check, Done, own, put, why
from minituner.grading.checks.asking import Asking
from minituner.grading.host import CPU_SECONDS, Box
from minituner.grading.peer import Lost, Peer, Raised
from minituner.grading.registry import Lab
from minituner.grading.report import Result
from minituner.grading.stream import Lane, stream
from minituner.grading.talk import Exchange
from minituner.words import say

NEXT_CPU_SECONDS = 2  # a worker's after the first loss: many loops must not take many times as long
BESIDE = 8  # checks that the first worker has done when the second begins


@dataclass
class Sitting:
    """What came of it: a result a test, or why the file cannot be run at all."""

    tests: dict[str, Result] = field(default_factory=dict)
    unrunnable: str = ""


class Room:
    """The workers of one submission; a context manager that leaves none behind."""

    def __init__(self, box: Box, lab: Lab, source: str) -> None:
        self.box, self.lab, self.source = box, lab, source
        self.module = lab.module
        self.first: Peer | None = None
        self.others: list[Peer] = []
        self.losses = 0
        self.far: Peer | None = None

    def __enter__(self) -> Room:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def begun(self, cpu_seconds: float = CPU_SECONDS) -> Peer:
        """A worker that is loading the submission.

        Raises:
            Broken: ours.
        """
        seconds = NEXT_CPU_SECONDS if self.losses else cpu_seconds
        peer = self.box.worker(cpu_seconds=seconds)
        self.others.append(peer)
        peer.begin(self.module, self.lab.star, self.source)
        return peer

    def fresh(self, cpu_seconds: float = CPU_SECONDS) -> Peer:
        """A worker that has just loaded the submission.

        Raises:
            Raised, Lost: the submission's doing. Broken: ours.
        """
        peer = self.begun(cpu_seconds)
        peer.loaded()
        return peer

    def pair(self) -> None:
        """The two workers that most checks use, loading at the same time.

        Raises:
            Raised, Lost: by the first. The second may be missing. Broken: ours.
        """
        first, far = self.begun(), self.begun()
        first.loaded()
        self.first = first
        with suppress(Raised, Lost):
            far.loaded()
            self.far = far

    def worker(self) -> Peer:
        """The one that most checks share."""
        if self.first is None:
            self.first = self.fresh()
        return self.first

    def another(self) -> Peer:
        """One in which nothing but the submission's import, and earlier loads, has happened."""
        if self.far is None or self.far.lost:
            self.far = self.fresh()
        return self.far

    def clear(self) -> None:
        """End every worker."""
        for peer in self.others:
            peer.close()
        self.first, self.far, self.others = None, None, []


def sit(box: Box, lab: Lab, checks: Mapping[str, Check], source: str, seed: int) -> Sitting:
    """Every check of the lab against the source.

    Raises:
        Broken: the box failed; no fault of the submission.
    """
    order = list(checks)
    random.Random(seed).shuffle(order)
    with Room(box, lab, source) as room:
        found = _sat(room, checks, order, partial(_one, room, lab, checks, seed))
    box.stock()  # the next submission's
    return found


def _sat(
    room: Room, checks: Mapping[str, Check], order: Sequence[str], one: Callable[..., Done]
) -> Sitting:
    few = len(order) <= BESIDE and not any(wants_another(checks[name]) for name in order)
    try:
        room.worker() if few else room.pair()  # a second worker would find nothing to do
    except (Raised, Lost) as error:
        return Sitting(unrunnable=why(error))
    found, marks = _together(room, checks, order, one), _Marks(room, one)
    for name in order:
        if name in found:
            marks.settle(name, found[name])
    for name in order:  # what a lost worker has left, one after the other
        if name not in found:
            marks.alone(name)
    return Sitting(marks.tests)


def wants_another(check: Check) -> bool:
    """Whether it asks for a worker that has met no check."""
    return "another" in check.__code__.co_names


def _together(
    room: Room, checks: Mapping[str, Check], order: Sequence[str], one: Callable[..., Done]
) -> dict[str, Done]:
    """Checks through two workers at once, as far as nothing is lost.

    Those that want another worker come first: it must have met no check until they have ended, and
    takes its share from there on.
    """
    fresh = [name for name in order if wants_another(checks[name])]
    rest = [name for name in order if name not in fresh]
    if room.far is None:
        return stream([Lane[Result](room.worker(), fresh + rest)], one)
    share = max(0, len(rest) - BESIDE) // 2
    first = Lane[Result](room.worker(), fresh + rest[share:])
    return stream([first, Lane[Result](room.far, rest[:share], after=fresh)], one)


class _Marks:
    """What has come of the checks so far, and which tasks are over."""

    def __init__(self, room: Room, one: Callable[..., Done]) -> None:
        self.room, self.one, self.task_of = room, one, room.lab.task_of()
        self.tests: dict[str, Result] = {}
        self.over: dict[str, str] = {}
        self.retried = False

    def alone(self, name: str) -> None:
        """A check with nothing beside it, unless its task is over."""
        task = self.task_of[name]
        if task in self.over:
            self.tests[name] = Result("failed", self.over[task])
        else:
            self.settle(name, self.one(name))

    def settle(self, name: str, result: Done) -> None:
        """Note a result; where the worker is lost, give it one more try or end the task."""
        if isinstance(result, Lost) and result.idle and not self.retried:
            self.retried = True
            self.room.clear()  # alone this time: time that others used is not its doing
            result = self.one(name)
        if isinstance(result, Lost):
            self.room.clear()
            self.room.losses += 1
            said = say("not run, because of an earlier test")
            self.over[self.task_of[name]] = f"{said}: {name}\n{result}"
            result = Result("failed", str(result))
        self.tests[name] = result


def _one(
    room: Room,
    lab: Lab,
    checks: Mapping[str, Check],
    seed: int,
    name: str,
    worker: Peer | None = None,
    exchange: Exchange | None = None,
) -> Done:
    """One check; Lost where its worker is."""

    def asking() -> Asking:
        peer = worker or room.worker()
        return Asking(peer, room.module, own(seed, name), room.another, exchange)

    return put(lab, name, checks[name], asking)
