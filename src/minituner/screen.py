"""What watch shows: a pure function of what is known, cut to the terminal's height.

Leaves out: where the knowledge comes from (watch.py, grading/round.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.markdown import Markdown
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from minituner.card import MARKS, label, of_block
from minituner.grading.registry import ROOT, Lab
from minituner.grading.report import GateResult, Report, TaskResult
from minituner.next_step import detail_of, first_to_do, trouble
from minituner.words import page, say

OPEN = ("failed", "todo", "error")


@dataclass
class State:
    """All that a screen needs to know."""

    lab: Lab
    file: str
    tasks: tuple[TaskResult, ...] = ()
    report: Report | None = None
    doing: str = ""
    types: GateResult | None = None
    tests_s: float | None = None  # from the save to the tests' verdict
    whole_s: float | None = None  # and to everything
    view: str = "one"  # one, all, hint or theory
    at: int = 0  # which of the open tasks
    hint: str = ""
    notices: list[str] = field(default_factory=list)  # a line each, until they no longer hold

    def open_tasks(self) -> list[TaskResult]:
        """What there is to do: the first thing first, then the others in the lab's order."""
        first = first_to_do(self.lab, self.tasks, self.file)
        found = [t for t in self.tasks if t.outcome in OPEN and t is not first]
        return ([] if first is None else [first]) + found

    def current(self) -> TaskResult | None:
        found = self.open_tasks()
        return found[self.at % len(found)] if found else None


class Screen:
    """The whole of it; in a terminal exactly as high as that."""

    def __init__(self, state: State) -> None:
        self.state = state

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = options.update(width=min(options.max_width, 100), height=None)

        def lines(parts: Iterable[RenderableType]) -> list[list[Segment]]:
            return console.render_lines(Group(*parts), wide, pad=False)

        head, foot = lines(_head(self.state)), lines([_foot()])
        body = lines(_body(self.state))
        room = console.height - len(head) - len(foot)
        if len(body) > room:
            body = [*body[: room - 1], [Segment("…")]]
        body += [[]] * (room - len(body))
        for index, line in enumerate([*head, *body, *foot]):
            if index:
                yield Segment.line()
            yield from line


def plain(state: State) -> RenderableType:
    """The same for a pipe or a log: once a round, uncut, without keys."""
    return Group(*_head(state), *_body(state), Text(""))


def _head(state: State) -> Iterable[RenderableType]:
    lab = state.lab
    yield Text.assemble(
        ("minituner watch", "bold"), f"  {say('lab')} {lab.id} · {lab.title}  ", (state.file, "dim")
    )
    if state.view != "all":
        grid = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
        for block, title in lab.blocks.items():
            mine, points = of_block(block, state.tasks)
            marks = Text(" ").join(Text(*MARKS[task.outcome]) for task in mine)
            grid.add_row(Text(block, "bold"), str(title), marks, points)
        yield grid
    yield _status(state)
    for notice in state.notices:
        yield Text(notice, "dim")
    if state.view != "all":
        yield Text("")


def _status(state: State) -> Text:
    """Points, how long it took, and what else was seen, in one line."""
    score = sum(task.points for task in state.tasks)
    line = Text(say("total {score}/{most}", score=score, most=state.lab.max_score), "bold")
    parts = []
    if state.tests_s is not None:
        parts.append(say("tests {seconds} s", seconds=f"{state.tests_s:.2f}"))
    if state.types is not None:
        parts.append(_types(state.types))
    if state.whole_s is not None:
        parts.append(say("all {seconds} s", seconds=f"{state.whole_s:.2f}"))
    if state.doing:
        parts.append(f"… {state.doing}")
    return line.append("".join(f" · {part}" for part in parts), "not bold dim")


def _types(gate: GateResult) -> str:
    if gate.outcome == "passed":
        return say("mypy: no finding")
    count = len(gate.findings)
    first = gate.findings[0] if gate.findings else ""
    return say("mypy finds ({count}): {first}", count=count, first=first)


def _body(state: State) -> Iterable[RenderableType]:
    if state.view == "all":
        yield _every_task(state)
        return
    if state.report is not None and (stopped := trouble(state.lab, state.report)):
        head, detail, last = stopped
        yield from (head, Padding(detail, (0, 0, 0, 2), expand=False), last)
        return
    todo = state.current()
    if todo is None:
        if state.report is not None and state.report.exit_code == 0:
            yield Text(str(state.lab.done), "bold green")
        elif state.tasks and state.report is None:
            yield Text(f"… {say('running the contract')}", "dim")
        return
    count, task = len(state.open_tasks()), state.lab.task(todo.id)
    title = Text(f"{todo.id} · {task.title}", "bold")
    if all(t.outcome != "pending" for t in state.tasks):  # until then nobody knows how many
        place = say("{at} of {count} open", at=state.at % count + 1, count=count)
        title.append(f"  {place}", "not bold dim")
    yield title
    if state.view == "theory":
        yield Markdown(pitfall(state.lab, task.pitfall))
    elif state.view == "hint":
        yield Padding(Text(state.hint), (0, 0, 0, 2), expand=False)
    else:
        yield Padding(detail_of(state.lab, state.tasks, todo), (0, 0, 0, 2), expand=False)


def _every_task(state: State) -> Table:
    """A line each, so that a lab fits a small terminal."""
    grid = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1), expand=True)
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    grid.add_column(justify="right", no_wrap=True)
    for task in state.tasks:
        title = str(state.lab.task(task.id).title)
        points = f"{task.points}/{task.max_points}"
        grid.add_row(label(task, state.tasks), task.id, title, points)
    return grid


def pitfall(lab: Lab, name: str) -> str:
    """The section "P2 · …" of the lab page, in the reader's language."""
    text = (ROOT / page(lab.page)).read_text(encoding="utf-8")
    found = re.search(rf"^### {name} · .*?(?=^##)", text + "\n##", re.MULTILINE | re.DOTALL)
    return found[0].strip() if found else name


def _foot() -> Text:
    keys = (
        ("n", say("next")),
        ("a", say("all")),
        ("h", say("hint")),
        ("t", say("theory")),
        ("r", say("run")),
        ("q", say("quit")),
    )
    line = Text("\n", no_wrap=True)
    for key, does in keys:
        line.append(key, "reverse").append(f" {does}  ")
    line.rstrip()
    return line
