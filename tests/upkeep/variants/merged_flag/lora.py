"""The style of someone from loralib: a `merged` flag says in which state the layer is."""

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
    merged: bool
    lora_A: nn.Parameter
    lora_B: nn.Parameter

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
            raise ValueError(f"r: expected r >= 1, got {r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected 0 <= p < 1, got {dropout}")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.merged = False
        self.lora_dropout = nn.Dropout(p=dropout) if dropout else nn.Identity()
        self.lora_A = nn.Parameter(base.weight.new_zeros((r, base.in_features)))
        self.lora_B = nn.Parameter(base.weight.new_zeros((base.out_features, r)))
        self.reset_lora_parameters()
        if freeze_base:
            base.requires_grad_(False)
        self.train(base.training)

    def reset_lora_parameters(self) -> None:
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)
        self.merged = False

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.base(x)
        dropped: Tensor = self.lora_dropout(x)
        # No short cut on self.merged: someone may give A and B new values after a merge.
        return result + (dropped @ self.lora_A.transpose(0, 1) @ self.lora_B.transpose(0, 1)) * self.scaling

    def get_delta_weight(self) -> Tensor:
        wide = torch.promote_types(self.base.weight.dtype, torch.float32)
        return self.lora_B.to(wide) @ self.lora_A.to(wide) * self.scaling

    def merge_(self) -> None:
        with torch.no_grad():
            if self.merged and not self.lora_A.count_nonzero() and not self.lora_B.count_nonzero():
                return
            weight = self.base.weight
            delta = self.get_delta_weight()
            weight.data = (weight.data.to(delta.dtype) + delta).to(weight.dtype)
            self.lora_A.zero_()
            self.lora_B.zero_()
            self.merged = True


def mark_only_lora_as_trainable(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if name.split(".")[-1] not in ("lora_A", "lora_B"):
            parameter.requires_grad = False


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    adapted = {id(m.base) for m in model.modules() if isinstance(m, LoRALinear)}
    matched: dict[str, list[str]] = {t: [] for t in target_modules}
    linears: dict[str, nn.Linear] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear) and id(module) not in adapted:
            for t in matched:
                if name == t or name.endswith("." + t):
                    matched[t].append(name)
                    linears[name] = module
    empty = [t for t, names in matched.items() if not names]
    if empty:
        raise ValueError(f"target_modules: {empty} not found in the model")
    new: dict[int, LoRALinear] = {}
    for name, linear in linears.items():
        parent_name, _, child_name = name.rpartition(".")
        if id(linear) not in new:
            new[id(linear)] = LoRALinear(linear, r=r, alpha=alpha, dropout=dropout)
        setattr(model.get_submodule(parent_name), child_name, new[id(linear)])
    mark_only_lora_as_trainable(model)
    return list(linears)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    full = model.state_dict()
    return {k: full[k].detach().clone() for k in full if k.split(".")[-1] in ("lora_A", "lora_B")}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    full = {k: p for k, p in model.named_parameters(remove_duplicate=False)}
    own = {k: p for k, p in full.items() if k.split(".")[-1] in ("lora_A", "lora_B")}
    missing = [k for k in own if k not in state]
    unexpected = [k for k in state if k not in own]
    if missing or unexpected:
        raise KeyError(f"missing keys: {missing}, unexpected keys: {unexpected}")
    mismatch = [f"{k} ({state[k].shape} for {p.shape})" for k, p in own.items() if state[k].shape != p.shape]
    if mismatch:
        raise ValueError("size mismatch: " + ", ".join(mismatch))
    nonfinite = [k for k in own if not torch.isfinite(state[k]).all()]
    if nonfinite:
        raise ValueError("not finite: " + ", ".join(nonfinite))
    for k, p in own.items():
        p.data.copy_(state[k].data)
