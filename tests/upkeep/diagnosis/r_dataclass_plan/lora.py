"""LoRA by hand. Wrapping is planned first (a dataclass), then carried out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


@dataclass(frozen=True)
class Settings:
    """The numbers an adapter is built from, checked once."""

    r: int
    alpha: float
    dropout: float

    def __post_init__(self) -> None:
        if self.r < 1:
            raise ValueError(f"r: expected >= 1, got {self.r}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout: expected 0 <= p < 1, got {self.dropout}")

    @property
    def scaling(self) -> float:
        return self.alpha / self.r


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
        settings = Settings(r, alpha, dropout)
        self.base = base
        self.r = settings.r
        self.alpha = settings.alpha
        self.scaling = settings.scaling
        self.lora_A = nn.Parameter(base.weight.new_empty(r, base.in_features))
        self.lora_B = nn.Parameter(base.weight.new_zeros(base.out_features, r))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.dropout = nn.Dropout(settings.dropout)
        self.train(base.training)
        if freeze_base:
            base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        return out + self.scaling * F.linear(F.linear(self.dropout(x), self.lora_A), self.lora_B)

    def merge_(self) -> None:
        weight = self.base.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        with torch.no_grad():
            update = self.scaling * (self.lora_B.to(wide) @ self.lora_A.to(wide))
            weight.copy_(weight.to(wide) + update)
            self.lora_A.zero_()
            self.lora_B.zero_()


@dataclass
class Plan:
    """Which linear is replaced where, and which target found what."""

    places: list[tuple[str, nn.Linear]] = field(default_factory=list)
    matches: dict[str, int] = field(default_factory=dict)

    def found_nothing(self) -> bool:
        return sum(self.matches.values()) == 0

    def names(self) -> list[str]:
        return [name for name, _ in self.places]


def make_plan(model: nn.Module, targets: Sequence[str]) -> Plan:
    plan = Plan(matches={target: 0 for target in targets})
    wrapped = {m.base for m in model.modules() if isinstance(m, LoRALinear)}
    for name, module in model.named_modules(remove_duplicate=False):
        if not isinstance(module, nn.Linear) or module in wrapped:
            continue
        hits = [t for t in plan.matches if name == t or name.endswith("." + t)]
        for target in hits:
            plan.matches[target] += 1
        if hits:
            plan.places.append((name, module))
    return plan


def carry_out(model: nn.Module, plan: Plan, settings: Settings) -> None:
    made: dict[nn.Linear, LoRALinear] = {}
    for name, linear in plan.places:
        if linear not in made:
            made[linear] = LoRALinear(linear, settings.r, settings.alpha, settings.dropout)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, made[linear])


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    plan = make_plan(model, target_modules)
    if plan.found_nothing():
        raise ValueError(f"target_modules: no linear to wrap for {list(target_modules)}")
    carry_out(model, plan, Settings(r, alpha, dropout))
    adapter_params = {
        p for m in model.modules() if isinstance(m, LoRALinear) for p in (m.lora_A, m.lora_B)
    }
    for param in model.parameters():
        if param not in adapter_params:
            param.requires_grad_(False)
    return plan.names()


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: param.detach().clone()
        for name, param in model.named_parameters()
        if name.rpartition(".")[2] in {"lora_A", "lora_B"}
    }


@dataclass
class Problems:
    """What is wrong with a state."""

    missing: list[str]
    unexpected: list[str]
    shapes: list[str] = field(default_factory=list)
    values: list[str] = field(default_factory=list)

    def complain(self) -> None:
        if self.missing or self.unexpected:
            raise KeyError(f"state: missing {self.missing}, unexpected {self.unexpected}")
        if self.shapes:
            raise ValueError("state: wrong shapes: " + "; ".join(self.shapes))
        if self.values:
            raise ValueError(f"state: not finite: {self.values}")


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = lora_state_dict(model)
    problems = Problems(sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys()))
    for name in own.keys() & state.keys():
        value = state[name]
        if value.shape != own[name].shape:
            problems.shapes.append(f"{name} {tuple(own[name].shape)} got {tuple(value.shape)}")
        elif not value.isfinite().all():
            problems.values.append(name)
    problems.complain()
    params = dict(model.named_parameters())
    with torch.no_grad():
        for name in own:
            params[name].copy_(state[name])
