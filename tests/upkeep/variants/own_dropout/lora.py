"""The style of someone who keeps modules few: dropout is a number and a functional call."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import Parameter

DEFAULT = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class LoRALinear(nn.Module):
    base: nn.Linear
    r: int
    alpha: float
    scaling: float
    dropout: float  # a probability, no module: F.dropout reads self.training
    lora_A: Parameter
    lora_B: Parameter

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
            raise ValueError(f"r: expected >= 1, got {r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected in [0, 1), got {dropout}")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.dropout = dropout
        w = base.weight
        self.lora_A = Parameter(torch.empty((r, base.in_features), dtype=w.dtype, device=w.device))
        self.lora_B = Parameter(torch.empty((base.out_features, r), dtype=w.dtype, device=w.device))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.constant_(self.lora_B, 0.0)
        if freeze_base:
            w.requires_grad = False
            if base.bias is not None:
                base.bias.requires_grad = False
        self.training = base.training

    def forward(self, x: Tensor) -> Tensor:
        dropped = F.dropout(x, self.dropout, self.training)
        # forward() rather than a call: mypy knows what it returns
        return self.base.forward(x) + F.linear(F.linear(dropped, self.lora_A), self.scaling * self.lora_B)

    @torch.no_grad()
    def merge_(self) -> None:
        w = self.base.weight
        wide = w.dtype if w.dtype.itemsize >= 4 else torch.float32
        w.copy_(torch.addmm(w.to(wide), self.lora_B.to(wide), self.lora_A.to(wide), alpha=self.scaling))
        for p in (self.lora_A, self.lora_B):
            p.mul_(0)


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = DEFAULT,
    dropout: float = 0.05,
) -> list[str]:
    owned = {m.base for m in model.modules() if isinstance(m, LoRALinear)}
    found: dict[str, nn.Linear] = {}
    for name, m in model.named_modules(remove_duplicate=False):
        if isinstance(m, nn.Linear) and m not in owned:
            if any(name == t or name.endswith("." + t) for t in target_modules):
                found[name] = m
    for t in target_modules:
        if not any(name == t or name.endswith("." + t) for name in found):
            raise ValueError(f"target_modules: expected a match, got none for {t!r}")
    swap: dict[nn.Linear, LoRALinear] = {}
    for name, m in found.items():
        swap[m] = swap[m] if m in swap else LoRALinear(m, r, alpha, dropout)
        head, _, tail = name.rpartition(".")
        model.get_submodule(head).register_module(tail, swap[m])
    for name, p in model.named_parameters():
        p.requires_grad = p.requires_grad and name.split(".")[-1] in ("lora_A", "lora_B")
    return list(found)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, m in model.named_modules():
        if isinstance(m, LoRALinear):
            at = name and name + "."
            state[at + "lora_A"] = m.lora_A.data.clone()
            state[at + "lora_B"] = m.lora_B.data.clone()
    return state


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = lora_state_dict(model)
    if own.keys() != state.keys():
        raise KeyError(f"entries that are missing or unexpected: {sorted(own.keys() ^ state.keys())}")
    for k, v in own.items():
        if v.shape != state[k].shape:
            raise ValueError(f"{k}: expected {tuple(v.shape)}, got {tuple(state[k].shape)}")
    for k in own:
        if not torch.isfinite(state[k]).all():
            raise ValueError(f"{k}: expected finite values, got some that are not")
    with torch.no_grad():
        for k in own:
            model.get_parameter(k).copy_(state[k])
