"""What the judge asks a worker to compute, written as if the objects were here.

    layer = worker.keep(worker.star.LoRALinear(base, r=3))
    worker.tensor(layer(x))

Each attribute, item and call builds a small tree; nothing happens until the worker is asked.
Leaves out: sending (peer.py) and meaning (box/worker.py documents the codes).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

PLAIN = (str, int, float, bool, type(None))


class Expr:
    """A value in another process, by how it is reached."""

    def __init__(self, code: Any) -> None:
        self._code = code

    def __getattr__(self, name: str) -> Expr:
        kind, first, *_ = self._code
        return Expr(["name", f"{first}.{name}"] if kind == "name" else ["get", self, name])

    def __getitem__(self, key: object) -> Expr:
        return Expr(["item", self, key])

    def __call__(self, *args: object, **named: object) -> Expr:
        return Expr(["call", self, list(args), named])


def tried(thing: object) -> Expr:
    """What it raises there, or None."""
    return Expr(["try", thing])


def name(dotted: str) -> Expr:
    """A module, class or function by its dotted name."""
    return Expr(["name", dotted])


def encode(thing: object, tensors: list[Tensor]) -> Any:
    """Any argument as JSON; the tensors in it are put aside, in order."""
    if type(thing) in PLAIN:
        return thing
    if isinstance(thing, Expr):
        kind, *parts = thing._code
        if kind == "call":
            called, args, named = parts
            code = ["call", encode(called, tensors), [encode(arg, tensors) for arg in args]]
            told = {key: encode(value, tensors) for key, value in named.items()}
            return [*code, told] if told else code
        return [kind, *[encode(part, tensors) for part in parts]]
    if isinstance(thing, Tensor):
        tensors.append(thing)
        return ["t", len(tensors) - 1]
    if isinstance(thing, list | tuple):
        return [type(thing).__name__, [encode(item, tensors) for item in thing]]
    if isinstance(thing, dict):
        return ["dict", [[encode(k, tensors), encode(v, tensors)] for k, v in thing.items()]]
    raise TypeError(f"expected what crosses to a worker, got {type(thing).__name__}")
