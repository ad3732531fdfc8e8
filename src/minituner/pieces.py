"""Which function is where: a source cut into its functions, and the tasks each is written for.

Leaves out: what is in a function but the reference's marks; nothing here runs a source.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from minituner.grading.registry import ROOT, Lab

MARK = re.compile(r"# BEGIN SOLUTION (\w+)")
PLACE = re.compile(r"(?P<file>[^:\n]+):(?P<line>\d+)\b")


@dataclass(frozen=True)
class Piece:
    """A function: its text without indentation, its lines (1-based, both included), its marks."""

    text: str
    first: int
    last: int

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks whose marked code it holds; only a reference has marks."""
        return tuple(MARK.findall(self.text))


@lru_cache(maxsize=8)
def pieces(source: str) -> dict[str, Piece]:
    """Every function of a source by its dotted name; empty where Python cannot parse it."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return {}
    return dict(_functions(source, tree, ""))


def _functions(source: str, node: ast.AST, inside: str) -> Iterator[tuple[str, Piece]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield from _functions(source, child, f"{inside}{child.name}.")
        elif isinstance(child, ast.FunctionDef):
            first, last = child.lineno, child.end_lineno or child.lineno
            text = "\n".join(source.splitlines()[first - 1 : last])
            yield f"{inside}{child.name}", Piece(textwrap.dedent(text), first, last)


def tasks_at(lab: Lab, file: str, where: str) -> tuple[str, ...]:
    """The tasks that the reference writes in the function that holds this line.

    Args:
        file: the learner's file, from the repository's root; "" where it is not at hand.
        where: "lora.py:78  its text", as a failing test has it.

    Returns:
        None of them where the line, its function or the reference cannot be found.
    """
    place = PLACE.match(where)
    if not file or place is None or place["file"] != Path(file).name:
        return ()
    try:
        own = (ROOT / file).read_text(encoding="utf-8")
        reference = (ROOT / lab.reference).read_text(encoding="utf-8")
    except (OSError, UnicodeError):
        return ()
    line = int(place["line"])
    names = [name for name, piece in pieces(own).items() if piece.first <= line <= piece.last]
    known = pieces(reference)
    return known[names[0]].tasks if names and names[0] in known else ()
