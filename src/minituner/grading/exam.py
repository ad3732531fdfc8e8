"""`minituner exam`: the authoritative verdict. This process never runs a line of a submission.

One session holds a box (host.py) and a clerk; it grades the reference first, and unless that gets
full marks it grades nothing. Source goes in, frames come back, and the judgement happens here.
Leaves out: how a report is shown (card.py, formats) and many submissions (cohort.py).
"""

from __future__ import annotations

import gc
import hashlib
import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch

from minituner.grading.asked import Check
from minituner.grading.clerk import Clerk
from minituner.grading.diagnose import SEED, Signs, seen, told
from minituner.grading.host import CPU_SECONDS, GIVEN, Box
from minituner.grading.intake import Gathered, Refusal, gather
from minituner.grading.levels import at_least
from minituner.grading.notes import absent, judged, read
from minituner.grading.peer import Broken, Lost, Peer, Raised, clean
from minituner.grading.practice import versions
from minituner.grading.registry import ROOT, Lab
from minituner.grading.report import GateResult, Report, Result, code_is_green, judge
from minituner.grading.sitting import Room, sit
from minituner.words import say

BOM = "\ufeff"


class Unfit(Exception):
    """Nothing can be graded here: no box, too weak a level, or the reference is not green."""


@dataclass(frozen=True)
class Paper:
    """What the exam of one lab consists of."""

    checks: dict[str, Check]
    measure: Callable[[Peer], dict[str, str]]
    seconds: int  # of CPU time that measuring may take


def paper(lab: Lab) -> Paper:
    """The checks and the measuring of a lab: checks/labNN.py."""
    module = import_module(f"minituner.grading.checks.lab{lab.id}")
    seconds: int = getattr(module, "MEASURE_SECONDS", CPU_SECONDS)
    return Paper(module.CHECKS, module.measure, seconds)


class Examiner:
    """One session; a context manager that leaves no process behind.

    Args:
        require: the weakest level of isolation to grade at (practice, standard, authoritative).
        warm: keep mypy in memory; False is quicker for a single submission.
        layers: exactly these walls, for the tests of a single one.
        box, clerk: open already, and kept open: sessions one after the other share what takes
            seconds to start. By default the session's own.
    Raises:
        Unfit: on entering; nothing has been graded.
    """

    def __init__(
        self,
        lab: Lab,
        *,
        require: str = "practice",
        warm: bool = True,
        layers: Sequence[str] | None = None,
        box: Box | None = None,
        clerk: Clerk | None = None,
    ) -> None:
        self.lab, self.require = lab, require
        self.paper = paper(lab)
        self.box = Box(GIVEN, layers) if box is None else box
        self.clerk = Clerk(warm=warm) if clerk is None else clerk
        self.own = [one for one in (self.clerk, self.box) if one not in (box, clerk)]
        self.open = ExitStack()

    def __enter__(self) -> Examiner:
        torch.set_num_threads(1)  # its matrices are small: two threads take twice the time
        try:
            for one in self.own:
                self.open.enter_context(one)
            self._be_fit()
            gc.freeze()  # what a session holds stays: no need to look through it again
        except Broken as error:
            self.open.close()
            raise Unfit(str(error)) from None
        except BaseException:
            self.open.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.open.close()

    def _be_fit(self) -> None:
        level = self.box.level
        if not at_least(level, self.require):
            raise Unfit(
                say(
                    "isolation: expected at least {want}, this machine reaches {level}; "
                    "minituner exam --require {level} accepts that",
                    want=self.require,
                    level=level,
                )
            )
        if not (ROOT / self.lab.reference).is_file():
            raise Unfit(
                say(
                    "{path} is not here; the exam grades the reference first and needs it",
                    path=self.lab.reference,
                )
            )
        canary = self.examine(ROOT / "solutions")
        if canary.score != canary.max_score:
            first = next(task for task in canary.tasks if task.outcome != "passed")
            raise Unfit(
                say(
                    "the reference gets {score}/{most} ({task}: {why}), so nothing is graded",
                    score=canary.score,
                    most=canary.max_score,
                    task=first.id,
                    why=first.message.strip() or first.outcome,
                )
            )

    def examine(self, submission: Path, *, seed: int | None = None) -> Report:
        """The verdict on one submission, a folder or a file.

        Raises:
            intake.NoSubmission: there is none.
        """
        started = time.monotonic()
        seed = random.SystemRandom().randrange(2**31) if seed is None else seed
        gathered = gather(self.lab, submission)
        verdict = _Verdict(self, gathered, seed)
        verdict.reach()
        return Report.of(
            self.lab,
            told(self.lab, judge(self.lab, verdict.tests, verdict.gates), verdict.signs),
            verdict.gates,
            file=gathered.label,
            isolation=self.box.level,
            seed=seed,
            versions=versions(),
            started=started,
        )


