"""LoRA: y = W x + b + s B A x, one formula a line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

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
            raise TypeError(f"base: {type(base).__name__} is no nn.Linear")
        if r < 1:
            raise ValueError(f"r: {r} is too small, it is at least 1")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout: {dropout} is outside [0, 1)")

        # s = alpha / r
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r

        # W, b
        self.base = base

        # A: (r, in), B: (out, r)
        d_out, d_in = base.weight.shape
        self.lora_A = nn.Parameter(
            torch.empty(r, d_in, device=base.weight.device).to(base.weight.dtype)
        )
        self.lora_B = nn.Parameter(
            torch.zeros(d_out, r, device=base.weight.device).to(base.weight.dtype)
        )

        # A ~ U(-1/sqrt(in), 1/sqrt(in)), B = 0
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

        # dropout, in the mode of W
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)

        # dW = db = 0
        if freeze_base:
            self.base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        s, A, B = self.scaling, self.lora_A, self.lora_B
        # h = W x + b
        h: Tensor = self.base(x)
        # u = B A x
        u = F.linear(F.linear(self.dropout(x), A), B)
        # y = s (h + u)
        y = s * (h + u)
        return y

    def merge_(self) -> None:
        s, A, B, W = self.scaling, self.lora_A, self.lora_B, self.base.weight
        with torch.no_grad():
            # at least float32
            t = torch.promote_types(W.dtype, torch.float32)
            # U = s B A
            U = s * (B.to(t) @ A.to(t))
            # W <- W + U
            W.copy_(W.to(t) + U)
            # A, B <- 0
            A.zero_()
            B.zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    # L = {linears} - {bases}
    bases = [m.base for m in model.modules() if isinstance(m, LoRALinear)]
    base_ids = set(map(id, bases))
    L = [
        (n, m)
        for n, m in model.named_modules(remove_duplicate=False)
        if isinstance(m, nn.Linear) and id(m) not in base_ids
    ]

    # H(t) = {n in L : n ends with t, at a dot}
    H = {t: [n for n, _ in L if n == t or n.endswith("." + t)] for t in target_modules}
    for t in H:
        if H[t] == []:
            raise ValueError(f"target_modules: {t} is in no name of a linear to wrap")
    union = {n for t in H for n in H[t]}

    # m -> LoRALinear(m), for all names of m
    image: dict[int, LoRALinear] = {}
    names: list[str] = []
    for n, m in L:
        if n in union:
            if id(m) not in image:
                image[id(m)] = LoRALinear(m, r, alpha, dropout)
            parent, _, child = n.rpartition(".")
            setattr(model.get_submodule(parent), child, image[id(m)])
            names.append(n)

    # theta = {A} u {B}
    theta = {id(p) for p in parameters_of_adapters(model).values()}
    for p in model.parameters():
        if id(p) not in theta:
            p.requires_grad_(False)
    return names


def parameters_of_adapters(model: nn.Module) -> dict[str, nn.Parameter]:
    theta: dict[str, nn.Parameter] = {}
    for n, m in model.named_modules():
        if isinstance(m, LoRALinear):
            n_dot = n + "." if n else ""
            theta[n_dot + "lora_A"] = m.lora_A
            theta[n_dot + "lora_B"] = m.lora_B
    return theta


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    theta = parameters_of_adapters(model)
    return {n: p.detach().clone() for n, p in theta.items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    theta = parameters_of_adapters(model)
    # theta = state, as sets of names
    missing = sorted(set(theta) - set(state))
    unexpected = sorted(set(state) - set(theta))
    if missing or unexpected:
        raise KeyError(f"state: {missing} is missing, {unexpected} is unexpected")
    # shapes, values
    for n, p in theta.items():
        v = state[n]
        if v.shape != p.shape:
            raise ValueError(f"{n}: {tuple(v.shape)} is not {tuple(p.shape)}")
        if not v.to(p.dtype).isfinite().all():
            raise ValueError(f"{n}: NaN or infinity is in it")
    # theta <- state
    with torch.no_grad():
        for n, p in theta.items():
            p.copy_(state[n])
