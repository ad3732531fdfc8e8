"""The one thing to do next, from a report: the task, what went wrong, and the command after it.

Leaves out: the table above it (card.py) and the screen of watch (screen.py).
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from minituner.grading.notes import predicted
from minituner.grading.registry import ROOT, Lab, labs
from minituner.grading.report import Report, TaskResult
from minituner.pieces import tasks_at
from minituner.words import page, say


def next_step(lab: Lab, report: Report) -> Iterable[RenderableType]:
    """What to read and do now, below the table."""
    if stopped := trouble(lab, report):
        head, detail, last = stopped
        yield head
        yield Padding(detail, (0, 0, 0, 2), expand=False)
        yield last
        return
    own = report.isolation == "none"
    todo = first_to_do(lab, report.tasks, report.file if own else "")
    if todo is None:
        yield Text(str(lab.done), "bold green")
        yield Text(say("Compare it with the solution: {path}", path=page(_solution(lab))))
        if own and (later := following(lab)):
            what, grade = page(later.page), command("minituner", f"grade{later.option}")
            yield Text(say("The next lab: {page}, then {command}", page=what, command=grade))
        return
    yield Text.assemble((say("next"), "bold"), f"  {todo.id} · {lab.task(todo.id).title}")
    yield Padding(detail_of(lab, report.tasks, todo, own=own), (0, 0, 0, 2), expand=False)
    if not own:
        return  # the instructor's machine; the next command is the learner's
    yield Text.assemble((say("then"), "bold"), f"  {_again(lab, report, todo)}")


def trouble(lab: Lab, report: Report) -> tuple[Text, Text, Text] | None:
    """Why there is nothing to work on yet: our fault, or a file that cannot run at all."""
    broken = [line for gate in report.gates if gate.outcome == "error" for line in gate.findings]
    if broken:
        said = say("This is our fault, not yours: the grader could not finish.")
        cure = say("Run `minituner doctor`; your file was not judged.")
        return Text(said, "bold magenta"), Text(broken[0]), Text(cure)
    unfit = [line for g in report.gates if "*" in g.costs for line in g.findings]
    if unfit:
        head = Text.assemble((say("next"), "bold"), f"  {say('make the file run at all')}")
        may = say("What a file may do: {page}", page=page(lab.blueprint))
        return head, Text("\n".join(unfit)), Text(may)
    return None


def detail_of(lab: Lab, tasks: Sequence[TaskResult], todo: TaskResult, *, own: bool = True) -> Text:
    """What is known of one open task: the learner's line, what was measured, and where to read.

    Args:
        own: on the learner's machine, where an unwritten task asks for a prediction first.
    """
    detail = Text()
    if own and todo.outcome == "todo":
        for one in predicted(lab, ROOT / lab.notes):
            if one.task == todo.id and not one.expected:
                said = say("predict first, in {notes}: {what}?", notes=lab.notes, what=one.label)
                detail.append(f"{said}\n")
    raising = next((t for t in tasks if t.message.startswith(f"{todo.id}:") and t.where), None)
    if todo.outcome == "todo" and raising is not None:
        where = raising.where.split()[0]
        said = say(
            "{where} raises it: write the code there, or delete a raise left over", where=where
        )
        detail.append(f"{said}\n")
    if todo.outcome != "todo":
        if todo.where and not todo.message.startswith(todo.where):  # the exam's message has it
            detail.append(f"{todo.where}\n")
        detail.append(todo.message.strip("\n") + "\n")
        if todo.misconception:
            said = say("this looks like: {what}", what=todo.misconception)
            detail.append(f"{said}\n", "bold")
        if todo.test:
            detail.append(f"{todo.test}\n", "dim")
    if f"{say('read')}:" not in todo.message:  # a failed assertion says where to read by itself
        where = f"{page(lab.page)} {todo.id}, {lab.task(todo.id).pitfall}"
        detail.append(f"{say('read')}: {where}")
    detail.rstrip()
    return detail


def _again(lab: Lab, report: Report, todo: TaskResult) -> str:
    kind = lab.task(todo.id).kind
    if kind == "types":
        return command("mypy", f"--strict {report.file}")
    if kind == "notes":
        return command("python", f"{lab.experiment} --write")
    if todo.test:
        impl = "" if report.file == lab.file else f" --impl={report.file}"
        return command("pytest", f"-k {todo.test}{impl}")
    return command("minituner", f"grade{lab.option}")


def command(tool: str, words: str) -> str:
    """What to type: the bare tool where the shell finds ours, else its path."""
    ours = Path(sys.executable).parent / tool
    if shutil.which(tool) == str(ours):
        return f"{tool} {words}"
    return f"{os.path.relpath(ours)} {words}"


def first_to_do(lab: Lab, tasks: Sequence[TaskResult], file: str = "") -> TaskResult | None:
    """The task to work on: what is written and wrong before what is not written yet.

    Of what failed, the first whose cause is known, though it be blocked: what stands before it may
    fail only because of it. A crash belongs to the function it is in: where A4's test dies in
    forward, that is A5's. Of what is not written, a step that the stub's message names comes first.

    Args:
        file: the learner's file, from the repository's root; "" where it is not at hand.
    """
    known = next((task for task in tasks if task.misconception), None)
    wrong = next((task for task in tasks if task.outcome in ("failed", "error")), None)
    if known is not None:
        return known
    if wrong is not None:
        return _at_home(lab, tasks, wrong, file)
    todo = next((task for task in tasks if task.outcome == "todo"), None)
    if todo is None:
        return next((task for task in tasks if task.outcome != "passed"), None)
    named = todo.message.partition(":")[0]
    return next((task for task in tasks if task.id == named), todo)


def _at_home(lab: Lab, tasks: Sequence[TaskResult], wrong: TaskResult, file: str) -> TaskResult:
    home = tasks_at(lab, file, wrong.where)
    if wrong.id in home:
        return wrong
    return next((task for task in tasks if task.id in home and task.outcome != "passed"), wrong)


def following(lab: Lab) -> Lab | None:
    """The lab after this one; None after the last."""
    return next((later for later in labs().values() if later.id > lab.id), None)


def _solution(lab: Lab) -> str:
    return f"solutions/{lab.id}-{lab.slug}-ref.md"
