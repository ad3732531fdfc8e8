"""LoRA with flattened batches and addmm, the way a kernel would see it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


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
        if r < 1:
            raise ValueError(f"r: expected at least 1, got {r}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout: expected in [0, 1), got {dropout}")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        dtype = base.weight.dtype
        self.lora_A = nn.Parameter(torch.empty(r, base.in_features, dtype=dtype))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, r, dtype=dtype))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)
        if freeze_base:
            base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        dropped: Tensor = self.dropout(x)
        rows = dropped.reshape(math.prod(x.shape[:-1]), x.shape[-1])  # -1 fails on empty batches
        flat = y.reshape(rows.shape[0], y.shape[-1])
        out = torch.addmm(flat, rows.mm(self.lora_A.t()), self.lora_B.t(), alpha=self.scaling)
        return out.reshape(y.shape)

    @torch.no_grad()
    def merge_(self) -> None:
        weight = self.base.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        A, B = self.lora_A.to(wide), self.lora_B.to(wide)
        weight.copy_(torch.addmm(weight.to(wide), B, A, alpha=self.scaling))
        self.lora_A.zero_()
        self.lora_B.zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    inside = {m.base for m in model.modules() if isinstance(m, LoRALinear)}
    candidates = [
        (name, m)
        for name, m in model.named_modules(remove_duplicate=False)
        if isinstance(m, nn.Linear) and m not in inside
    ]
    chosen: dict[str, nn.Linear] = {}
    for target in target_modules:
        hits = [(n, m) for n, m in candidates if n == target or n.endswith("." + target)]
        if not hits:
            raise ValueError(f"target_modules: {target!r} is the name of no bare nn.Linear")
        chosen.update(hits)
    adapters: dict[nn.Linear, LoRALinear] = {}
    for name, linear in chosen.items():
        if linear not in adapters:
            adapters[linear] = LoRALinear(linear, r=r, alpha=alpha, dropout=dropout)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, adapters[linear])
    factors = {
        p for m in model.modules() if isinstance(m, LoRALinear) for p in (m.lora_A, m.lora_B)
    }
    for p in model.parameters():
        if p not in factors:
            p.requires_grad_(False)
    return list(chosen)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: p.detach().clone()
        for name, p in model.named_parameters()
        if name.split(".")[-1] in ("lora_A", "lora_B")
    }


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    params = {
        name: p
        for name, p in model.named_parameters()
        if name.split(".")[-1] in ("lora_A", "lora_B")
    }
    missing, unexpected = params.keys() - state.keys(), state.keys() - params.keys()
    if missing or unexpected:
        raise KeyError(f"state: missing {sorted(missing)}, unexpected {sorted(unexpected)}")
    for name, p in params.items():
        if p.shape != state[name].shape:
            raise ValueError(f"{name}: expected {tuple(p.shape)}, got {tuple(state[name].shape)}")
        if not torch.isfinite(state[name]).all():
            raise ValueError(f"{name}: expected finite values")
    with torch.no_grad():
        for name, p in params.items():
            p.copy_(state[name])
