"""Several adapters beside one model, whose modules stay as they are. Given for lab 04: read it.

A forward hook stands on every nn.Linear and Conv1D of the model, and asks the lab's code what to
add to the output. So nothing is wrapped: the model's state has the same keys all the time.
Leaves out: the sum itself, attaching and detaching; bridge.py does that. No gradient is wanted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor, nn

from minituner.adapters import Base, bases_of
from minituner.settings import Pairs

Names = str | None | list[str | None]  # an adapter for the whole batch, none, or one for each row


@dataclass
class Held:
    """One adapter, ready for one model."""

    scaling: float
    pairs: Pairs


@dataclass
class Shelf:
    """A model and its adapters by name; `chosen` says which of them work."""

    model: nn.Module
    bases: dict[str, Base] = field(default_factory=dict)
    held: dict[str, Held] = field(default_factory=dict)
    chosen: Names = None


def shelf_for(model: nn.Module, adapted: Callable[[Shelf, str, Tensor, Tensor], Tensor]) -> Shelf:
    """A shelf with nothing on it; from now on, `adapted` decides what each base gives.

    Args:
        adapted: gets the shelf, the base's dotted name, its input and its output.
    """
    shelf = Shelf(model, bases_of(model))

    def hook(name: str, base: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        return adapted(shelf, name, args[0], out)

    for name, base in shelf.bases.items():
        base.register_forward_hook(partial(hook, name))
    return shelf
