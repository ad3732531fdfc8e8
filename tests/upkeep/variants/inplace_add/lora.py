"""The style of someone short of memory: the branch is added to the base's fresh output in place."""

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
        out: Tensor = self.base(x)
        return out.add_(F.linear(F.linear(self.dropout(x), self.lora_A), self.lora_B), alpha=self.scaling)

    @torch.no_grad()
    def merge_(self) -> None:
        """A row at a time, so that no second matrix of the weight's size is ever held."""
        weight = self.base.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        A, B = self.lora_A.to(wide), self.lora_B.to(wide)
        for row, b in zip(weight, B):
            row.copy_(row.to(wide) + self.scaling * (b @ A))
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
    names: list[str] = []
    pending = set(target_modules)
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear) and module not in bases:
            hits = {t for t in target_modules if name == t or name.endswith("." + t)}
            pending -= hits
            names += [name] if hits else []
    if pending:
        raise ValueError(f"target_modules: {', '.join(sorted(pending))}: no such linear")
    made: dict[nn.Module, LoRALinear] = {}
    for name in names:
        linear = model.get_submodule(name)
        if not isinstance(linear, nn.Linear):
            continue  # its parent is shared and was reached before under another name
        made[linear] = made.get(linear) or LoRALinear(linear, r, alpha, dropout)
        model.set_submodule(name, made[linear])
    for name, p in model.named_parameters():
        if not (name in ("lora_A", "lora_B") or name.endswith((".lora_A", ".lora_B"))):
            p.requires_grad_(False)
    return names


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, p in model.named_parameters():
        if name in ("lora_A", "lora_B") or name.endswith((".lora_A", ".lora_B")):
            state[name] = torch.empty_like(p).copy_(p).detach()
    return state


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = lora_state_dict(model)
    for problem, names in (
        ("missing", own.keys() - state.keys()),
        ("unexpected", state.keys() - own.keys()),
    ):
        if names:
            raise KeyError(f"{problem}: {', '.join(sorted(names))}")
    for problem, wrong in (
        ("wrong shape", [n for n in own if own[n].shape != state[n].shape]),
        ("not finite", [n for n in own if not state[n].isfinite().all()]),
    ):
        if wrong:
            raise ValueError(f"{problem}: {', '.join(wrong)}")
    with torch.no_grad():
        for name in own:
            model.get_parameter(name).copy_(state[name])
