"""The style of someone who thinks in trees: a recursion over the children, first to look, then to wrap."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LoRALinear(nn.Module):
    base: nn.Linear
    r: int
    alpha: float
    scaling: float
    lora_A: nn.Parameter
    lora_B: nn.Parameter
    dropout: nn.Dropout

    def __init__(
        self,
        base: nn.Linear,
        r: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        freeze_base: bool = True,
    ) -> None:
        super().__init__()
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base: expected nn.Linear, got {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r: expected at least 1, got {r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected [0, 1), got {dropout}")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.dropout = nn.Dropout(dropout)
        self.lora_A = nn.Parameter(base.weight.new_empty(r, base.in_features))
        self.lora_B = nn.Parameter(base.weight.new_empty(base.out_features, r))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)
        if freeze_base:
            base.requires_grad_(False)
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        branch = F.linear(self.dropout(x), self.lora_A)
        branch = F.linear(branch, self.lora_B)
        return y.add(branch, alpha=self.scaling)

    def merge_(self) -> None:
        with torch.no_grad():
            weight = self.base.weight
            wide = torch.promote_types(weight.dtype, torch.float32)
            weight.copy_(
                weight.to(wide) + self.scaling * (self.lora_B.to(wide) @ self.lora_A.to(wide))
            )
            self.lora_A.zero_()
            self.lora_B.zero_()


def _children(node: nn.Module) -> list[tuple[str, nn.Module]]:
    # named_children() would leave out the second name of a child that has two here.
    return [(name, child) for name, child in node._modules.items() if child is not None]


def _look(node: nn.Module, prefix: str = "") -> Iterator[str]:
    for name, child in _children(node):
        path = prefix + name
        if isinstance(child, LoRALinear):
            continue  # never look inside an adapter
        if isinstance(child, nn.Linear):
            yield path
        yield from _look(child, path + ".")


def _wrap(
    node: nn.Module,
    paths: set[str],
    made: dict[nn.Linear, LoRALinear],
    r: int,
    alpha: float,
    dropout: float,
    prefix: str = "",
) -> list[str]:
    wrapped: list[str] = []
    for name, child in _children(node):
        path = prefix + name
        if isinstance(child, LoRALinear) and child not in made.values():
            continue
        if path in paths and isinstance(child, nn.Linear):
            layer = made.get(child)
            if layer is None:
                layer = made[child] = LoRALinear(child, r, alpha, dropout)
            setattr(node, name, layer)
            wrapped.append(path)
        elif path in paths:
            wrapped.append(path)  # its owner is shared: it was wrapped under another name
        else:
            wrapped += _wrap(child, paths, made, r, alpha, dropout, path + ".")
    return wrapped


def _freeze(node: nn.Module) -> None:
    if isinstance(node, LoRALinear):
        node.base.requires_grad_(False)
        return
    for parameter in node.parameters(recurse=False):
        parameter.requires_grad_(False)
    for _, child in _children(node):
        _freeze(child)


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2"),
    dropout: float = 0.05,
) -> list[str]:
    paths: set[str] = set()
    unmatched = set(target_modules)
    for path in _look(model):
        hits = {t for t in target_modules if path == t or path.endswith("." + t)}
        if hits:
            paths.add(path)
            unmatched -= hits
    if unmatched:
        raise ValueError(f"target_modules: expected a linear to wrap, got none for {unmatched}")
    wrapped = _wrap(model, paths, {}, r, alpha, dropout)
    _freeze(model)
    return wrapped


def _collect(node: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Parameter]]:
    if isinstance(node, LoRALinear):
        yield prefix + "lora_A", node.lora_A
        yield prefix + "lora_B", node.lora_B
        return
    for name, child in _children(node):
        yield from _collect(child, f"{prefix}{name}.")


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    # A shared adapter appears under each of its names, as in state_dict().
    return {name: parameter.detach().clone() for name, parameter in _collect(model)}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = dict(_collect(model))
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    if missing or unexpected:
        raise KeyError(f"adapter state: missing {missing}, unexpected {unexpected}")
    faults = []
    for name, parameter in own.items():
        if state[name].shape != parameter.shape:
            faults.append(f"{name}: expected {tuple(parameter.shape)}, got {tuple(state[name].shape)}")
        if not torch.isfinite(state[name]).all():
            faults.append(f"{name}: expected finite values")
    if faults:
        raise ValueError("\n".join(faults))
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])
