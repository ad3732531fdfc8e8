"""Lab 00. I walk the model with a stack of my own: it is clear what is visited, and when."""

from __future__ import annotations

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
            raise TypeError(f"base: {type(base).__name__} given, nn.Linear needed")
        if r < 1:
            raise ValueError(f"r: {r} given, at least 1 needed")
        if dropout < 0 or dropout >= 1:
            raise ValueError(f"dropout: {dropout} given, a number in [0, 1) needed")

        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r

        dt, dev = base.weight.dtype, base.weight.device
        A = torch.empty(r, base.in_features, dtype=dt, device=dev)
        nn.init.xavier_uniform_(A)
        self.lora_A = nn.Parameter(A)
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, r, dtype=dt, device=dev))

        self.dropout = nn.Dropout(dropout)
        self.train(base.training)
        if freeze_base:
            self.base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        low_rank = F.linear(F.linear(self.dropout(x), self.lora_A), self.lora_B)
        full: Tensor = self.base(x)
        return full + low_rank * self.scaling

    def merge_(self) -> None:
        with torch.no_grad():
            weight = self.base.weight
            if weight.dtype in (torch.float32, torch.float64):
                weight += self.scaling * (self.lora_B @ self.lora_A)
            else:
                total = weight.float() + self.scaling * (self.lora_B.float() @ self.lora_A.float())
                weight.copy_(total)
            self.lora_A.zero_()
            self.lora_B.zero_()


Slot = tuple[nn.Module, str, str, nn.Module]  # parent, attribute, dotted name, child


def _slots(model: nn.Module) -> list[Slot]:
    """Every place in the model where a module hangs, top down; adapters are not opened."""
    found: list[Slot] = []
    stack: list[tuple[str, nn.Module]] = [("", model)]
    while stack:
        path, module = stack.pop()
        if isinstance(module, LoRALinear):
            continue
        below: list[tuple[str, nn.Module]] = []
        for attribute, child in module._modules.items():
            if child is not None:
                name = f"{path}.{attribute}" if path else attribute
                found.append((module, attribute, name, child))
                below.append((name, child))
        stack.extend(reversed(below))
    return found


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    slots = _slots(model)
    bases = {id(m.base) for m in model.modules() if isinstance(m, LoRALinear)}

    plan: list[tuple[nn.Module, str, str, nn.Linear]] = []
    remaining = set(target_modules)
    for parent, attribute, name, child in slots:
        if not isinstance(child, nn.Linear) or id(child) in bases:
            continue
        hits = [t for t in target_modules if t == name or name.endswith("." + t)]
        if hits:
            plan.append((parent, attribute, name, child))
            remaining.difference_update(hits)
    if remaining:
        raise ValueError(f"target_modules: {sorted(remaining)} given, but no free linear matches")

    layers: dict[int, LoRALinear] = {}
    for parent, attribute, _, linear in plan:
        if id(linear) not in layers:
            layers[id(linear)] = LoRALinear(linear, r=r, alpha=alpha, dropout=dropout)
        setattr(parent, attribute, layers[id(linear)])

    keep: set[int] = set()
    for module in model.modules():
        if isinstance(module, LoRALinear):
            keep.add(id(module.lora_A))
            keep.add(id(module.lora_B))
    for p in model.parameters():
        if id(p) not in keep:
            p.requires_grad_(False)

    return [name for _, _, name, _ in plan]


def _factors(model: nn.Module) -> dict[str, nn.Parameter]:
    factors: dict[str, nn.Parameter] = {}
    stack: list[tuple[str, nn.Module]] = [("", model)]
    seen: set[int] = set()
    while stack:
        path, module = stack.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        prefix = f"{path}." if path else ""
        if isinstance(module, LoRALinear):
            factors[prefix + "lora_A"] = module.lora_A
            factors[prefix + "lora_B"] = module.lora_B
            continue
        stack.extend((prefix + name, child) for name, child in module.named_children())
    return factors


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in sorted(_factors(model).items())}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    factors = _factors(model)
    missing = sorted(factors.keys() - state.keys())
    surplus = sorted(state.keys() - factors.keys())
    if missing or surplus:
        raise KeyError(f"state: these are missing: {missing}; these are unexpected: {surplus}")

    for name, p in factors.items():
        value = state[name]
        if value.shape != p.shape:
            raise ValueError(f"{name}: {tuple(value.shape)} given, {tuple(p.shape)} needed")
        if not value.to(p.dtype).isfinite().all():
            raise ValueError(f"{name}: NaN or infinity given, finite values needed")

    with torch.no_grad():
        for name, p in factors.items():
            p.copy_(state[name])
