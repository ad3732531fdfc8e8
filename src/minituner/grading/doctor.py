"""Is this machine fit to grade? Python, the pinned tools, and the reference at full marks.

Leaves out: cures that change anything; it only says what to do.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from minituner.grading import practice
from minituner.grading.registry import ROOT, RegistryError, labs
from minituner.words import say

OLDEST = (3, 11)


@dataclass(frozen=True)
class Check:
    """One line of the doctor's: what was found, and what to do when it is not well."""

    ok: bool
    said: str
    cure: str = ""


def examine() -> Iterator[Check]:
    """Each check as soon as it is made."""
    have = ".".join(map(str, sys.version_info[:3]))
    ok = sys.version_info >= OLDEST
    yield Check(ok, f"Python {have}", "" if ok else say("use Python 3.11 or newer, then: make lab"))
    yield from _tools()
    try:
        registry = labs()
    except RegistryError as error:
        yield Check(False, str(error))
        return
    for lab in registry.values():
        if not (ROOT / lab.reference).is_file():
            said = say("{path} is not here: the reference was not graded", path=lab.reference)
            yield Check(True, said)
            continue
        report = practice.grade(lab, practice.find(lab, "reference"))
        said = say(
            "lab {lab}: the reference gets {score}/{most} in {seconds} s",
            lab=lab.id,
            score=report.score,
            most=report.max_score,
            seconds=round(report.duration_s, 1),
        )
        red = next((t for t in report.tasks if t.outcome != "passed"), None)
        cure = "" if red is None else f"{red.id} {red.outcome}: {red.message.strip()}"
        yield Check(red is None, said, cure)


def _tools() -> Iterator[Check]:
    found = practice.versions()
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        tool, _, pinned = line.partition("==")
        if tool in practice.TOOLS:
            ok = found[tool].partition("+")[0] == pinned
            cure = "" if ok else say("expected {pinned}; run: make lab", pinned=pinned)
            yield Check(ok, f"{tool} {found[tool]}", cure)
