"""What every form says in words: a headline, the gates, and a text for each task.

Leaves out: markup. The words are plain text; a form quotes them as its platform needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from minituner.grading.registry import Lab
from minituner.grading.report import Report, TaskResult, advice, elsewhere, word
from minituner.words import page, say

GRADES = ("standard", "authoritative")  # isolation levels whose verdict is a grade


@dataclass(frozen=True)
class Row:
    """One task as people read it."""

    task: TaskResult
    title: str
    word: str  # the outcome
    text: str  # why, where and what to read; empty when passed

    @property
    def name(self) -> str:
        return f"{self.task.id} · {self.title}"

    @property
    def ok(self) -> bool:
        return self.task.outcome == "passed"


def broken(report: Report) -> bool:
    """Something of ours failed: no form may show a score."""
    return report.exit_code == 2


def rows(report: Report, lab: Lab) -> tuple[Row, ...]:
    """Every task of the report, in its order."""
    green = {task.id for task in report.tasks if task.outcome == "passed"}
    found = []
    for task in report.tasks:
        waits = [need for need in lab.task(task.id).needs if need not in green]
        title, said = str(lab.task(task.id).title), word(task.outcome)
        found.append(Row(task, title, said, _text(task, lab, waits)))
    return tuple(found)


def _text(task: TaskResult, lab: Lab, waits: list[str]) -> str:
    if task.outcome == "passed":
        return ""
    # Quiet where the task it waits for says what is wrong.
    if task.outcome == "blocked" and waits and not task.misconception:
        return say("waits for {tasks}", tasks=", ".join(waits))
    parts = [task.message]
    if task.misconception:
        parts.append(say("this looks like: {what}", what=task.misconception))
    if task.where:
        parts.append(say("your line: {where}", where=task.where))
    if task.outcome in ("failed", "todo") and f"{say('read')}:" not in task.message:
        parts.append(f"{say('read')}: {page(lab.page)} {task.id}, {lab.task(task.id).pitfall}")
    return "\n".join(filter(None, parts))


def heading(lab: Lab) -> str:
    return f"minituner · {say('lab')} {lab.id} · {lab.title}"


def verdict(report: Report) -> Iterator[str]:
    """The score and what it is worth; or that there is none, because of us."""
    if broken(report):
        yield say("This is our fault, not yours: the grader could not finish.")
        yield say("No score was given; grade it again, with seed {seed}.", seed=report.seed)
        return
    yield say("total {score}/{most}", score=report.score, most=report.max_score)
    if report.isolation in GRADES:
        yield say(
            "graded in isolation ({level}); seed {seed} repeats this verdict",
            level=report.isolation,
            seed=report.seed,
        )
    else:
        yield say(
            "feedback, not a grade (isolation: {level}); seed {seed} repeats it",
            level=report.isolation,
            seed=report.seed,
        )


def findings(report: Report) -> Iterator[str]:
    """What the gates found, ours first where we broke; then what costs no points."""
    for gate in sorted(report.gates, key=lambda gate: gate.outcome != "error"):
        if gate.outcome != "passed":
            yield from (f"{gate.id}: {finding}" for finding in gate.findings)
    yield from advice(report)
    yield from elsewhere(report)


def summary(report: Report, lab: Lab) -> str:
    """Headline, verdict and findings as plain text."""
    return "\n".join((heading(lab), *verdict(report), *findings(report)))
