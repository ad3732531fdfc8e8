"""LoRA with properties instead of stored values wherever that works."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class LoRALinear(nn.Module):
    base: nn.Linear
    r: int
    alpha: float
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
            raise TypeError(f"base: expected nn.Linear, not {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r: expected a positive rank, not {r}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout: expected a probability in [0, 1), not {dropout}")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.lora_A = nn.Parameter(self._empty(r, self.in_features))
        self.lora_B = nn.Parameter(self._empty(self.out_features, r))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)
        if freeze_base:
            base.requires_grad_(False)

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.weight.dtype, device=self.weight.device)

    @property
    def scaling(self) -> float:
        return self.alpha / self.r

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    @property
    def in_features(self) -> int:
        return self.base.in_features

    @property
    def out_features(self) -> int:
        return self.base.out_features

    @property
    def factors(self) -> tuple[nn.Parameter, nn.Parameter]:
        return self.lora_A, self.lora_B

    @property
    def wide(self) -> torch.dtype:
        return torch.promote_types(self.weight.dtype, torch.float32)

    @property
    def update(self) -> Tensor:
        """(α/r) B A in at least float32."""
        A, B = (factor.to(self.wide) for factor in self.factors)
        return self.scaling * (B @ A)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        A, B = self.factors
        return y + self.scaling * F.linear(F.linear(self.dropout(x), A), B)

    @torch.no_grad()
    def merge_(self) -> None:
        self.weight.copy_(self.weight.to(self.wide) + self.update)
        for factor in self.factors:
            factor.zero_()


def _adapters(model: nn.Module) -> list[LoRALinear]:
    return [m for m in model.modules() if isinstance(m, LoRALinear)]


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    bases = {adapter.base for adapter in _adapters(model)}
    found: dict[str, nn.Linear] = {}
    open_targets = set(target_modules)
    for name, module in model.named_modules(remove_duplicate=False):
        hits = {t for t in target_modules if name == t or name.endswith("." + t)}
        if hits and isinstance(module, nn.Linear) and module not in bases:
            found[name] = module
            open_targets -= hits
    if open_targets:
        raise ValueError(f"target_modules: nothing left to wrap for {sorted(open_targets)}")
    made: dict[nn.Linear, LoRALinear] = {}
    for name, linear in found.items():
        if linear not in made:
            made[linear] = LoRALinear(linear, r=r, alpha=alpha, dropout=dropout)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, made[linear])
    keep = {factor for adapter in _adapters(model) for factor in adapter.factors}
    for param in model.parameters():
        if param not in keep:
            param.requires_grad_(False)
    return list(found)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    factors = {factor for adapter in _adapters(model) for factor in adapter.factors}
    return {name: p.detach() for name, p in model.named_parameters() if p in factors}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    factors = {factor for adapter in _adapters(model) for factor in adapter.factors}
    own = {name: p for name, p in model.named_parameters() if p in factors}
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or extra:
        raise KeyError(f"state: missing {missing}, unexpected {extra}")
    for name, param in own.items():
        value = state[name]
        if value.shape != param.shape:
            raise ValueError(f"{name}: {tuple(value.shape)} instead of {tuple(param.shape)}")
        if not value.isfinite().all():
            raise ValueError(f"{name}: has NaN or infinite values")
    with torch.no_grad():
        for name, param in own.items():
            param.copy_(state[name])
