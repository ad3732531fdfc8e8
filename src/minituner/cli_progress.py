"""Where am I, and what would another have written: status and solution.

Leaves out: grading; both tell what the last run of grade or watch has found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from minituner import memory
from minituner.card import MARKS
from minituner.grading.registry import ROOT, Lab, RegistryError, Task, lab, labs
from minituner.next_step import command
from minituner.pieces import pieces
from minituner.spoken import LabId, Lang, agreed, broken, speak
from minituner.words import say

MARKED = re.compile(r"# (BEGIN|END) SOLUTION\b")


def status(lang: Lang = "") -> None:
    """Show where you are: points, time and what is next, over all labs."""
    speak(lang)
    console = Console(highlight=False)
    for which in labs().values():
        state = memory.lab_state(which.id)
        console.print(Text(f"{say('lab')} {which.id} · {which.title}", "bold"))
        if not state:
            console.print(
                f"  {say('not run yet; try {command}', command=f'minituner watch{which.option}')}"
            )
            continue
        total = say("total {score}/{most}", score=state["score"], most=state["max_score"])
        minutes = _minutes(sum(state["seconds"].values()))
        console.print(f"  {total} · {say('{minutes} minutes at work', minutes=minutes)}")
        grid = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
        for block, title in which.blocks.items():
            mine = [task.id for task in which.tasks if task.id[0] == block]
            known = (MARKS.get(str(state["tasks"].get(task)), MARKS["pending"]) for task in mine)
            marks = Text(" ").join(Text(*mark) for mark in known)
            spent = _minutes(sum(state["seconds"].get(task, 0.0) for task in mine))
            grid.add_row(f"  {block}", str(title), marks, say("{minutes} minutes", minutes=spent))
        console.print(grid)
        if state["task"]:
            task = which.task(state["task"])
            console.print(f"  {say('next')}  {task.id} · {task.title}")


def _minutes(seconds: float) -> int:
    return round(seconds / 60)


def solution(
    block: Annotated[str, typer.Argument(help="A block of the lab, for example A.")],
    lab_id: LabId = "00",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    lang: Lang = "",
) -> None:
    """Show the reference for one block beside your own; it asks first while yours is not green."""
    speak(lang)
    try:
        which = lab(lab_id)
    except RegistryError as error:
        broken(str(error))
    blocks = [name for name in which.blocks if any(t.id[0] == name for t in _code(which))]
    block = block.upper()
    if block not in blocks:
        everything = ", ".join(blocks)
        broken(say("solution: expected a block of {all}, got {got}", all=everything, got=block))
    path = ROOT / which.reference
    if not path.is_file():
        broken(say("{path} is not here; ask whoever gave you the lab", path=which.reference))
    if not (yes or _earned(which, block)):
        question = say("Block {block} is not green yet. Show its solution?", block=block)
        if not agreed(question):
            first = next(task.id for task in _code(which) if task.id[0] == block)
            again = command("minituner", f"hint {first}{which.option}")
            typer.echo(say("nothing was shown; a hint helps more: {command}", command=again))
            raise typer.Exit(1)
    theirs = path.read_text(encoding="utf-8")
    own_path = ROOT / which.file
    own = own_path.read_text(encoding="utf-8", errors="replace") if own_path.is_file() else ""
    mine = pieces(own)
    console = Console(highlight=False)
    for name, text in chosen(theirs, block):
        grid = Table(box=None, expand=True, padding=(0, 1))
        grid.add_column(say("yours: {name}", name=name), ratio=1)
        grid.add_column(say("the reference"), ratio=1)
        yours = mine[name].text if name in mine else f"# {say('there is none in your file')}"
        grid.add_row(_code_of(yours), _code_of(text))
        console.print(grid)


def _code(which: Lab) -> list[Task]:
    return [task for task in which.tasks if task.kind == "code"]


def _earned(which: Lab, block: str) -> bool:
    """The block is green, or its first open test has taken long enough."""
    state = memory.lab_state(which.id)
    mine = [task.id for task in _code(which) if task.id[0] == block]
    green = bool(state) and all(state["tasks"].get(task) == "passed" for task in mine)
    stuck = state.get("task") in mine and memory.stuck_seconds(which.id) >= memory.LONG
    return green or stuck


def chosen(reference: str, block: str) -> Iterator[tuple[str, str]]:
    """The functions that hold code of a block, without the marks around it."""
    for name, piece in pieces(reference).items():
        if any(task[0] == block for task in piece.tasks):
            lines = [line for line in piece.text.splitlines() if not MARKED.search(line)]
            yield name, "\n".join(lines)


def _code_of(text: str) -> Syntax:
    return Syntax(text, "python", theme="ansi_light", background_color="default", word_wrap=True)
