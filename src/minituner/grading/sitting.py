"""One submission through a lab's checks: a worker, one check after another, a result for each.

A worker that ends, hangs or talks nonsense costs the check in progress and what is left of its
task; the next check gets a fresh one. Leaves out: gates, notes and points (exam.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from minituner.grading.checks.asking import Asking, Wrong
from minituner.grading.claims import claims
from minituner.grading.host import CPU_SECONDS, Box
from minituner.grading.peer import Broken, Lost, Peer, Raised
from minituner.grading.registry import ROOT, Lab
from minituner.grading.report import Result
from minituner.words import failure, say

NEXT_CPU_SECONDS = 2  # a worker's after the first loss: many loops must not take many times as long
Check = Callable[[Asking], None]


@dataclass
class Sitting:
    """What came of it: a result a test, or why the file cannot be run at all."""

    tests: dict[str, Result] = field(default_factory=dict)
    unrunnable: str = ""


class Room:
    """The workers of one submission; a context manager that leaves none behind."""

    def __init__(self, box: Box, lab: Lab, source: str) -> None:
        self.box, self.lab, self.source = box, lab, source
        self.module = f"minituner.{lab.star.removesuffix('.py')}"
        self.first: Peer | None = None
        self.others: list[Peer] = []
        self.losses = 0
        self.far: Peer | None = None

    def __enter__(self) -> Room:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def fresh(self) -> Peer:
        """A worker that has just loaded the submission.

        Raises:
            Raised, Lost: the submission's doing. Broken: ours.
        """
        seconds = NEXT_CPU_SECONDS if self.losses else CPU_SECONDS
        peer = self.box.worker(cpu_seconds=seconds)
        self.others.append(peer)
        peer.load(self.module, self.lab.star, self.source)
        return peer

    def worker(self) -> Peer:
        """The one that most checks share."""
        if self.first is None:
            self.first = self.fresh()
        self.first.forget()
        return self.first

    def another(self) -> Peer:
        """One in which nothing but the submission's import, and earlier loads, has happened."""
        if self.far is None or self.far.lost:
            self.far = self.fresh()
        self.far.forget()
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
    found = Sitting()
    task_of, over, retried = lab.task_of(), dict[str, str](), False
    order = list(checks)
    random.Random(seed).shuffle(order)
    with Room(box, lab, source) as room:
        try:
            room.worker()
        except (Raised, Lost) as error:
            found.unrunnable = _why(error)
            return found
        box.stock()  # the next submission's, while this one is judged
        for name in order:
            task = task_of[name]
            if task in over:
                found.tests[name] = Result("failed", over[task])
                continue
            result = _one(room, lab, name, checks[name], seed)
            if isinstance(result, Lost) and result.idle and not retried:
                retried = True
                room.clear()  # alone this time: time that others used is not its doing
                result = _one(room, lab, name, checks[name], seed)
            if isinstance(result, Lost):
                room.clear()
                room.losses += 1
                over[task] = say("not run, because of an earlier test") + f": {name}\n{result}"
                result = Result("failed", str(result))
            found.tests[name] = result
    return found


def _one(room: Room, lab: Lab, name: str, check: Check, seed: int) -> Result | Lost:
    """One check; Lost where its worker is."""
    own = random.Random(f"{seed}:{name}").randrange(2**31)
    try:
        check(Asking(room.worker(), room.module, own, room.another))
    except Wrong as wrong:
        causes = claims(ROOT / lab.contract)[name]
        cause, read = causes[min(wrong.nth, len(causes) - 1)]
        return Result("failed", failure(wrong.measured, wrong.expected, cause, read))
    except Raised as error:
        return _raised(lab, error)
    except Lost as lost:
        return lost
    except Broken:
        raise
    except Exception as error:
        # The canary passed this check: what came back here is no layer's answer.
        kind = type(error).__name__
        return Result("failed", say("the reply was not what was asked for ({kind})", kind=kind))
    return Result("passed")


def _raised(lab: Lab, error: Raised) -> Result:
    if "NotImplementedError" in error.kinds:
        return Result("todo", lab.todo(error.said), error.where)
    return Result("failed", _why(error), error.where)


def _why(error: Raised | Lost) -> str:
    if isinstance(error, Lost):
        return str(error)
    kind = error.kinds[0] if error.kinds else "?"
    return "\n".join(filter(None, (error.where, f"{kind}: {error.said}")))
