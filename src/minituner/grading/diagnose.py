"""Which planted bug a file behaves like: the misconception by name, not only the symptom.

Every planted bug (tests/mutants) was measured once with the exam's checks at a fixed seed: which of
them it fails, and what each showed. A file is compared with all of them, and with several at once.
Where one fits it is named; where two fit alike, both are; where none fits well, nothing is said.
Leaves out: measuring (behave.py in practice, sitting.py in the exam) and any point: this is advice.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from functools import cache
from math import isclose

from minituner.grading.claims import claims
from minituner.grading.registry import ROOT, Both, Lab
from minituner.grading.report import Result, TaskResult
from minituner.words import page, say

SEED = 28  # of every diagnosis: the planted bugs were measured with it
Signs = dict[str, str]  # check -> what it showed; "" where it passed; unwritten ones are not in it

SAME, OTHER_NUMBERS, OTHER_CLAIM = 1.0, 0.25, 0.1
LUCK, BAD_LUCK = (0.75, 0.2), 0.6  # numbers drawn: near, and more by the share that is not; far
PARTLY = (0.1, 0.75)  # other words: at least, and more by the share of them that agrees
MET = 0.5  # two bugs in one check: it may show neither as it is alone
MISSED = 1.5  # a failure that no bug explains, or a bug whose failure is not there
EACH = 0.9  # what one more bug has to explain away
TIE = 0.05  # two explanations this near are both told
FITS = (0.86, 0.7, 0.55)  # how alike on average a bug must be to be named, by how much it fails
MOST = 3  # bugs at once
BEAM = 24  # explanations that are carried on
WHOLE = 0.6  # and all of them together, over everything that fails
CLOSE = 0.02  # relative: two numbers are the same
NOISE = 1e-4  # below, numbers are rounding: alike within a factor of ROUNDING
ROUNDING = 4
LUCKY = 0.25  # the same where they depend on the luck of the draw
LONGEST = 240  # characters of one sign
CHANCE = "~"  # before a number that depends on the luck of the draw
NUMBER = re.compile(rf"(?<![\w.]){CHANCE}?(?:[-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|inf|nan))(?!\w)")
WORD = re.compile(r"[^\s,:;()\[\]'\"]+")
SAID = re.compile(r"""-> (['"]).*\1""", re.DOTALL)  # a message in the learner's own words


@dataclass(frozen=True, eq=False)
class Bug:
    """A planted bug: its sentence, the task it belongs to, and what it shows."""

    name: str
    pitfall: Both
    task: str
    signs: Mapping[str, str]  # only the checks it fails


def seen(results: Mapping[str, Result]) -> Signs:
    """The signs of what was judged; a check that lost its worker says nothing.

    A sign may quote the submission, so it is cut, and the mark of chance in it is not believed.
    """
    return {
        name: result.sign.replace(CHANCE, "")[:LONGEST]
        for name, result in results.items()
        if result.outcome == "passed" or result.sign
    }


@cache
def bugs(star: str) -> tuple[Bug, ...]:
    """Every planted bug of lora.py, say; none where the repository has been stripped of them."""
    planted = (ROOT / "tests" / "mutants" / star).with_suffix(".toml")
    measured = planted.with_suffix(".signs.json")
    if not (planted.is_file() and measured.is_file()):
        return ()
    signs = json.loads(measured.read_text(encoding="utf-8"))["signs"]
    rows = tomllib.loads(planted.read_text(encoding="utf-8"))["mutant"]
    known = [row for row in rows if row["name"] in signs]
    return tuple(
        Bug(row["name"], Both(**row["pitfall"]), row["killed_by"], signs[row["name"]])
        for row in known
    )


def alike(shown: str, planted: str) -> float:
    """How alike two signs of one check are, from 0 to 1."""
    claim, _, text = shown.partition(": ")
    wanted, _, other = planted.partition(": ")
    if claim != wanted:
        return OTHER_CLAIM
    text, other = SAID.sub("-> said", text), SAID.sub("-> said", other)
    if text == other.replace(CHANCE, ""):
        return SAME
    if {ending.rpartition("-> ")[2] for ending in (text, other)} == {"said", "None"}:
        return OTHER_NUMBERS  # one refuses, the other does not
    words, numbers = apart(text)
    other_words, other_numbers = apart(other)
    if words != other_words:
        return PARTLY[0] + PARTLY[1] * _agreeing(text, other)
    pairs = list(zip(numbers, other_numbers, strict=True))
    fixed = [pair for pair in pairs if not pair[1].startswith(CHANCE)]
    if not all(_close(one, two, CLOSE) for one, two in fixed):
        return OTHER_NUMBERS
    if len(fixed) == len(pairs):
        return SAME
    if all(_close(one, two.removeprefix(CHANCE), LUCKY) for one, two in pairs):
        return LUCK[0] + LUCK[1] * len(fixed) / len(pairs)
    return BAD_LUCK


def apart(text: str) -> tuple[str, list[str]]:
    """The text with its numbers taken out, and the numbers."""
    return NUMBER.sub("#", text), NUMBER.findall(text)


def _agreeing(one: str, two: str) -> float:
    """The share of the measured value's words that agree, in order."""
    first: list[str] = WORD.findall(one.rpartition(" = ")[2])
    second: list[str] = WORD.findall(two.rpartition(" = ")[2])
    if first and len(first) == len(second):
        return sum(a == b for a, b in zip(first, second, strict=True)) / len(first)
    return SequenceMatcher(None, first, second, autojunk=False).ratio()


def _close(one: str, two: str, nearness: float) -> bool:
    first, second = sorted((abs(float(one)), abs(float(two))))
    if first > 0 and second < NOISE:
        return second <= first * ROUNDING
    return one == two or isclose(float(one), float(two), rel_tol=nearness, abs_tol=1e-12)


class _Case:
    """One file against the bugs."""

    def __init__(self, seen: Signs, known: Iterable[Bug]) -> None:
        self.seen = seen
        self.red = [name for name, sign in seen.items() if sign]
        self.fit = {
            bug: {
                name: alike(seen[name], sign) if seen[name] else 0.0
                for name, sign in bug.signs.items()
                if name in seen
            }
            for bug in known
        }
        self.fit = {bug: fit for bug, fit in self.fit.items() if any(fit.values())}

    def cost(self, together: Sequence[Bug]) -> float:
        """What these bugs leave unexplained, and what they predict that is not there."""
        cost = EACH * len(together) + MISSED * len(self.red)
        for name, fit in self.fits_of(together).items():
            cost += 1 - fit - MISSED if self.seen[name] else MISSED
        return cost

    def fits_of(self, together: Sequence[Bug]) -> dict[str, float]:
        """How well each check fits the bugs that should fail it; only those that some should."""
        fits: dict[str, float] = {}
        for bug in together:
            for name, fit in self.fit[bug].items():
                # Where two meet, the check may show neither as it is alone.
                fits[name] = max(fits[name], fit, MET) if name in fits else fit
        return fits

    def whole(self, together: Sequence[Bug]) -> float:
        """How well all that fails is explained, on average."""
        fits = self.fits_of(together)
        return sum(fits.get(name, 0.0) for name in self.red) / len(self.red)

    def quality(self, bug: Bug) -> float:
        """How alike a bug is on average, over the checks it should fail."""
        fit = self.fit[bug]
        return sum(fit.values()) / len(fit)

    def fits(self, bug: Bug) -> bool:
        """Whether a bug may be named: the fewer checks speak for it, the clearer each must be."""
        return self.quality(bug) >= FITS[min(len(self.fit[bug]), len(FITS)) - 1]

    def explanation(self) -> tuple[Bug, ...]:
        """The bugs that cost the least together; none where nothing is better."""
        best: tuple[Bug, ...] = ()
        beam = [best]
        for _ in range(MOST):
            grown: dict[frozenset[Bug], tuple[Bug, ...]] = {}
            for together in beam:
                for bug in self.fit:
                    if bug not in together:
                        grown.setdefault(frozenset((*together, bug)), (*together, bug))
            beam = sorted(grown.values(), key=self.cost)[:BEAM]
            best = min([best, *beam[:1]], key=self.cost)
        return best


def name(seen: Signs, known: Iterable[Bug]) -> list[tuple[Bug, ...]]:
    """The bugs a file has; each with the other that fits as well, where there is one."""
    case = _Case(seen, known)
    if not case.red:
        return []
    best = case.explanation()
    if case.whole(best) < WHOLE:
        return []
    cost, named = case.cost(best), []
    for bug in best:
        others = [
            other
            for other in case.fit
            if other not in best
            and case.cost([other if b is bug else b for b in best]) <= cost + TIE
        ]
        if case.fits(bug) and len(others) <= 1:
            named.append((bug, *others))
    return named


def told(lab: Lab, tasks: Sequence[TaskResult], seen: Signs) -> tuple[TaskResult, ...]:
    """The tasks, each failed one with the misconception that explains it, where one is known."""
    if not seen:
        return tuple(tasks)
    said: dict[str, list[str]] = {}
    for group in name(seen, bugs(lab.star)):
        place = _place(lab, tasks, group[0])
        if place:
            said.setdefault(place, []).append(_sentence(lab, group))
    return tuple(
        replace(task, misconception="; ".join(said[task.id])) if task.id in said else task
        for task in tasks
    )


def _place(lab: Lab, tasks: Sequence[TaskResult], bug: Bug) -> str:
    """The task a bug belongs to, if its tests fail, or the first that it makes fail.

    Its own task may be blocked: by one that fails only because of it.
    """
    mine = {lab.task_of()[check] for check in bug.signs}
    red = [t.id for t in tasks if t.outcome in ("failed", "blocked") and t.test and t.id in mine]
    failed = [task.id for task in tasks if task.outcome == "failed" and task.id in red]
    return bug.task if bug.task in red else next(iter(failed), "")


def _sentence(lab: Lab, group: Sequence[Bug]) -> str:
    """The pitfall in words, and where to read: the lab page, and theory where a claim cites it."""
    sentences = say(" or ").join(str(bug.pitfall) for bug in group)
    where = [f"{page(lab.page)} {lab.task(group[0].task).pitfall}"]
    said = claims(ROOT / lab.contract)
    cited = [read for check in group[0].signs for _, read in said[check]]
    where += [page(read) for read in cited if read.startswith("theory/")][:1]
    return f"{sentences} ({', '.join(where)})"
