"""The score card in the terminal: every task, the total, and the one thing to do next.

Fits 80 columns, reads without colour. Leaves out: judgement; it shows a Report and no more.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from minituner.grading.registry import Lab
from minituner.grading.report import Report, TaskResult, advice, code_is_green, elsewhere, word
from minituner.words import page, say

MARKS = {
    "passed": ("✓", "green"),
    "failed": ("✗", "red"),
    "todo": ("○", "yellow"),
    "blocked": ("·", "dim"),
    "error": ("!", "magenta"),
    "pending": ("…", "dim"),
}


def of_block(block: str, tasks: Sequence[TaskResult]) -> tuple[list[TaskResult], str]:
    """One block's tasks, and its points as "31/40"."""
    mine = [task for task in tasks if task.id[0] == block]
    return mine, f"{sum(t.points for t in mine)}/{sum(t.max_points for t in mine)}"


def table(lab: Lab, tasks: Sequence[TaskResult]) -> Table:
    """Blocks and tasks with their points."""
    grid = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1), width=78)
    grid.add_column(width=11, no_wrap=True)
    grid.add_column(width=2)
    grid.add_column(ratio=1)
    grid.add_column(justify="right", no_wrap=True)
    for block, title in lab.blocks.items():
        mine, points = of_block(block, tasks)
        grid.add_row(Text(""), Text(block, "bold"), Text(str(title), "bold"), Text(points))
        for task in mine:
            grid.add_row(
                label(task, tasks),
                task.id,
                Text(str(lab.task(task.id).title), "dim" if task.outcome == "blocked" else ""),
                f"{task.points}/{task.max_points}",
            )
    return grid


def label(task: TaskResult, tasks: Sequence[TaskResult]) -> Text:
    """A mark and a word; a task whose own step is written waits for the one still raising."""
    mark, style = MARKS[task.outcome]
    later = [t.id for t in tasks[tasks.index(task) + 1 :]]
    raising = task.message.partition(":")[0]
    if task.outcome == "todo" and raising in later:
        return Text(f"{mark} {say('waits {task}', task=raising)}", style)
    return Text(f"{mark} {word(task.outcome)}", style)


def progress(lab: Lab, tasks: Sequence[TaskResult], doing: str) -> RenderableType:
    """What is known so far, in a few lines: it is redrawn in place and must fit any terminal."""
    grid = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
    for block, title in lab.blocks.items():
        mine, points = of_block(block, tasks)
        marks = Text(" ").join(Text(*MARKS[task.outcome]) for task in mine)
        grid.add_row(block, str(title), marks, points)
    return Group(Text(f"… {doing}", "dim"), grid)


def heading(lab: Lab, file: str) -> Text:
    return Text.assemble(
        ("minituner", "bold"), f"  {say('lab')} {lab.id} · {lab.title}\n", (file, "dim"), "\n"
    )


def full(lab: Lab, report: Report) -> RenderableType:
    """The whole card: table, total, what else was seen, and what to do next."""
    parts: list[RenderableType] = [heading(lab, report.file), table(lab, report.tasks)]
    total = say("total {score}/{most}", score=report.score, most=report.max_score)
    style = "bold green" if report.score == report.max_score else "bold"
    kind = say("practice")
    if report.isolation != "none":
        kind = f"{say('exam')} · {say('isolation')} {report.isolation}"
    aside = f"   {kind} · {say('seed')} {report.seed}"
    parts.append(Text.assemble("\n", (total, style), (aside, "dim")))
    parts.extend(_asides(lab, report))
    parts.append(Text(""))
    parts.append(Group(*_next(lab, report)))
    return Group(*parts)


def _asides(lab: Lab, report: Report) -> Iterable[Text]:
    """Advice and findings that cost nothing."""
    for said in elsewhere(report):
        yield Text(said, "yellow")
    if code_is_green(lab, report.tasks):
        for said in advice(report):
            yield Text(said, "dim")


