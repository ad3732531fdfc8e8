"""The style of someone who writes dropout too: an own module draws the mask and rescales."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class Drop(nn.Module):
    """Zeroes each entry with probability p and divides the others by 1 - p, in train mode only."""

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout: expected [0, 1), got {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if self.p == 0 or not self.training:
            return x
        keep = torch.rand(x.shape, device=x.device) >= self.p
        return x.masked_fill(~keep, 0) / (1 - self.p)


class LoRALinear(nn.Module):
    base: nn.Linear
    r: int
    alpha: float
    scaling: float
    lora_A: nn.Parameter
    lora_B: nn.Parameter
    drop: Drop

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
        self.drop = Drop(dropout)
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        uniform = 2 * torch.rand(r, base.in_features, device=base.weight.device) - 1
        self.lora_A = nn.Parameter((uniform / math.sqrt(base.in_features)).to(base.weight.dtype))
        self.lora_B = nn.Parameter(base.weight.new_zeros(base.out_features, r))
        if freeze_base:
            base.requires_grad_(False)
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        return out + self.scaling * F.linear(F.linear(self.drop(x), self.lora_A), self.lora_B)

    @torch.no_grad()
    def merge_(self) -> None:
        weight = self.base.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        update = self.lora_B.to(wide) @ self.lora_A.to(wide)
        weight.copy_(weight.to(wide) + self.scaling * update)
        self.lora_A.zero_()
        self.lora_B.zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    bases = {m.base for m in model.modules() if isinstance(m, LoRALinear)}
    todo: dict[nn.Linear, list[str]] = {}  # a shared linear has a list of several names
    unmatched = set(target_modules)
    for name, m in model.named_modules(remove_duplicate=False):
        if isinstance(m, nn.Linear) and m not in bases:
            hits = {t for t in target_modules if name == t or name.endswith("." + t)}
            if hits:
                todo.setdefault(m, []).append(name)
                unmatched -= hits
    if unmatched:
        raise ValueError(f"target_modules: expected a match for each, got none for {unmatched}")
    for linear, names in todo.items():
        layer = LoRALinear(linear, r, alpha, dropout)
        for name in names:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, layer)
    for name, p in model.named_parameters():
        if name.rpartition(".")[2] not in ("lora_A", "lora_B"):
            p.requires_grad_(False)
    return [name for names in todo.values() for name in names]


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: p.detach().clone()
        for name, p in model.named_parameters()
        if name.rpartition(".")[2] in ("lora_A", "lora_B")
    }


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = {
        name: p
        for name, p in model.named_parameters()
        if name.rpartition(".")[2] in ("lora_A", "lora_B")
    }
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unexpected:
        raise KeyError(*missing, *unexpected)
    unfit = [k for k, p in own.items() if p.shape != state[k].shape or not state[k].isfinite().all()]
    if unfit:
        raise ValueError("these do not fit in shape, or are not finite", *unfit)
    with torch.no_grad():
        for k, p in own.items():
            p.copy_(state[k])
