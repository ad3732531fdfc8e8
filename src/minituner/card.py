"""The score card in the terminal: every task, the total, and the one thing to do next.

Fits 80 columns, reads without colour. Leaves out: judgement; it shows a Report and no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from minituner.grading.notes import Prediction
from minituner.grading.registry import Lab
from minituner.grading.report import Report, TaskResult, advice, code_is_green, elsewhere, word
from minituner.next_step import next_step
from minituner.words import say

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


def full(lab: Lab, report: Report, predictions: Sequence[Prediction] = ()) -> RenderableType:
    """The whole card: table, total, what else was seen, and what to do next.

    Args:
        predictions: what the learner expected, shown beside what was measured once code is green.
    """
    parts: list[RenderableType] = [heading(lab, report.file), table(lab, report.tasks)]
    total = say("total {score}/{most}", score=report.score, most=report.max_score)
    style = "bold green" if report.score == report.max_score else "bold"
    kind = say("practice")
    if report.isolation != "none":
        kind = f"{say('exam')} · {say('isolation')} {report.isolation}"
    aside = f"   {kind} · {say('seed')} {report.seed}"
    parts.append(Text.assemble("\n", (total, style), (aside, "dim")))
    parts.extend(_asides(lab, report))
    if code_is_green(lab, report.tasks):
        parts.extend(_beside(predictions))
    parts.append(Text(""))
    parts.append(Group(*next_step(lab, report)))
    return Group(*parts)


def _beside(predictions: Sequence[Prediction]) -> Iterable[RenderableType]:
    """Prediction and measurement together, for each that has both."""
    both = [one for one in predictions if one.expected and one.measured]
    if not both:
        return
    grid = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
    for title in ("", say("you predicted"), say("measured")):
        grid.add_column(title, overflow="fold")
    for one in both:
        grid.add_row(Text(one.label), Text(one.expected), Text(one.measured))
    yield Text("")
    yield grid


def _asides(lab: Lab, report: Report) -> Iterable[Text]:
    """Advice and findings that cost nothing."""
    for said in elsewhere(report):
        yield Text(said, "yellow")
    if code_is_green(lab, report.tasks):
        for said in advice(report):
            yield Text(said, "dim")


def console() -> Console:
    """A console of at most 80 columns; rich honours NO_COLOR and pipes by itself."""
    found = Console(highlight=False)
    return Console(highlight=False, width=min(80, found.width), soft_wrap=False)
