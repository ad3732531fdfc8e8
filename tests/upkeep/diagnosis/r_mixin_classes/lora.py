"""LoRA in layers of classes: what is shared lives in mixins, LoRALinear puts it together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class Scaled:
    """Something with a rank, an alpha and the scale that follows."""

    r: int
    alpha: float
    scaling: float

    def set_scale(self, r: int, alpha: float) -> None:
        if r < 1:
            raise ValueError(f"r: expected 1 or more, got {r}")
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / math.sqrt(r)


class LowRank(nn.Module):
    """Something with two factors."""

    lora_A: nn.Parameter
    lora_B: nn.Parameter

    def make_factors(self, like: Tensor, r: int) -> None:
        n_out, n_in = like.shape
        self.lora_A = nn.Parameter(like.new_empty(r, n_in))
        self.lora_B = nn.Parameter(like.new_empty(n_out, r))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)

    def low_rank(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.lora_A), self.lora_B)

    def product(self, dtype: torch.dtype) -> Tensor:
        return self.lora_B.to(dtype) @ self.lora_A.to(dtype)

    def clear_factors(self) -> None:
        with torch.no_grad():
            self.lora_A.zero_()
            self.lora_B.zero_()


class LoRALinear(LowRank, Scaled):
    base: nn.Linear
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
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout: expected [0, 1), got {dropout}")
        self.set_scale(r, alpha)
        self.base = base
        self.make_factors(base.weight, r)
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)
        if freeze_base:
            base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        return y + self.scaling * self.low_rank(self.dropout(x))

    def merge_(self) -> None:
        with torch.no_grad():
            old = self.base.weight
            wide = torch.promote_types(old.dtype, torch.float32)
            merged = (old.to(wide) + self.scaling * self.product(wide)).to(old.dtype)
            self.base.weight = nn.Parameter(merged)
        self.clear_factors()


class Wrapper:
    """Wraps one model; the steps of wrap_minigpt_with_lora are its methods."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.found: dict[str, nn.Linear] = {}

    def adapters(self) -> list[LoRALinear]:
        return [m for m in self.model.modules() if isinstance(m, LoRALinear)]

    def find(self, targets: Sequence[str]) -> None:
        bases = {adapter.base for adapter in self.adapters()}
        unmatched = set(targets)
        for name, m in self.model.named_modules(remove_duplicate=False):
            if isinstance(m, nn.Linear) and m not in bases:
                hits = {t for t in targets if name == t or name.endswith("." + t)}
                if hits:
                    self.found[name] = m
                    unmatched -= hits
        if unmatched:
            raise ValueError(f"target_modules: no linear to wrap for {sorted(unmatched)}")

    def replace(self, r: int, alpha: float, dropout: float) -> None:
        made: dict[nn.Linear, LoRALinear] = {}
        for name, linear in self.found.items():
            if linear not in made:
                made[linear] = LoRALinear(linear, r=r, alpha=alpha, dropout=dropout)
            parent, _, child = name.rpartition(".")
            setattr(self.model.get_submodule(parent), child, made[linear])

    def freeze(self) -> None:
        keep = {p for adapter in self.adapters() for p in (adapter.lora_A, adapter.lora_B)}
        for p in self.model.parameters():
            if p not in keep:
                p.requires_grad_(False)


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    wrapper = Wrapper(model)
    wrapper.find(target_modules)
    wrapper.replace(r, alpha, dropout)
    wrapper.freeze()
    return list(wrapper.found)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: p.detach().clone()
        for name, p in model.named_parameters()
        if name.rpartition(".")[2] in ("lora_A", "lora_B")
    }


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = lora_state_dict(model)
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unexpected:
        raise KeyError(f"state: missing {missing}, unexpected {unexpected}")
    for name, value in state.items():
        if value.shape != own[name].shape:
            raise ValueError(
                f"{name}: expected {tuple(own[name].shape)}, got {tuple(value.shape)}"
            )
        if not value.isfinite().all():
            raise ValueError(f"{name}: expected finite values")
    with torch.no_grad():
        for name, value in state.items():
            model.get_parameter(name).copy_(value)