def _next(lab: Lab, report: Report) -> Iterable[RenderableType]:
    broken = [line for gate in report.gates if gate.outcome == "error" for line in gate.findings]
    if broken:
        yield Text(
            say("This is our fault, not yours: the grader could not finish."), "bold magenta"
        )
        yield Padding(Text(broken[0]), (0, 0, 0, 2), expand=False)
        yield Text(say("Run `minituner doctor`; your file was not judged."))
        return
    unfit = [line for g in report.gates if "*" in g.costs for line in g.findings]
    if unfit:
        yield Text.assemble((say("next"), "bold"), f"  {say('make the file run at all')}")
        yield Padding(Text("\n".join(unfit)), (0, 0, 0, 2), expand=False)
        yield Text(say("What a file may do: {page}", page=page(lab.blueprint)))
        return
    todo = first_to_do(report.tasks)
    if todo is None:
        yield Text(say("All green. What you wrote is LoRA."), "bold green")
        yield Text(say("Compare it with the solution: {path}", path=page(_solution(lab))))
        return
    task = lab.task(todo.id)
    yield Text.assemble((say("next"), "bold"), f"  {todo.id} · {task.title}")
    detail = Text()
    raising = next(
        (t for t in report.tasks if t.message.startswith(f"{todo.id}:") and t.where), None
    )
    if todo.outcome == "todo" and raising is not None:
        where = raising.where.split()[0]
        said = say(
            "{where} raises it: write the code there, or delete a raise left over", where=where
        )
        detail.append(f"{said}\n")
    if todo.outcome != "todo":
        if todo.where:
            detail.append(f"{todo.where}\n")
        detail.append(todo.message.strip("\n") + "\n")
        if todo.misconception:
            said = say("this looks like: {what}", what=todo.misconception)
            detail.append(f"{said}\n", "bold")
        if todo.test:
            detail.append(f"{todo.test}\n", "dim")
    if f"{say('read')}:" not in todo.message:  # a failed assertion says where to read by itself
        where = f"{page(lab.page)} {todo.id}, {task.pitfall}"
        detail.append(f"{say('read')}: {where}")
    detail.rstrip()
    yield Padding(detail, (0, 0, 0, 2), expand=False)
    if report.isolation != "none":
        return  # the instructor's machine; the next command is the learner's
    again = command("minituner", "grade")
    if task.kind == "types":
        again = command("mypy", f"--strict {report.file}")
    elif task.kind == "notes":
        again = command("python", f"{lab.experiment} --write")
    elif todo.test:
        impl = "" if report.file == lab.file else f" --impl={report.file}"
        again = command("pytest", f"-k {todo.test}{impl}")
    yield Text.assemble((say("then"), "bold"), f"  {again}")


def command(tool: str, words: str) -> str:
    """What to type: the bare tool where the shell finds ours, else its path."""
    ours = Path(sys.executable).parent / tool
    if shutil.which(tool) == str(ours):
        return f"{tool} {words}"
    return f"{os.path.relpath(ours)} {words}"


def first_to_do(tasks: Sequence[TaskResult]) -> TaskResult | None:
    """The first task to work on: a step that the stub's message names comes before its task."""
    open_tasks = [task for task in tasks if task.outcome in ("failed", "todo", "error")]
    if not open_tasks:
        return next((task for task in tasks if task.outcome != "passed"), None)
    first = open_tasks[0]
    named = first.message.partition(":")[0]
    if first.outcome == "todo":
        return next((task for task in tasks if task.id == named), first)
    return first


def _solution(lab: Lab) -> str:
    return f"solutions/{lab.id}-{lab.slug}-ref.md"


def console() -> Console:
    """A console of at most 80 columns; rich honours NO_COLOR and pipes by itself."""
    found = Console(highlight=False)
    return Console(highlight=False, width=min(80, found.width), soft_wrap=False)
