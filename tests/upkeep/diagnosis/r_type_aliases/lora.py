"""LoRA by hand, with a name for every type that comes up twice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Name: TypeAlias = str
Names: TypeAlias = list[Name]
State: TypeAlias = dict[Name, Tensor]
Slots: TypeAlias = dict[Name, nn.Parameter]
Linears: TypeAlias = dict[Name, nn.Linear]

MINIGPT_LINEARS: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")
FACTORS: Final = ("lora_A", "lora_B")


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
            raise TypeError(f"base: {type(base).__name__} is no nn.Linear")
        if r < 1:
            raise ValueError(f"r: {r} is below 1")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout: {dropout} is outside [0, 1)")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        weight: Tensor = base.weight
        self.lora_A = nn.Parameter(weight.new_empty(r, base.in_features))
        self.lora_B = nn.Parameter(weight.new_empty(base.out_features, r))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5.0))
        nn.init.constant_(self.lora_B, 0.0)
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)
        if freeze_base:
            base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        frozen: Tensor = self.base(x)
        thin: Tensor = F.linear(self.dropout(x), self.lora_A)
        learnt: Tensor = F.linear(thin, self.lora_B)
        return frozen + self.scaling * learnt

    def merge_(self) -> None:
        weight: Tensor = self.base.weight
        wide: torch.dtype = torch.promote_types(weight.dtype, torch.float32)
        with torch.no_grad():
            update: Tensor = self.scaling * (self.lora_B.to(wide) @ self.lora_A.to(wide))
            weight.copy_(weight.to(wide) + update)
            self.lora_A.zero_()
            self.lora_B.zero_()


def _find(model: nn.Module, targets: Sequence[Name]) -> Linears:
    inside: set[nn.Linear] = {m.base for m in model.modules() if isinstance(m, LoRALinear)}
    found: Linears = {}
    unused: set[Name] = set(targets)
    for name, module in model.named_modules(remove_duplicate=False):
        if not isinstance(module, nn.Linear) or module in inside:
            continue
        hits: set[Name] = {t for t in targets if name == t or name.endswith(f".{t}")}
        if hits:
            found[name] = module
            unused -= hits
    if unused:
        raise ValueError(f"target_modules: no bare nn.Linear for {sorted(unused)}")
    return found


def _slots(model: nn.Module) -> Slots:
    return {n: p for n, p in model.named_parameters() if n.rpartition(".")[2] in FACTORS}


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    found: Linears = _find(model, target_modules)
    made: dict[nn.Linear, LoRALinear] = {}
    for name, linear in found.items():
        adapter: LoRALinear = made.get(linear) or LoRALinear(linear, r, alpha, dropout)
        made[linear] = adapter
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, adapter)
    kept: set[nn.Parameter] = set()
    for module in model.modules():
        if isinstance(module, LoRALinear):
            kept.update((module.lora_A, module.lora_B))
    for param in model.parameters():
        if param not in kept:
            param.requires_grad_(False)
    names: Names = list(found)
    return names


def lora_state_dict(model: nn.Module) -> State:
    return {name: param.detach().clone() for name, param in _slots(model).items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[Name, Tensor]) -> None:
    slots: Slots = _slots(model)
    missing: Names = sorted(slots.keys() - state.keys())
    unexpected: Names = sorted(state.keys() - slots.keys())
    if missing or unexpected:
        raise KeyError(f"state: {missing} missing, {unexpected} unexpected")
    for name, param in slots.items():
        value: Tensor = state[name]
        if value.numel() != param.numel():
            raise ValueError(f"{name}: {tuple(value.shape)} does not fit {tuple(param.shape)}")
        if not value.isfinite().all():
            raise ValueError(f"{name}: not all values are finite")
    with torch.no_grad():
        for name, param in slots.items():
            param.copy_(state[name])
