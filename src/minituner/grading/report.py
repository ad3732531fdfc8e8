"""Outcomes, points and the one report: what `grade` prints and `--json` writes.

The schema is described in README.md (instructors) and held by tests/upkeep/report.schema.json.
Leaves out: how a test was run (contract.py) and how a report is shown (card.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from minituner.grading.registry import Lab, Task
from minituner.words import say

SCHEMA_VERSION = 1
Outcome = Literal["passed", "failed", "todo", "blocked", "error"]


@dataclass(frozen=True)
class Result:
    """What one test id did; `where` is the learner's own line, where there is one."""

    outcome: Outcome  # of a single test: passed, failed, todo or error
    message: str = ""
    where: str = ""
    sign: str = ""  # of a check: which claim broke and what was measured, the same in any language


@dataclass(frozen=True)
class GateResult:
    """One gate: what it found, and which tasks that costs ("*" is every code task)."""

    id: str
    outcome: Outcome
    findings: tuple[str, ...] = ()
    costs: tuple[str, ...] = ()


@dataclass(frozen=True)
class TaskResult:
    """One task's verdict; `test` is the first test that is not passed."""

    id: str
    outcome: Outcome | Literal["pending"]
    points: int
    max_points: int
    message: str = ""
    misconception: str = ""
    test: str = ""
    where: str = ""


@dataclass(frozen=True)
class Report:
    """The verdict on one file, from `grade` (isolation "none") or later from the exam."""

    lab: str
    file: str
    score: int
    max_score: int
    isolation: str
    seed: int
    versions: dict[str, str]
    duration_s: float
    gates: tuple[GateResult, ...]
    tasks: tuple[TaskResult, ...]
    extra: dict[str, str] = field(default_factory=dict)  # other devices: shown, without points
    schema_version: int = SCHEMA_VERSION

    @classmethod
    def of(
        cls,
        lab: Lab,
        tasks: tuple[TaskResult, ...],
        gates: Mapping[str, GateResult],
        *,
        file: str,
        isolation: str,
        seed: int,
        versions: Mapping[str, str],
        started: float,
        extra: Mapping[str, str] = MappingProxyType({}),
    ) -> Report:
        """The report on these tasks; `started` is on time.monotonic()'s clock."""
        return cls(
            lab=lab.id,
            file=file,
            score=sum(task.points for task in tasks),
            max_score=lab.max_score,
            isolation=isolation,
            seed=seed,
            versions=dict(versions),
            duration_s=round(time.monotonic() - started, 3),
            gates=tuple(gates.values()),
            tasks=tasks,
            extra=dict(extra),
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def exit_code(self) -> int:
        """0 all green, 1 not yet, 2 something of ours broke."""
        outcomes = [task.outcome for task in self.tasks] + [gate.outcome for gate in self.gates]
        if "error" in outcomes:
            return 2
        return 0 if self.score == self.max_score else 1


def code_is_green(lab: Lab, tasks: Iterable[TaskResult]) -> bool:
    """Whether every task that tests pay for has passed: types and notes are worth a look then."""
    return all(task.outcome == "passed" for task in tasks if task.id in lab.code)


def judge(
    lab: Lab,
    tests: Mapping[str, Result],
    gates: Mapping[str, GateResult],
    *,
    finished: bool = True,
) -> tuple[TaskResult, ...]:
    """Every task's verdict from what is known so far, one required test id at a time.

    Args:
        tests: result by test function name, on the cpu.
        gates: "types" and "notes" pay for the tasks of that kind; any gate may cost others.
        finished: False while results still come in; a task without all of its own is pending.
    """
    verdicts: dict[str, TaskResult] = {}
    for task in lab.tasks:
        costing = [g for g in gates.values() if task.id in g.costs or _refused(g, task)]
        waiting = [need for need in task.needs if verdicts[need].outcome != "passed"]
        if costing:
            said = "\n".join(finding for gate in costing for finding in gate.findings)
            verdicts[task.id] = _verdict(task, "failed", said)
        elif task.kind != "code":
            verdicts[task.id] = _paid_by_gate(task, gates.get(task.kind), waiting, finished)
        else:
            verdicts[task.id] = _paid_by_tests(task, tests, waiting, finished)
    return tuple(verdicts.values())


def _refused(gate: GateResult, task: Task) -> bool:
    return "*" in gate.costs and task.kind == "code"


def _verdict(
    task: Task,
    outcome: Outcome | Literal["pending"],
    message: str = "",
    test: str = "",
    at: str = "",
) -> TaskResult:
    points = task.points if outcome == "passed" else 0
    return TaskResult(task.id, outcome, points, task.points, message, test=test, where=at)


def _paid_by_tests(
    task: Task, tests: Mapping[str, Result], waiting: list[str], finished: bool
) -> TaskResult:
    absent = [name for name in task.tests if name not in tests]
    if absent:
        lost = say("no result came back for {name}", name=absent[0])
        return _verdict(task, "error", lost, absent[0]) if finished else _verdict(task, "pending")
    red = [(name, tests[name]) for name in task.tests if tests[name].outcome != "passed"]
    if not red:
        return _verdict(task, "passed")
    for outcome in ("error", "failed", "todo"):
        first = next(((n, t) for n, t in red if t.outcome == outcome), None)
        if first is not None:
            break
    assert first is not None
    name, test = first
    kind: Outcome = test.outcome
    if kind == "failed" and waiting:
        kind = "blocked"
    return _verdict(task, kind, test.message, name, test.where)


def _paid_by_gate(
    task: Task, gate: GateResult | None, waiting: list[str], finished: bool
) -> TaskResult:
    if gate is None and not finished:
        return _verdict(task, "pending")
    if gate is None or waiting:
        return _verdict(task, "blocked", say("waits for {tasks}", tasks=", ".join(waiting)))
    return _verdict(task, gate.outcome, "\n".join(gate.findings))


def word(outcome: str) -> str:
    """The outcome as a word, so that no reader needs a colour."""
    return {
        "passed": say("passed"),
        "failed": say("failed"),
        "todo": say("todo"),
        "blocked": say("blocked"),
        "error": say("our error"),
        "pending": say("waiting"),
    }[outcome]


def advice(report: Report) -> Iterator[str]:
    """What ruff advises, in one line, where it does."""
    for gate in report.gates:
        if gate.id == "ruff" and gate.outcome == "passed" and gate.findings:
            count, first = len(gate.findings), gate.findings[0]
            yield say("ruff advises ({count}): {first}", count=count, first=first)


def elsewhere(report: Report) -> Iterator[str]:
    """What fails on another device, in one line, where something does."""
    red = sum(outcome not in ("passed", "todo") for outcome in report.extra.values())
    if red:
        yield say(
            "{red} of {count} tests fail on another device; this costs no points",
            red=red,
            count=len(report.extra),
        )
