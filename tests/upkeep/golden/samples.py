"""Three reports, and what every form makes of them in both languages: the golden files.

To write the golden files anew, from the repository's root:
    python tests/upkeep/golden/samples.py
then read the difference before committing it. Leaves out: hostile text (test_formats.py has it).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from minituner.grading.formats import FORMS, render
from minituner.grading.registry import lab
from minituner.grading.report import GateResult, Report, Result, TaskResult, judge
from minituner.words import LANGUAGES, VARIABLE, explaining, say

HERE = Path(__file__).parent
ENDINGS = {"github": "txt", "junit": "xml", "markdown": "md"}  # the others are json
LAB = lab("00")
explain = explaining(LAB.page)
VERSIONS = {"minituner": "0", "python": "3", "torch": "2", "pytest": "9", "mypy": "2", "ruff": "0"}


def _report(tasks: tuple[TaskResult, ...], gates: dict[str, GateResult], level: str) -> Report:
    return Report(
        lab="00",
        file="src/minituner/lora.py",
        score=sum(task.points for task in tasks),
        max_score=100,
        isolation=level,
        seed=7,
        versions=VERSIONS,
        duration_s=1.5,
        gates=tuple(gates.values()),
        tasks=tasks,
    )


def _passing() -> dict[str, Result]:
    return {name: Result("passed") for task in LAB.tasks for name in task.tests}


def _gates(*more: GateResult) -> dict[str, GateResult]:
    found = [GateResult(name, "passed") for name in ("source", "ruff", "notes", "types")]
    return {gate.id: gate for gate in (*found, *more)}


def green() -> Report:
    gates = _gates()
    return _report(judge(LAB, _passing(), gates), gates, "authoritative")


def mixed() -> Report:
    """No scale (A5), a broken round-trip (C3), a merge not written (D); ruff advises."""
    tests = _passing()
    scale = explain(
        measured="y - W x = B A x",
        expected="(alpha / r) * B A x, alpha = 8, r = 4",
        cause="the scale is missing, inverted, applied twice, or not alpha / r",
        read="P2",
    ).strip()
    for name in LAB.task("A5").tests:
        tests[name] = Result("failed", scale, "lora.py:41  return self.base(x) + low")
    for name in LAB.task("D2").tests:
        tests[name] = Result("failed", "D2 builds on D1, so this is blocked")
    for task_id in ("D1", "D3"):
        for name in LAB.task(task_id).tests:
            tests[name] = Result("todo", f"D1: {LAB.task('D1').title}", "lora.py:60  raise")
    tests[LAB.task("C3").tests[0]] = Result("failed", "lora.py:88  state[name]\nKeyError: 'a'")
    gates = _gates(GateResult("ruff", "passed", ("lora.py:3 F401 `math` imported but unused",)))
    return _report(judge(LAB, tests, gates), gates, "standard")


def refused() -> Report:
    """A file that imports what it may not: every code task carries the same finding."""
    why = say("import {module} is not allowed; allowed: {allowed}", module="os", allowed="torch")
    gate = GateResult("source", "failed", (f"{say('line {line}', line=3)}: {why}",), ("*",))
    return _report(judge(LAB, {}, {"source": gate}), {"source": gate}, "standard")


def error() -> Report:
    """The grader lost one test's result: no score may come of it."""
    tests = _passing()
    del tests[LAB.task("B2").tests[0]]
    gate = GateResult("contract", "error", (say("the test process did not start"),))
    gates = _gates(gate)
    return _report(judge(LAB, tests, gates), gates, "standard")


SAMPLES = {"green": green, "mixed": mixed, "refused": refused, "error": error}


def golden(sample: str, form: str, language: str) -> Path:
    return HERE / f"{sample}.{form}.{language}.{ENDINGS.get(form, 'json')}"


def everything() -> Iterator[tuple[Path, str]]:
    """Every golden file and what it must hold; leaves the language at the last one."""
    for language in LANGUAGES:
        os.environ[VARIABLE] = language
        for sample, make in SAMPLES.items():
            for form in FORMS:
                yield golden(sample, form, language), render(make(), LAB, form)


def main() -> int:
    wanted = dict(everything())
    for path, text in wanted.items():
        path.write_text(text, encoding="utf-8", newline="\n")
    for path in HERE.glob("*.*.*.*"):
        if path not in wanted:
            path.unlink()
    print(f"{len(wanted)} golden files written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
