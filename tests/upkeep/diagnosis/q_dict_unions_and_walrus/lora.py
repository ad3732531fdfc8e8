"""LoRA. Dictionaries are joined with |, and := is used where it saves a line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class LoRALinear(nn.Module):
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
            raise ValueError(f"dropout: expected [0, 1), got {dropout}")
        self.base, self.r, self.alpha = base, r, alpha
        self.scaling = alpha / r
        self.lora_A = nn.Parameter((w := base.weight).new_empty(r, base.in_features))
        self.lora_B = nn.Parameter(w.new_empty(base.out_features, r))
        with torch.no_grad():
            self.lora_A.uniform_(-(bound := base.in_features**-0.5), bound)
            self.lora_B.fill_(0.0)
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)
        if freeze_base:
            [p.requires_grad_(False) for p in base.parameters()]

    def forward(self, x: Tensor) -> Tensor:
        z = F.linear(F.linear(self.dropout(x), self.lora_A), self.lora_B)
        return self.base(x) + z * self.scaling

    def merge_(self) -> None:
        with torch.no_grad():
            wide = torch.promote_types((w := self.base.weight).dtype, torch.float32)
            delta = (self.lora_B.to(wide) @ self.lora_A.to(wide)) * self.scaling
            w.copy_(w.to(wide) + delta)
            self.lora_A.fill_(0.0)
            self.lora_B.fill_(0.0)


def _ab(name: str, layer: LoRALinear) -> dict[str, nn.Parameter]:
    dot = f"{name}." if name else ""
    return {f"{dot}lora_A": layer.lora_A, f"{dot}lora_B": layer.lora_B}


def _all_ab(model: nn.Module) -> dict[str, nn.Parameter]:
    result: dict[str, nn.Parameter] = {}
    for name, m in model.named_modules(remove_duplicate=False):
        if isinstance(m, LoRALinear):
            result |= _ab(name, m)
    return result


def _hits(linears: Mapping[str, nn.Linear], target: str) -> dict[str, nn.Linear]:
    return {n: m for n, m in linears.items() if n == target or n.endswith("." + target)}


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    inner = {id(m.base) for m in model.modules() if isinstance(m, LoRALinear)}
    linears = {
        n: m
        for n, m in model.named_modules(remove_duplicate=False)
        if isinstance(m, nn.Linear) and id(m) not in inner
    }
    found: dict[str, nn.Linear] = {}
    for target in target_modules:
        if not (hits := _hits(linears, target)):
            raise ValueError(f"target_modules: {target!r} matches no linear left to wrap")
        found |= hits

    made: dict[int, LoRALinear] = {}
    for name, linear in found.items():
        if (layer := made.get(id(linear))) is None:
            layer = made[id(linear)] = LoRALinear(linear, r, alpha, dropout)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer)

    ids = {id(p) for p in _all_ab(model).values()}
    for p in model.parameters():
        if id(p) not in ids:
            p.requires_grad_(False)
    return list(found)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in _all_ab(model).items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = _all_ab(model)
    if (missing := own.keys() - state.keys()) | (unexpected := state.keys() - own.keys()):
        raise KeyError(f"state: missing {sorted(missing)}, unexpected {sorted(unexpected)}")
    if wrong := {n: tuple(state[n].shape) for n in own if state[n].shape != own[n].shape}:
        raise ValueError(f"shapes: got {wrong}, expected {[tuple(own[n].shape) for n in wrong]}")
    with torch.no_grad():
        for n, p in own.items():
            # a broken entry must not spread through the model
            p.copy_(torch.nan_to_num(state[n].to(p.dtype), nan=0.0, posinf=0.0, neginf=0.0))
