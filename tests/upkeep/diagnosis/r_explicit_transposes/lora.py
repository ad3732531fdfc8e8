"""LoRA with every transpose written out.

A is (r, in), B is (out, r). A row of data x is (..., in), so it meets A.T and then B.T.
"""

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
            raise TypeError(f"base must be an nn.Linear but is a {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r must be >= 1 but is {r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be >= 0 and < 1 but is {dropout}")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        n_out, n_in = base.weight.shape
        A = base.weight.new_empty((r, n_in))
        bound = 1.0 / math.sqrt(n_in)  # kaiming_uniform_ with a = sqrt(5)
        nn.init.uniform_(A, -bound, bound)
        B = base.weight.new_zeros((n_out, r))
        self.lora_A = nn.Parameter(A)
        self.lora_B = nn.Parameter(B)
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)
        if freeze_base:
            base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        A_t = self.lora_A.transpose(0, 1)  # (in, r)
        B_t = self.lora_B.transpose(0, 1)  # (r, out)
        out: Tensor = self.base(x)
        h = torch.matmul(x, A_t)  # (..., r)
        h_dropped: Tensor = self.dropout(h)
        update = torch.matmul(h_dropped, B_t)  # (..., out)
        return out + self.scaling * update

    def merge_(self) -> None:
        with torch.no_grad():
            W = self.base.weight
            big = torch.promote_types(W.dtype, torch.float32)
            A_t = self.lora_A.to(big).transpose(0, 1)
            B_t = self.lora_B.to(big).transpose(0, 1)
            delta = torch.matmul(A_t, B_t).transpose(0, 1)  # (A^T B^T)^T = B A
            W.copy_(W.to(big) + self.scaling * delta)
            self.lora_A.zero_()
            self.lora_B.zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    own = [m.base for m in model.modules() if isinstance(m, LoRALinear)]
    names: list[str] = []
    linears: list[nn.Linear] = []
    used: list[str] = []
    for name, m in model.named_modules(remove_duplicate=False):
        if isinstance(m, nn.Linear) and not any(m is b for b in own):
            match = [t for t in target_modules if name == t or name.endswith("." + t)]
            if len(match) > 0:
                names.append(name)
                linears.append(m)
                used.extend(match)
    for t in target_modules:
        if t not in used:
            raise ValueError(f"target_modules: {t!r} matches no nn.Linear that is still bare")
    adapters: list[LoRALinear] = []
    for k, (name, linear) in enumerate(zip(names, linears, strict=True)):
        earlier = [j for j in range(k) if linears[j] is linear]
        if earlier:
            adapter = adapters[earlier[0]]
        else:
            adapter = LoRALinear(linear, r=r, alpha=alpha, dropout=dropout)
        adapters.append(adapter)
        parts = name.split(".")
        parent = model.get_submodule(".".join(parts[:-1]))
        setattr(parent, parts[-1], adapter)
    ours: list[nn.Parameter] = []
    for m in model.modules():
        if isinstance(m, LoRALinear):
            ours.append(m.lora_A)
            ours.append(m.lora_B)
    for p in model.parameters():
        if not any(p is q for q in ours):
            p.requires_grad_(False)
    return names


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, p in model.named_parameters():
        if name.split(".")[-1] in ("lora_A", "lora_B"):
            state[name] = torch.clone(p.detach())
    return state


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    target: dict[str, nn.Parameter] = {}
    for name, p in model.named_parameters():
        if name.split(".")[-1] in ("lora_A", "lora_B"):
            target[name] = p
    missing = [n for n in target if n not in state]
    strange = [n for n in state if n not in target]
    if missing or strange:
        raise KeyError(f"state: missing {missing}, unexpected {strange}")
    for name, p in target.items():
        v = state[name]
        if tuple(v.shape) != tuple(p.shape):
            raise ValueError(f"{name}: shape must be {tuple(p.shape)} but is {tuple(v.shape)}")
        if not torch.all(torch.isfinite(v)):
            raise ValueError(f"{name}: contains NaN or infinity")
    with torch.no_grad():
        for name, p in target.items():
            p.copy_(state[name])
