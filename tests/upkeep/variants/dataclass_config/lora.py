"""The style of someone who configures everything: the numbers live in a frozen dataclass that checks itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


@dataclass(frozen=True, slots=True)
class LoRAConfig:
    """The hyper-parameters of one adapter."""

    r: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    freeze_base: bool = True

    def __post_init__(self) -> None:
        if self.r < 1:
            raise ValueError(f"r: expected at least 1, got {self.r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: expected [0, 1), got {self.dropout}")

    @property
    def scaling(self) -> float:
        return self.alpha / self.r


@dataclass
class Plan:
    """What a wrap is going to do, worked out before anything is done."""

    model: nn.Module
    targets: tuple[str, ...]
    linears: dict[str, nn.Linear] = field(default_factory=dict)
    unmatched: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        taken = {m.base for m in self.model.modules() if isinstance(m, LoRALinear)}
        hit: set[str] = set()
        for name, module in self.model.named_modules(remove_duplicate=False):
            if isinstance(module, nn.Linear) and module not in taken:
                reasons = [t for t in self.targets if name == t or name.endswith("." + t)]
                if reasons:
                    self.linears[name] = module
                    hit.update(reasons)
        self.unmatched = [t for t in self.targets if t not in hit]

    def carry_out(self, config: LoRAConfig) -> None:
        layers: dict[nn.Linear, LoRALinear] = {}
        for name, linear in self.linears.items():
            if linear not in layers:
                layers[linear] = LoRALinear.from_config(linear, config)
            parent, _, child = name.rpartition(".")
            setattr(self.model.get_submodule(parent), child, layers[linear])


class LoRALinear(nn.Module):
    base: nn.Linear
    config: LoRAConfig
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
        self.config = LoRAConfig(r, alpha, dropout, freeze_base)
        self.base = base
        self.lora_A = nn.Parameter(base.weight.new_empty(r, base.in_features))
        self.lora_B = nn.Parameter(base.weight.new_zeros(base.out_features, r))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.dropout = nn.Dropout(self.config.dropout)
        if self.config.freeze_base:
            base.requires_grad_(False)
        self.train(base.training)

    @classmethod
    def from_config(cls, base: nn.Linear, config: LoRAConfig) -> LoRALinear:
        return cls(base, config.r, config.alpha, config.dropout, config.freeze_base)

    @property
    def r(self) -> int:
        return self.config.r

    @property
    def alpha(self) -> float:
        return self.config.alpha

    @property
    def scaling(self) -> float:
        return self.config.scaling

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        return out + self.scaling * F.linear(F.linear(self.dropout(x), self.lora_A), self.lora_B)

    @torch.no_grad()
    def merge_(self) -> None:
        w = self.base.weight
        wide = torch.promote_types(w.dtype, torch.float32)
        w.copy_(w.to(wide) + self.scaling * (self.lora_B.to(wide) @ self.lora_A.to(wide)))
        self.lora_A.zero_()
        self.lora_B.zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    config = LoRAConfig(r=r, alpha=alpha, dropout=dropout)
    plan = Plan(model, tuple(target_modules))
    if plan.unmatched:
        raise ValueError(f"target_modules: these match no nn.Linear: {', '.join(plan.unmatched)}")
    plan.carry_out(config)
    keep = {p for layer in model.modules() if isinstance(layer, LoRALinear) for p in (layer.lora_A, layer.lora_B)}
    for p in set(model.parameters()) - keep:
        p.requires_grad_(False)
    return list(plan.linears)


@dataclass(frozen=True)
class Comparison:
    """A saved state held against the adapters of a model."""

    missing: list[str]
    unexpected: list[str]
    shapes: list[str]
    values: list[str]

    @classmethod
    def of(cls, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Comparison:
        both = [k for k in own if k in state]
        return cls(
            missing=[k for k in own if k not in state],
            unexpected=[k for k in state if k not in own],
            shapes=[k for k in both if own[k].shape != state[k].shape],
            values=[k for k in both if not bool(state[k].isfinite().all())],
        )


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: p.detach().clone()
        for name, p in model.named_parameters()
        if name.rpartition(".")[2] in ("lora_A", "lora_B")
    }


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    compared = Comparison.of(lora_state_dict(model), state)
    if compared.missing or compared.unexpected:
        raise KeyError(f"missing {compared.missing}, unexpected {compared.unexpected}")
    if compared.shapes or compared.values:
        raise ValueError(f"wrong shape: {compared.shapes}; not finite: {compared.values}")
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in state.items():
            parameters[name].copy_(value)
