"""LoRA with einsum: every product names its indices (i = in, o = out, r = rank)."""

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
            raise TypeError(f"base should be an nn.Linear, got {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r should be at least 1, got {r}")
        if not (0 <= dropout < 1):
            raise ValueError(f"dropout should be in [0, 1), got {dropout}")

        self.r, self.alpha, self.scaling = r, alpha, alpha / r
        self.base = base
        self.dropout = nn.Dropout(p=dropout)

        dtype, device = base.weight.dtype, base.weight.device
        o, i = base.out_features, base.in_features
        self.lora_A = nn.Parameter(torch.empty((r, i), dtype=dtype, device=device))
        self.lora_B = nn.Parameter(torch.zeros((o, r), dtype=dtype, device=device))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

        if freeze_base:
            self.base.requires_grad_(False)
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        low = torch.einsum("...i,ri->...r", self.dropout(x), self.lora_A)
        return y + torch.einsum("...r,or->...o", low, self.lora_B)

    @torch.no_grad()
    def merge_(self) -> None:
        W = self.base.weight
        t = torch.promote_types(W.dtype, torch.float32)
        delta = torch.einsum("or,ri->oi", self.lora_B.to(t), self.lora_A.to(t))
        W.copy_(W.to(t) + self.scaling * delta)
        self.lora_A.zero_()
        self.lora_B.zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    inner = [m.base for m in model.modules() if isinstance(m, LoRALinear)]
    matches: list[tuple[str, nn.Linear]] = []
    seen_targets: set[str] = set()
    for name, mod in model.named_modules(remove_duplicate=False):
        if not isinstance(mod, nn.Linear) or any(mod is b for b in inner):
            continue
        which = [t for t in target_modules if ("." + name).endswith("." + t)]
        if which:
            matches.append((name, mod))
            seen_targets.update(which)

    lost = [t for t in target_modules if t not in seen_targets]
    if lost:
        raise ValueError(f"target_modules: expected a linear to wrap for each, got none for {lost}")

    made: dict[int, LoRALinear] = {}
    for name, mod in matches:
        if id(mod) not in made:
            made[id(mod)] = LoRALinear(mod, r, alpha, dropout)
        head, _, tail = name.rpartition(".")
        setattr(model.get_submodule(head), tail, made[id(mod)])

    learning = {id(p) for p in _factors(model).values()}
    for p in model.parameters():
        if id(p) not in learning:
            p.requires_grad_(False)
    return [name for name, _ in matches]


def _factors(model: nn.Module) -> dict[str, nn.Parameter]:
    out: dict[str, nn.Parameter] = {}
    for name, m in model.named_modules():
        if isinstance(m, LoRALinear):
            dot = name + "." if name else ""
            out[dot + "lora_A"] = m.lora_A
            out[dot + "lora_B"] = m.lora_B
    return out


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {k: p.detach().clone() for k, p in _factors(model).items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    mine = _factors(model)
    missing = sorted(set(mine) - set(state))
    unexpected = sorted(set(state) - set(mine))
    if missing or unexpected:
        raise KeyError(f"state has missing entries {missing} and unexpected entries {unexpected}")
    for k, p in mine.items():
        if state[k].shape != p.shape:
            raise ValueError(f"{k}: expected {tuple(p.shape)}, got {tuple(state[k].shape)}")
        if not torch.isfinite(state[k].to(p.dtype)).all():
            raise ValueError(f"{k}: expected finite values, got NaN or infinity")
    with torch.no_grad():
        for k, p in mine.items():
            p.copy_(state[k])
