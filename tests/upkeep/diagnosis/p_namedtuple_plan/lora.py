from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class LoRALinear(nn.Module):
    """W x + b + (alpha / r) B A x

    W, b: frozen; A: (r, in), B: (out, r), trained
    """

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
            raise TypeError(f"base is {type(base).__name__}, expected nn.Linear")
        if r < 1:
            raise ValueError(f"r is {r}, expected at least 1")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}, expected [0, 1)")

        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r

        self.lora_A = nn.Parameter(torch.empty_like(base.weight[0]).new_empty(r, base.in_features))
        self.lora_B = nn.Parameter(torch.empty_like(base.weight[0]).new_zeros(base.out_features, r))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

        self.dropout = nn.Dropout(dropout)
        self.train(base.training)

        if freeze_base:
            base.requires_grad_(False)

    def adapter(self, x: Tensor) -> Tensor:
        low = nn.functional.linear(x, self.lora_A)
        high = nn.functional.linear(low, self.lora_B)
        out: Tensor = self.dropout(high)
        return out

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        return out + self.scaling * self.adapter(x)

    @torch.no_grad()
    def merge_(self) -> None:
        weight = self.base.weight
        dtype = torch.promote_types(torch.float32, weight.dtype)
        product = self.lora_B.to(dtype) @ self.lora_A.to(dtype)
        weight.copy_(weight.to(dtype) + self.scaling * product)
        self.lora_A.zero_()
        self.lora_B.zero_()


class Step(NamedTuple):
    """Put a LoRALinear around linear, and hang it on parent as child."""

    name: str
    parent: nn.Module
    child: str
    linear: nn.Linear


class Plan(NamedTuple):
    steps: list[Step]
    unmatched: list[str]


def make_plan(model: nn.Module, targets: Sequence[str]) -> Plan:
    off_limits = {id(m.base) for m in model.modules() if isinstance(m, LoRALinear)}
    steps: list[Step] = []
    matched: set[str] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        if not isinstance(module, nn.Linear) or id(module) in off_limits:
            continue
        by = {t for t in targets if name == t or name.endswith(f".{t}")}
        if by:
            matched |= by
            parent, _, child = name.rpartition(".")
            steps.append(Step(name, model.get_submodule(parent), child, module))
    return Plan(steps, [t for t in targets if t not in matched])


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    plan = make_plan(model, target_modules)
    if plan.unmatched:
        raise ValueError(f"target_modules matching no unwrapped nn.Linear: {plan.unmatched}")

    made: dict[int, LoRALinear] = {}
    for step in plan.steps:
        key = id(step.linear)
        made[key] = made.get(key) or LoRALinear(step.linear, r, alpha, dropout)
        setattr(step.parent, step.child, made[key])

    keep: set[int] = set()
    for module in model.modules():
        if isinstance(module, LoRALinear):
            keep.update(map(id, (module.lora_A, module.lora_B)))
    for param in model.parameters():
        if id(param) not in keep:
            param.requires_grad_(False)
    return [step.name for step in plan.steps]


class Entry(NamedTuple):
    name: str
    param: nn.Parameter


def entries(model: nn.Module) -> list[Entry]:
    found: list[Entry] = []
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            prefix = f"{name}." if name else ""
            found.append(Entry(prefix + "lora_A", module.lora_A))
            found.append(Entry(prefix + "lora_B", module.lora_B))
    return found


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {entry.name: entry.param.detach().clone() for entry in entries(model)}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = entries(model)
    names = [entry.name for entry in own]
    missing = [name for name in names if name not in state]
    unexpected = [name for name in state if name not in names]
    if missing or unexpected:
        raise KeyError(f"missing {missing}, unexpected {unexpected}")

    for name, param in own:
        if state[name].shape != param.shape:
            raise ValueError(f"{name} is {tuple(state[name].shape)}, expected {tuple(param.shape)}")
        if not torch.isfinite(state[name].to(param.dtype)).all():
            raise ValueError(f"{name} is not finite")

    with torch.no_grad():
        for name, param in own:
            param.copy_(state[name])
