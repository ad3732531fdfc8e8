"""The style of a NumPy user: no functional calls, only @ and .T, as the paper's row form reads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class LoRALinear(nn.Module):
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
            raise TypeError("base: expected nn.Linear, got " + type(base).__name__)
        if r < 1:
            raise ValueError("r: expected 1 or more, got " + str(r))
        if dropout < 0.0 or dropout >= 1.0:
            raise ValueError("dropout: expected [0, 1), got " + str(dropout))

        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.drop = nn.Dropout(dropout) if dropout > 0 else nn.Identity()

        n_out, n_in = base.weight.shape
        bound = 1 / math.sqrt(n_in)  # kaiming_uniform_ with a = √5 comes down to this
        A = torch.empty(r, n_in, dtype=base.weight.dtype, device=base.weight.device)
        B = torch.zeros(n_out, r, dtype=base.weight.dtype, device=base.weight.device)
        self.lora_A = nn.Parameter(A.uniform_(-bound, bound))
        self.lora_B = nn.Parameter(B)

        if freeze_base:
            base.weight.requires_grad = False
            if base.bias is not None:
                base.bias.requires_grad = False
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        z: Tensor = self.drop(x)
        return y + self.scaling * (z @ self.lora_A.T @ self.lora_B.T)

    def merge_(self) -> None:
        W = self.base.weight.data
        A, B = self.lora_A.data, self.lora_B.data
        if W.dtype in (torch.float16, torch.bfloat16):
            W[:] = (W.float() + self.scaling * (B.float() @ A.float())).to(W.dtype)
        else:
            W += self.scaling * (B @ A)
        A[:] = 0
        B[:] = 0


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2"),
    dropout: float = 0.05,
) -> list[str]:
    modules = dict(model.named_modules(remove_duplicate=False))
    adapted = [m.base for m in modules.values() if isinstance(m, LoRALinear)]
    names: list[str] = []
    for target in target_modules:
        hits = [
            name
            for name, module in modules.items()
            if (name == target or name.endswith("." + target))
            and isinstance(module, nn.Linear)
            and not any(module is b for b in adapted)
        ]
        if not hits:  # one is enough to refuse; nothing has been changed so far
            raise ValueError(f"target_modules: {target!r} matches no nn.Linear")
        names += [name for name in hits if name not in names]

    made: dict[nn.Module, LoRALinear] = {}
    for name in names:
        linear = modules[name]
        assert isinstance(linear, nn.Linear)
        if linear not in made:
            made[linear] = LoRALinear(linear, r=r, alpha=alpha, dropout=dropout)
        parent, _, child = name.rpartition(".")
        setattr(modules[parent], child, made[linear])

    # Whatever ends in lora_A or lora_B is ours: the API promises that nothing else does.
    for name, p in model.named_parameters():
        if not name.endswith(("lora_A", "lora_B")):
            p.requires_grad = False
    return names


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: p.data.clone()
        for name, p in model.named_parameters()
        if name.endswith(("lora_A", "lora_B"))
    }


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    mine = {n: p for n, p in model.named_parameters() if n.endswith(("lora_A", "lora_B"))}
    missing = [n for n in mine if n not in state]
    unexpected = [n for n in state if n not in mine]
    if missing or unexpected:
        raise KeyError(f"missing: {missing}; unexpected: {unexpected}")
    for n, p in mine.items():
        if tuple(state[n].shape) != tuple(p.shape):
            raise ValueError(f"{n}: expected shape {tuple(p.shape)}, got {tuple(state[n].shape)}")
        if not state[n].isfinite().all():
            raise ValueError(f"{n}: expected finite numbers, got NaN or infinity")
    for n, p in mine.items():
        p.data[:] = state[n].to(p.device, p.dtype)
