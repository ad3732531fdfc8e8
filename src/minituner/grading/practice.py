"""`minituner grade`: gates, contract, mypy and notes on one file, on the learner's own machine.

A practice verdict can be forged by the file it runs, and its report says so (isolation "none").
Leaves out: how it looks (card.py) and the authoritative exam.
"""

from __future__ import annotations

import json
import platform
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from minituner.grading import diagnose, tools
from minituner.grading import gates as source_gates
from minituner.grading.child import OnChild, answer
from minituner.grading.contract import ContractRun, run_contract
from minituner.grading.notes import check_notes
from minituner.grading.registry import ROOT, Lab
from minituner.grading.report import GateResult, Report, TaskResult, code_is_green, judge
from minituner.words import say

TOOLS = ("torch", "numpy", "pytest", "pytest-randomly", "mypy", "ruff")
Types = Callable[[Path, str], GateResult]
PROGRESS_SECONDS = 0.1  # between two looks at what is known: judging it takes time, too
BEHAVE_SECONDS = 30.0  # an honest file takes 0.2, and a start from nothing 5
Progress = Callable[[tuple[TaskResult, ...], str], None]  # what is known, what goes on now


class NoSuchFile(Exception):
    """There is nothing to grade where --impl points: the caller's mistake."""


@dataclass(frozen=True)
class Submission:
    """The files one grade concerns."""

    star: Path
    notes: Path | None


def find(lab: Lab, impl: str) -> Submission:
    """student, reference, a lora.py, or a folder (repository layout first, then flat).

    Raises:
        NoSuchFile: no such file there.
    """
    if impl == "student":
        return Submission(ROOT / lab.file, ROOT / lab.notes)
    if impl == "reference":
        return Submission(ROOT / lab.reference, ROOT / "solutions" / lab.notes_flat)
    path = Path(impl).resolve()
    if path.is_dir():
        stars = (path / lab.file, path / lab.star)
        notes = (path / lab.notes, path / lab.notes_flat)
    else:
        stars, notes = (path, path), (path.with_name(lab.notes_flat),) * 2
    star = next((file for file in stars if file.is_file()), None)
    if star is None or star.name != lab.star:
        raise NoSuchFile(
            say(
                "--impl: expected a {star} or a folder with one, got {got}", star=lab.star, got=impl
            )
        )
    return Submission(star, next((file for file in notes if file.is_file()), notes[-1]))


def grade(
    lab: Lab,
    submission: Submission,
    *,
    seed: int | None = None,
    junit: Path | None = None,
    progress: Progress = lambda tasks, doing: None,
    types: Types = tools.check_types,
    on_child: OnChild = lambda end: None,
    parts: int = 1,
) -> Report:
    """The practice report; `progress` hears of every result as it comes.

    Args:
        types: the types gate on a file and its text.
        on_child: hears how to end each child that starts; what it raises ends the grading.
        parts: children that share the contract's tests, at the same time.
    """
    started = time.monotonic()
    seed = random.SystemRandom().randrange(2**31) if seed is None else seed
    gates: dict[str, GateResult] = {}
    run, signs = ContractRun(), diagnose.Signs()

    def known(finished: bool = False) -> tuple[TaskResult, ...]:
        return judge(lab, run.tests, gates, finished=finished)

    source = source_gates.intake(submission.star)
    if isinstance(source, str):
        gates["source"] = GateResult("source", "failed", (source,), ("*",))
    else:
        gates |= {gate.id: gate for gate in source_gates.check_source(source, lab)}
    if not isinstance(source, str) and gates["source"].outcome == "passed":
        progress(known(), say("running the contract"))

        every, last = sum(len(task.tests) for task in lab.tasks), 0.0

        def heard(so_far: ContractRun) -> None:
            nonlocal run, last
            run = so_far
            if len(run.tests) == every or time.monotonic() - last > PROGRESS_SECONDS:
                last = time.monotonic()
                progress(known(), say("running the contract"))

        run = run_contract(
            lab,
            submission.star,
            seed=seed,
            junit=junit,
            on_result=heard,
            on_child=on_child,
            parts=parts,
        )
        if run.unrunnable:
            gates["import"] = GateResult("import", "failed", (run.unrunnable,), ("*",))
        if run.broken:
            gates["contract"] = GateResult("contract", "error", (run.broken,))
        gates["ruff"] = tools.advise(submission.star)
        if worth_diagnosing(run):
            progress(known(), say("comparing with known misconceptions"))
            signs = behaviour(lab, source.text, on_child)
        if code_is_green(lab, known()):
            progress(known(), say("measuring for the notes"))
            gates["notes"] = check_notes(lab, submission.star, submission.notes, on_child)
            progress(known(), say("checking the types (a first run takes about 20 s)"))
            gates["types"] = types(submission.star, source.text)
    return Report.of(
        lab,
        diagnose.told(lab, known(finished=True), signs),
        gates,
        file=_shown(submission.star),
        isolation="none",
        seed=seed,
        versions=versions(),
        started=started,
        extra={name: result.outcome for name, result in run.elsewhere.items()},
    )


def worth_diagnosing(run: ContractRun) -> bool:
    """Something failed by an answer; what cannot run, ends or hangs says enough by itself."""
    failed = any(result.outcome == "failed" for result in run.tests.values())
    return failed and not (run.unrunnable or run.broken or run.culprit)


def behaviour(lab: Lab, text: str, on_child: OnChild = lambda end: None) -> diagnose.Signs:
    """What the file shows at the seed of every diagnosis; nothing where that takes too long."""
    main = "minituner.grading.behave:main"
    try:
        said = answer(main, str(ROOT), lab.id, text, seconds=BEHAVE_SECONDS, on_child=on_child)
        found: diagnose.Signs = json.loads(said)
        return found
    except (EOFError, OSError, ValueError):
        return {}


def _shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)


@cache
def versions() -> dict[str, str]:
    """Python and every tool that a verdict depends on."""
    found = {"minituner": version("minituner"), "python": platform.python_version()}
    for tool in TOOLS:
        try:
            found[tool] = version(tool)
        except PackageNotFoundError:
            found[tool] = "missing"
    return found
