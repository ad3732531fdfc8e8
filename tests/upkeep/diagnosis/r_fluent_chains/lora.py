"""LoRA in chains of method calls."""

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
            raise TypeError("base: expected nn.Linear, got {}".format(type(base).__name__))
        if r < 1:
            raise ValueError("r: expected at least 1, got {}".format(r))
        if not 0.0 <= dropout < 1.0:
            raise ValueError("dropout: expected in [0, 1), got {}".format(dropout))
        bound = 1 / math.sqrt(base.in_features)  # what kaiming_uniform_(a=√5) comes to
        weight = base.weight.detach()
        self.base = base.requires_grad_(False) if freeze_base else base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.lora_A = nn.Parameter(weight.new_empty(r, base.in_features).uniform_(-bound, bound))
        self.lora_B = nn.Parameter(weight.new_empty(base.out_features, r).zero_())
        self.dropout = nn.Dropout(dropout, inplace=True)
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.dropout(x).matmul(self.lora_A.t()).matmul(self.lora_B.t())
        out: Tensor = self.base(x)
        return out.add(branch.mul(self.scaling))

    @torch.no_grad()
    def merge_(self) -> None:
        wide = torch.promote_types(self.base.weight.dtype, torch.float32)
        update = self.lora_B.to(wide).matmul(self.lora_A.to(wide)).mul(self.scaling)
        self.base.weight.copy_(self.base.weight.to(wide).add(update))
        self.lora_A.zero_()
        self.lora_B.zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    own = {m.base for m in model.modules() if isinstance(m, LoRALinear)}
    found: dict[str, nn.Linear] = {}
    unmatched = dict.fromkeys(target_modules)
    for name, m in model.named_modules(remove_duplicate=False):
        if not isinstance(m, nn.Linear) or m in own:
            continue
        for t in target_modules:
            if ".".join(["", *name.split(".")]).endswith("." + t):
                found.setdefault(name, m)
                unmatched.pop(t, None)
    if unmatched:
        raise ValueError("target_modules: no linear to wrap for {}".format(list(unmatched)))
    adapters: dict[nn.Linear, LoRALinear] = {}
    for name, m in found.items():
        if m not in adapters:
            adapters[m] = LoRALinear(m, r=r, alpha=alpha, dropout=dropout)
        model.get_submodule(name.rpartition(".")[0]).register_module(
            name.rpartition(".")[2], adapters[m]
        )
    factors = {
        p for m in model.modules() if isinstance(m, LoRALinear) for p in (m.lora_A, m.lora_B)
    }
    for p in set(model.parameters()).difference(factors):
        p.requires_grad_(False)
    return list(found.keys())


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad
    }


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = {
        name: p
        for name, p in model.named_parameters()
        if name.rpartition(".")[2] in ("lora_A", "lora_B")
    }
    missing = sorted(own.keys() - state.keys())
    unexpected = sorted(state.keys() - own.keys())
    if missing or unexpected:
        raise KeyError("state: missing {}, unexpected {}".format(missing, unexpected))
    for name, p in own.items():
        if state[name].size() != p.size():
            raise ValueError(
                "{}: expected {}, got {}".format(name, tuple(p.size()), tuple(state[name].size()))
            )
        if not state[name].isfinite().all().item():
            raise ValueError("{}: expected finite values".format(name))
    with torch.no_grad():
        for name, p in own.items():
            p.copy_(state[name])
