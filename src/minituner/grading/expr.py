"""What the judge asks a worker to compute, written as if the objects were here.

    layer = worker.keep(worker.star.LoRALinear(base, r=3))
    worker.tensor(layer(x))

Each attribute, item and call builds a small tree; nothing happens until the worker is asked.
Leaves out: sending (peer.py) and meaning (box/worker.py documents the codes).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

PLAIN = frozenset((str, int, float, bool, type(None)))
LEAVES = ("v", "name")  # codes of plain parts alone


class Expr:
    """A value in another process, by how it is reached."""

    __slots__ = ("_code",)

    def __init__(self, code: Any) -> None:
        self._code = code

    def __getattr__(self, name: str) -> Expr:
        kind, first, *_ = self._code
        return Expr(["name", f"{first}.{name}"] if kind == "name" else ["get", self, name])

    def __getitem__(self, key: object) -> Expr:
        return Expr(["item", self, key])

    def __call__(self, *args: object, **named: object) -> Expr:
        return Expr(["call", self, args, named])


def tried(thing: object) -> Expr:
    """What it raises there, or None."""
    return Expr(["try", thing])


def name(dotted: str) -> Expr:
    """A module, class or function by its dotted name."""
    return Expr(["name", dotted])


def _all(things: Iterable[object], tensors: list[Tensor]) -> list[Any]:
    """Each of them; most are plain, and a call for each would cost more than the rest."""
    return [thing if type(thing) in PLAIN else encode(thing, tensors) for thing in things]


def encode(thing: object, tensors: list[Tensor]) -> Any:
    """Any argument as JSON; the tensors in it are put aside, in order."""
    kind = type(thing)
    if kind in PLAIN:
        return thing
    if isinstance(thing, Expr):
        code = thing._code
        if code[0] == "call":
            _, called, args, named = code
            made = ["call", encode(called, tensors), _all(args, tensors)]
            told = _all(named.values(), tensors)
            return [*made, dict(zip(named, told, strict=True))] if named else made
        return code if code[0] in LEAVES else _all(code, tensors)
    if isinstance(thing, Tensor):
        tensors.append(thing)
        return ["t", len(tensors) - 1]
    if isinstance(thing, list | tuple):
        return [kind.__name__, _all(thing, tensors)]
    if isinstance(thing, dict):
        return ["dict", [_all(row, tensors) for row in thing.items()]]
    raise TypeError(f"expected what crosses to a worker, got {type(thing).__name__}")
