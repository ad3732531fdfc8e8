"""The style of someone who counts FLOPs: the scale multiplies the r numbers between A and B."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn import init

DEFAULT_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class LoRALinear(nn.Module):
    base: nn.Linear
    lora_A: nn.Parameter
    lora_B: nn.Parameter

    def __init__(
        self,
        base: nn.Linear,
        r: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        freeze_base: bool = True,
    ) -> None:
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base: expected torch.nn.Linear, got {base!r}")
        if not r >= 1:
            raise ValueError(f"r: expected r >= 1, got r = {r}")
        if not (dropout >= 0 and dropout < 1):
            raise ValueError(f"dropout: expected 0 <= dropout < 1, got dropout = {dropout}")
        super().__init__()
        self.r = r
        self.alpha = float(alpha)
        self.scaling = self.alpha / self.r
        self.base = base
        self.lora_dropout = nn.Dropout(dropout)
        kind = base.weight
        self.lora_A = nn.Parameter(kind.new_empty(r, base.in_features))
        self.lora_B = nn.Parameter(kind.new_empty(base.out_features, r))
        init.kaiming_uniform_(self.lora_A, a=5**0.5)
        init.zeros_(self.lora_B)
        if freeze_base:
            self.base.requires_grad_(False)
        # Only the flag of this module and of the dropout: base already is where it should be.
        self.training = base.training
        self.lora_dropout.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        h = F.linear(self.lora_dropout(x), self.lora_A) * self.scaling  # (..., r): r products a row
        y: Tensor = self.base(x)
        return y + F.linear(h, self.lora_B)

    @torch.no_grad()
    def merge_(self) -> None:
        w = self.base.weight
        acc = w.double()
        acc += (self.lora_B.double() * self.scaling) @ self.lora_A.double()
        w.copy_(acc)
        init.zeros_(self.lora_A)
        init.zeros_(self.lora_B)


def _matches(name: str, target: str) -> bool:
    parts, wanted = name.split("."), target.split(".")
    return parts[-len(wanted) :] == wanted


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = DEFAULT_TARGETS,
    dropout: float = 0.05,
) -> list[str]:
    done = {id(m.base) for m in model.modules() if isinstance(m, LoRALinear)}
    todo = {
        name: m
        for name, m in model.named_modules(remove_duplicate=False)
        if isinstance(m, nn.Linear)
        and id(m) not in done
        and any(_matches(name, t) for t in target_modules)
    }
    idle = [t for t in target_modules if not any(_matches(name, t) for name in todo)]
    if idle:
        raise ValueError(f"target_modules: expected each to match a free linear, got {idle}")
    layers = {m: LoRALinear(m, r, alpha, dropout) for m in dict.fromkeys(todo.values())}
    for name, linear in todo.items():
        model.set_submodule(name, layers[linear])
    ours = {id(p) for m in model.modules() if isinstance(m, LoRALinear) for p in (m.lora_A, m.lora_B)}
    for p in model.parameters():
        if id(p) not in ours:
            p.requires_grad_(False)
    return sorted(todo)


def _pairs(model: nn.Module) -> dict[str, nn.Parameter]:
    pairs: dict[str, nn.Parameter] = {}
    for path, m in model.named_modules():
        if isinstance(m, LoRALinear):
            pairs |= {".".join(filter(None, (path, k))): p for k, p in m.named_parameters(recurse=False)}
    return pairs


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {k: p.clone().detach() for k, p in _pairs(model).items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    pairs = _pairs(model)
    if missing := sorted(set(pairs) - set(state)):
        raise KeyError(f"expected these entries, got none: {missing}")
    if unexpected := sorted(set(state) - set(pairs)):
        raise KeyError(f"expected no such entries, got: {unexpected}")
    if wrong := [k for k, p in pairs.items() if p.size() != state[k].size()]:
        raise ValueError(
            "; ".join(f"{k}: expected {list(pairs[k].size())}, got {list(state[k].size())}" for k in wrong)
        )
    if bad := [k for k in pairs if not torch.isfinite(state[k]).all().item()]:
        raise ValueError(f"expected finite values, got others in: {bad}")
    for k, p in pairs.items():
        p.data.copy_(state[k])
