"""The style of someone who leans on state_dict(): saving filters it, loading goes through load_state_dict."""

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
            raise TypeError(f"base: expected nn.Linear, got {type(base)}")
        if r < 1:
            raise ValueError(f"r: expected a positive rank, got {r}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout: expected 0 <= dropout < 1, got {dropout}")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        factory = base.weight.new_empty
        self.lora_A = nn.Parameter(factory((r, base.in_features)))
        self.lora_B = nn.Parameter(factory((base.out_features, r)).zero_())
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.dropout = nn.Dropout(dropout)
        if freeze_base:
            base.requires_grad_(False)
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        return out + self.scaling * F.linear(F.linear(self.dropout(x), self.lora_A), self.lora_B)

    @torch.no_grad()
    def merge_(self) -> None:
        w = self.base.weight
        wide = torch.promote_types(w.dtype, torch.float32)
        merged = w.to(wide) + self.scaling * self.lora_B.to(wide) @ self.lora_A.to(wide)
        self.load_state_dict(
            {
                **self.state_dict(),
                "base.weight": merged.to(w.dtype),
                "lora_A": torch.zeros_like(self.lora_A),
                "lora_B": torch.zeros_like(self.lora_B),
            }
        )


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    """A shared linear is looked up once and replaced wherever it hangs, under all its names."""
    bases = {m.base for m in model.modules() if isinstance(m, LoRALinear)}
    names: list[str] = []
    chosen: list[nn.Linear] = []
    unmatched = set(target_modules)
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear) and module not in bases:
            matching = {t for t in target_modules if name == t or name.endswith("." + t)}
            if matching:
                unmatched -= matching
                if module not in chosen:
                    chosen.append(module)
                    names.append(name)
    if unmatched:
        raise ValueError(f"target_modules: {sorted(unmatched)} match no nn.Linear")

    replacement = {linear: LoRALinear(linear, r, alpha, dropout) for linear in chosen}
    for parent in list(model.modules()):
        if isinstance(parent, LoRALinear):
            continue
        for attribute, child in list(parent._modules.items()):
            if isinstance(child, nn.Linear) and child in replacement:
                setattr(parent, attribute, replacement[child])

    adapters = {id(p) for m in model.modules() if isinstance(m, LoRALinear) for p in (m.lora_A, m.lora_B)}
    for parameter in model.parameters():
        if id(parameter) not in adapters:
            parameter.requires_grad_(False)
    return names


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    # state_dict() holds every name, so a shared adapter is in it under all of them.
    return {
        key: value.clone()
        for key, value in model.state_dict().items()
        if key.endswith(("lora_A", "lora_B"))
    }


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = lora_state_dict(model)
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    if missing or unexpected:
        raise KeyError(f"adapter entries missing: {missing}; unexpected: {unexpected}")
    resized = [key for key in own if own[key].shape != state[key].shape]
    if resized:
        raise ValueError(f"adapter entries of another shape: {resized}; was r changed?")
    broken = [key for key in own if not torch.isfinite(state[key]).all()]
    if broken:
        raise ValueError(f"adapter entries with NaN or inf: {broken}")
    model.load_state_dict(dict(state), strict=False)
