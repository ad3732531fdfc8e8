"""Lab 00: LoRA. Plans are built as small frozen records, then carried out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
            raise TypeError(f"base: wanted nn.Linear, got {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r: wanted at least 1, got {r}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout: wanted [0, 1), got {dropout}")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.lora_A = nn.Parameter(base.weight.new_empty(r, base.in_features))
        self.lora_B = nn.Parameter(base.weight.new_zeros(base.out_features, r))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)
        for p in base.parameters():
            p.requires_grad_(p.requires_grad and not freeze_base)

    def forward(self, x: Tensor) -> Tensor:
        narrow = F.linear(self.dropout(x), self.lora_A * self.scaling)
        return self.base(x) + F.linear(narrow, self.lora_B)

    @torch.no_grad()
    def merge_(self) -> None:
        target = self.base.weight
        acc = torch.promote_types(target.dtype, torch.float32)
        result = target.to(acc) + self.scaling * (self.lora_B.to(acc) @ self.lora_A.to(acc))
        target.copy_(result)
        self.lora_A.zero_()
        self.lora_B.zero_()


@dataclass(frozen=True, eq=False)
class Place:
    """Somewhere in the model where a linear hangs."""

    name: str
    linear: nn.Linear
    targets: frozenset[str]

    def put(self, model: nn.Module, new: nn.Module) -> None:
        above, _, attribute = self.name.rpartition(".")
        setattr(model.get_submodule(above), attribute, new)


@dataclass(frozen=True, eq=False)
class Entry:
    """One factor of one adapter, under its full name."""

    name: str
    factor: nn.Parameter

    def complaint(self, value: Tensor) -> str | None:
        if value.shape != self.factor.shape:
            return f"{self.name}: {tuple(value.shape)} where {tuple(self.factor.shape)} is wanted"
        if not torch.isfinite(value.to(self.factor.dtype)).all():
            return f"{self.name}: NaN or infinity"
        return None

    def write(self, value: Tensor) -> None:
        self.factor.data = value


def places(model: nn.Module, target_modules: Sequence[str]) -> list[Place]:
    adapted = {id(m.base) for m in model.modules() if isinstance(m, LoRALinear)}
    found = []
    for name, m in model.named_modules(remove_duplicate=False):
        if isinstance(m, nn.Linear) and id(m) not in adapted:
            hits = frozenset(t for t in target_modules if name == t or name.endswith("." + t))
            if hits:
                found.append(Place(name, m, hits))
    return found


def entries(model: nn.Module) -> list[Entry]:
    found = []
    for name, m in model.named_modules():
        if isinstance(m, LoRALinear):
            at = name + "." if name else ""
            found += [Entry(at + "lora_A", m.lora_A), Entry(at + "lora_B", m.lora_B)]
    return found


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    plan = places(model, target_modules)
    unmatched = set(target_modules).difference(*(place.targets for place in plan))
    if unmatched:
        raise ValueError(f"target_modules: nothing to wrap for {sorted(unmatched)}")
    adapters: dict[int, LoRALinear] = {}
    for place in plan:
        key = id(place.linear)
        if key not in adapters:
            adapters[key] = LoRALinear(place.linear, r=r, alpha=alpha, dropout=dropout)
        place.put(model, adapters[key])
    keep = {id(entry.factor) for entry in entries(model)}
    for p in model.parameters():
        if id(p) not in keep:
            p.requires_grad_(False)
    return [place.name for place in plan]


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {entry.name: entry.factor.detach().clone() for entry in entries(model)}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    plan = entries(model)
    names = {entry.name for entry in plan}
    missing, unexpected = sorted(names - set(state)), sorted(set(state) - names)
    if missing or unexpected:
        raise KeyError(f"missing: {missing}, unexpected: {unexpected}")
    complaints = [c for entry in plan if (c := entry.complaint(state[entry.name]))]
    if complaints:
        raise ValueError("; ".join(complaints))
    for entry in plan:
        entry.write(state[entry.name])
