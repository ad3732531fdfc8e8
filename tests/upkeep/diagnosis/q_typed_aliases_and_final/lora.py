"""LoRALinear and friends, with a type alias for everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Final, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Name: TypeAlias = str
Target: TypeAlias = str
State: TypeAlias = dict[Name, Tensor]
Params: TypeAlias = dict[Name, nn.Parameter]
Linears: TypeAlias = dict[Name, nn.Linear]

SLOPE: Final[float] = sqrt(5)
MINIGPT_LINEARS: Final[tuple[Target, ...]] = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "mlp.fc1",
    "mlp.fc2",
)


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
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout: expected a float in [0, 1), got {dropout}")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        weight: Tensor = base.weight
        self.lora_A = nn.Parameter(weight.new_empty(r, base.in_features))
        self.lora_B = nn.Parameter(weight.new_zeros(base.out_features, r))
        nn.init.kaiming_uniform_(self.lora_A, a=SLOPE)
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)
        if freeze_base:
            base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        low: Tensor = F.linear(x, self.lora_A)
        high: Tensor = F.linear(low, self.lora_B)
        return out + self.scaling * high

    def merge_(self) -> None:
        weight: Tensor = self.base.weight
        wide: torch.dtype = torch.promote_types(weight.dtype, torch.float32)
        with torch.no_grad():
            update: Tensor = self.lora_B.to(wide) @ self.lora_A.to(wide)
            total: Tensor = weight.to(wide) + self.scaling * update
            weight.copy_(total)
            self.lora_A.zero_()
            self.lora_B.zero_()


def _matches(name: Name, target: Target) -> bool:
    return name == target or name.endswith(f".{target}")


def _unwrapped(model: nn.Module) -> Linears:
    bases: set[int] = {id(m.base) for m in model.modules() if isinstance(m, LoRALinear)}
    return {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, nn.Linear) and id(module) not in bases
    }


def _factors(model: nn.Module) -> Params:
    result: Params = {}
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            result[f"{name}.lora_A" if name else "lora_A"] = module.lora_A
            result[f"{name}.lora_B" if name else "lora_B"] = module.lora_B
    return result


def _freeze(model: nn.Module) -> None:
    spared: set[int] = {id(p) for p in _factors(model).values()}
    head: nn.Module | None = getattr(model, "lm_head", None)
    if isinstance(head, nn.Linear):
        # the output layer is small and learns the new task along with the adapters
        spared |= {id(p) for p in head.parameters()}
    for p in model.parameters():
        if id(p) not in spared:
            p.requires_grad_(False)


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[Target] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[Name]:
    linears: Linears = _unwrapped(model)
    unmatched: list[Target] = [
        t for t in target_modules if not any(_matches(name, t) for name in linears)
    ]
    if unmatched:
        raise ValueError(f"target_modules: expected a linear for each, got none for {unmatched}")
    chosen: Linears = {
        name: linear
        for name, linear in linears.items()
        if any(_matches(name, t) for t in target_modules)
    }
    adapters: dict[int, LoRALinear] = {}
    for name, linear in chosen.items():
        if id(linear) not in adapters:
            adapters[id(linear)] = LoRALinear(linear, r=r, alpha=alpha, dropout=dropout)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, adapters[id(linear)])
    _freeze(model)
    return list(chosen)


def lora_state_dict(model: nn.Module) -> State:
    return {name: p.detach().clone() for name, p in _factors(model).items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[Name, Tensor]) -> None:
    own: Params = _factors(model)
    missing: list[Name] = sorted(own.keys() - state.keys())
    unexpected: list[Name] = sorted(state.keys() - own.keys())
    if missing or unexpected:
        raise KeyError(f"state: missing {missing}, unexpected {unexpected}")
    name: Name
    p: nn.Parameter
    for name, p in own.items():
        value: Tensor = state[name]
        if value.shape != p.shape:
            raise ValueError(f"{name}: expected {tuple(p.shape)}, got {tuple(value.shape)}")
        if not bool(value.to(p.dtype).isfinite().all()):
            raise ValueError(f"{name}: expected finite values, got NaN or infinity")
    with torch.no_grad():
        for name, p in own.items():
            p.copy_(state[name])
