"""LoRA with := and set algebra."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")
AB = {"lora_A", "lora_B"}


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
            raise TypeError(f"{base = !s}: want nn.Linear, got {type(base).__name__}")
        if r < 1:
            raise ValueError(f"{r = }: want at least 1")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"{dropout = }: want [0, 1)")
        self.base, self.r, self.alpha, self.scaling = base, r, alpha, alpha / r
        new = base.weight.new_zeros
        self.lora_A = nn.Parameter(new(r, base.in_features))
        self.lora_B = nn.Parameter(new(base.out_features, r))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)
        if freeze_base:
            base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        return y + self.scaling * F.linear(F.linear(self.dropout(x), self.lora_A), self.lora_B)

    def merge_(self) -> None:
        with torch.no_grad():
            wide = torch.promote_types((w := self.base.weight).dtype, torch.float32)
            w.copy_(w.to(wide) + self.scaling * (self.lora_B.to(wide) @ self.lora_A.to(wide)))
            self.lora_A.zero_()
            self.lora_B.zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    taken = {m.base for m in model.modules() if isinstance(m, LoRALinear)}
    left, found = set(target_modules), dict[str, nn.Linear]()
    for name, m in model.named_modules(remove_duplicate=False):
        if isinstance(m, nn.Linear) and m not in taken and (
            hits := {t for t in target_modules if name.endswith(t)}
        ):
            found[name] = m
            left -= hits
    if left:
        raise ValueError(f"target_modules: no bare nn.Linear for {sorted(left)}")

    made: dict[nn.Linear, LoRALinear] = {}
    for name, m in found.items():
        if (adapter := made.get(m)) is None:
            adapter = made[m] = LoRALinear(m, r=r, alpha=alpha, dropout=dropout)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, adapter)

    ours = {p for m in model.modules() if isinstance(m, LoRALinear) for p in (m.lora_A, m.lora_B)}
    for p in set(model.parameters()) - ours:
        p.requires_grad_(False)
    return list(found)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: p.detach().clone()
        for name, p in model.named_parameters()
        if {name.rpartition(".")[2]} <= AB
    }


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = {n: p for n, p in model.named_parameters() if {n.rpartition(".")[2]} <= AB}
    if different := own.keys() ^ state.keys():
        missing, extra = sorted(different & own.keys()), sorted(different - own.keys())
        raise KeyError(f"state: missing {missing}, unexpected {extra}")
    for name, p in own.items():
        if (got := tuple(state[name].shape)) != (want := tuple(p.shape)):
            raise ValueError(f"{name}: want {want}, {got = }")
        if state[name].isnan().any():
            raise ValueError(f"{name}: want no NaN")
    with torch.no_grad():
        for name, p in own.items():
            p.copy_(state[name])
