"""The style of someone who goes by identity: one walk finds the linears, a second swaps every reference."""

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
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected in [0, 1), got {dropout}")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.dropout = nn.Dropout(dropout)
        self.lora_A = nn.Parameter(base.weight.new_empty(r, base.in_features))
        self.lora_B = nn.Parameter(base.weight.new_zeros(base.out_features, r))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        if freeze_base:
            base.requires_grad_(False)
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        """The branch computes in float32 at least; the sum has base's dtype again."""
        out: Tensor = self.base(x)
        wide = torch.promote_types(x.dtype, torch.float32)
        dropped: Tensor = self.dropout(x).to(wide)
        update = F.linear(F.linear(dropped, self.lora_A.to(wide)), self.lora_B.to(wide))
        return (out + self.scaling * update).to(out.dtype)

    @torch.no_grad()
    def merge_(self) -> None:
        weight = self.base.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        weight.copy_(weight.to(wide) + self.scaling * (self.lora_B.to(wide) @ self.lora_A.to(wide)))
        nn.init.zeros_(self.lora_A)
        nn.init.zeros_(self.lora_B)


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    adapted = {id(m.base) for m in model.modules() if isinstance(m, LoRALinear)}
    chosen: dict[str, nn.Linear] = {}
    unmatched = set(target_modules)
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear) and id(module) not in adapted:
            hits = {t for t in target_modules if name == t or name.endswith("." + t)}
            unmatched -= hits
            if hits and module not in chosen.values():  # by its first name that matches, once
                chosen[name] = module
    if unmatched:
        raise ValueError(f"target_modules: no match for {sorted(unmatched)}")
    new = {id(linear): LoRALinear(linear, r, alpha, dropout) for linear in chosen.values()}
    for parent in [m for m in model.modules() if not isinstance(m, LoRALinear)]:
        for attribute, child in list(parent._modules.items()):
            if id(child) in new:
                setattr(parent, attribute, new[id(child)])
    kept = {id(p) for m in model.modules() if isinstance(m, LoRALinear) for p in (m.lora_A, m.lora_B)}
    for p in model.parameters():
        p.requires_grad_(p.requires_grad and id(p) in kept)
    return list(chosen)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    names = {id(p): name for name, p in reversed(list(model.named_parameters()))}
    state: dict[str, Tensor] = {}
    for module in model.modules():
        if isinstance(module, LoRALinear):
            for p in (module.lora_A, module.lora_B):
                state[names[id(p)]] = p.detach().clone()
    return state


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = {name: model.get_parameter(name) for name in lora_state_dict(model)}
    misnamed = sorted(own.keys() ^ state.keys())
    if misnamed:
        known = [f"{n} (missing)" if n in own else f"{n} (unexpected)" for n in misnamed]
        raise KeyError(", ".join(known))
    misshapen = [n for n in own if own[n].shape != state[n].shape]
    if misshapen:
        raise ValueError(f"wrong shape: {', '.join(misshapen)}")
    unsound = [n for n in own if not state[n].isfinite().all()]
    if unsound:
        raise ValueError(f"not finite: {', '.join(unsound)}")
    with torch.no_grad():
        for n, p in own.items():
            p.copy_(state[n])
