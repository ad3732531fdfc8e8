"""What an adapter layer has, and how to find one in a model. Given for lab 04: read it.

Source: this project. Leaves out: what an adapter does; its files (settings.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeGuard, TypeVar

from torch import Tensor, nn

from minituner.gpt2 import Conv1D, is_conv1d

Base = nn.Linear | Conv1D
Layer = TypeVar("Layer", bound=nn.Module)


class Adapter(nn.Module):
    """What an adapter layer has. LoRALinear of lab 00 has it too, and inherits nothing from here.

    Ask `is_adapter`, not isinstance.
    """

    base: Base
    r: int
    alpha: float
    scaling: float  # alpha / r, a plain float: it never enters the state
    lora_A: nn.Parameter  # (r, in_features), base's dtype and device
    lora_B: nn.Parameter  # (out_features, r), the same

    def merge_(self) -> None:
        """Fold the update into base.weight and zero A and B; a second call changes nothing."""
        raise NotImplementedError


def is_adapter(module: object) -> TypeGuard[Adapter]:
    """Whether it is an adapter layer, by what it has and not by its class."""
    factors = (getattr(module, name, None) for name in ("lora_A", "lora_B"))
    return (
        isinstance(module, nn.Module)
        and is_base(getattr(module, "base", None))
        and all(isinstance(factor, Tensor) for factor in factors)
        and callable(getattr(module, "merge_", None))
    )


def is_base(module: object) -> TypeGuard[Base]:
    """Whether LoRA can stand beside it: an nn.Linear or a Conv1D."""
    return isinstance(module, nn.Linear) or is_conv1d(module)


def adapters_of(model: nn.Module) -> dict[str, Adapter]:
    """Every adapter layer under its dotted name; under each, where it is reached under several."""
    named = model.named_modules(remove_duplicate=False)
    return {name: module for name, module in named if is_adapter(module)}


def bases_of(model: nn.Module) -> dict[str, Base]:
    """Every module that LoRA can stand beside, under its first dotted name."""
    return {name: module for name, module in model.named_modules() if is_base(module)}


def sizes(base: Base) -> tuple[int, int]:
    """(in_features, out_features)."""
    rows, columns = base.weight.shape
    return (rows, columns) if is_conv1d(base) else (columns, rows)


def factors(base: Base, r: int) -> tuple[nn.Parameter, nn.Parameter]:
    """A new A (r, in_features) as nn.Linear's default, and B (out_features, r) of zeros.

    Both have base's dtype and device.
    """
    columns, rows = sizes(base)
    down = nn.Parameter(base.weight.new_empty(r, columns))
    nn.init.kaiming_uniform_(down, a=math.sqrt(5))
    return down, nn.Parameter(base.weight.new_zeros(rows, r))


def targets_in(
    model: nn.Module, targets: Sequence[str], wanted: Callable[[object], TypeGuard[Layer]]
) -> tuple[dict[str, Layer], list[str]]:
    """What the targets match at a dot, and the targets that match nothing.

    Only modules that are wanted and in no adapter yet; each under all of its dotted names.
    """
    taken = {adapter.base for adapter in adapters_of(model).values()}
    found = {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if wanted(module) and module not in taken and any(matches(name, t) for t in targets)
    }
    return found, unmatched(found, targets)


def freeze_all_but_adapters(model: nn.Module) -> None:
    """No parameter requires grad, except for those A and B that do already."""
    factors = {p for a in adapters_of(model).values() for p in (a.lora_A, a.lora_B)}
    for param in model.parameters():
        param.requires_grad_(param.requires_grad and param in factors)


def matches(name: str, target: str) -> bool:
    """Whether a module's dotted name is the target or ends in it, at a dot."""
    return name == target or name.endswith("." + target)


def unmatched(names: Iterable[str], targets: Iterable[str]) -> list[str]:
    """The targets that match no name, then the names that no target matches."""
    known, asked = list(names), list(targets)
    idle = [target for target in asked if not any(matches(name, target) for name in known)]
    return idle + [name for name in known if not any(matches(name, target) for target in asked)]


def place(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put module where model has the dotted name."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def check_rank(r: int, dropout: float = 0.0) -> None:
    """ValueError unless r is at least 1 and dropout a probability below 1."""
    if r < 1:
        raise ValueError(f"r: expected at least 1, got {r}; 8 is a usual choice")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout: expected a probability in [0, 1), got {dropout}")