class _Verdict:
    """Gates, checks, notes and types of one submission, as far as each is reached."""

    def __init__(self, examiner: Examiner, gathered: Gathered, seed: int) -> None:
        self.examiner, self.gathered, self.seed = examiner, gathered, seed
        self.lab, self.box, self.paper = examiner.lab, examiner.box, examiner.paper
        self.gates: dict[str, GateResult] = {}
        self.tests: dict[str, Result] = {}
        self.signs: Signs = {}

    def reach(self) -> None:
        star = self.gathered.star
        if isinstance(star, Refusal):
            self.gates["source"] = GateResult("source", "failed", (star.line,), ("*",))
            return
        self.gates |= self.examiner.clerk.review(self.lab, star)
        if self.gates["source"].outcome != "passed":
            return
        try:
            sitting = sit(self.box, self.lab, self.paper.checks, star, self.seed)
        except Broken as error:
            self.gates["exam"] = GateResult("exam", "error", (str(error),))
            return
        self.tests = sitting.tests
        if sitting.unrunnable:
            self.gates["import"] = GateResult("import", "failed", (sitting.unrunnable,), ("*",))
        elif code_is_green(self.lab, judge(self.lab, self.tests, self.gates)):
            self.gates["notes"] = self._notes(star)
            self.gates["types"] = self.examiner.clerk.types(self.lab, star)
        else:
            self.signs = self._signs(star)

    def _signs(self, star: str) -> Signs:
        """What the checks show at the seed of every diagnosis; nothing where one was lost."""
        failed = [test for test in self.tests.values() if test.outcome == "failed"]
        if not failed or not all(test.sign for test in failed):
            return {}
        written = [name for name, test in self.tests.items() if test.outcome != "todo"]
        checks = {name: self.paper.checks[name] for name in written}
        try:
            tests = sit(self.box, self.lab, checks, star, SEED).tests
        except Broken:  # advice is not worth an error
            return {}
        return seen(tests)

    def _notes(self, star: str) -> GateResult:
        """The notes against a fresh measurement, from a worker of its own."""
        notes = self.gathered.notes
        if isinstance(notes, Refusal):
            return GateResult("notes", "failed", (notes.line,))
        if notes is None:
            return absent(self.lab.notes)
        try:
            with Room(self.box, self.lab, star) as room:
                measured = self.paper.measure(room.fresh(self.paper.seconds))
        except (Raised, Lost) as error:
            return GateResult("notes", "failed", (str(error),))
        except Broken as error:
            return GateResult("notes", "error", (str(error),))
        except Exception as error:  # the canary was measured: this is the submission's answer
            kind = type(error).__name__
            said = say("the reply was not what was asked for ({kind})", kind=kind)
            return GateResult("notes", "failed", (said,))
        written = {key: clean(value, 80) for key, value in read(notes).items()}
        digests = [hashlib.sha256((mark + star).encode()).hexdigest() for mark in ("", BOM)]
        key = self.lab.digest_key
        known = written.get(key, "")
        measured[key] = known if known in digests else digests[0]
        return judged(self.lab, written, measured)
