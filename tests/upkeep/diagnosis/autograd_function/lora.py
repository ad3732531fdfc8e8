"""LoRA with a branch that brings its own backward.

Forward:   h = x Aᵀ,  u = h Bᵀ
Backward:  dB = gᵀ h,  dA = (g B)ᵀ x,  dx = (g B) A
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class _Context(FunctionCtx):
    saved_tensors: tuple[Tensor, Tensor, Tensor]


class _LowRank(torch.autograd.Function):
    """x, A, B -> x Aᵀ Bᵀ, for x with any number of leading axes."""

    @staticmethod
    def forward(ctx: _Context, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(x, a, b)
        return x @ a.t() @ b.t()

    @staticmethod
    def backward(ctx: _Context, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, a, b = ctx.saved_tensors
        rows = x.reshape(-1, a.shape[1])
        g_rows = g.reshape(-1, b.shape[0])
        gb = g_rows @ b
        grad_x = (gb @ a).reshape(x.shape)
        grad_a = gb.t() @ rows
        grad_b = g_rows.t() @ (rows @ a.t())
        return grad_x, grad_a, grad_b


low_rank: Callable[[Tensor, Tensor, Tensor], Tensor] = _LowRank.apply


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
            raise TypeError(f"base: expected a nn.Linear, received {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r: expected at least 1, received {r}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout: expected a value in [0, 1), received {dropout}")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.dropout = nn.Dropout(dropout)

        bound = 1.0 / math.sqrt(base.in_features)
        a = torch.empty(r, base.in_features, dtype=base.weight.dtype, device=base.weight.device)
        b = torch.zeros(base.out_features, r, dtype=base.weight.dtype, device=base.weight.device)
        self.lora_A = nn.Parameter(a.uniform_(-bound, bound))
        self.lora_B = nn.Parameter(b)

        for p in base.parameters():
            p.requires_grad_(not freeze_base)
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        u = low_rank(self.dropout(x), self.lora_A, self.lora_B)
        return y + u * self.scaling

    def merge_(self) -> None:
        with torch.no_grad():
            w, a, b = self.base.weight, self.lora_A, self.lora_B
            t = torch.promote_types(w.dtype, torch.float32)
            w.copy_(w.to(t).addmm(b.to(t), a.to(t), alpha=self.scaling))
            a.zero_()
            b.zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    everything = list(model.named_modules(remove_duplicate=False))
    inside = {id(m.base) for _, m in everything if isinstance(m, LoRALinear)}
    table: dict[str, list[str]] = {t: [] for t in target_modules}
    linears: dict[str, nn.Linear] = {}
    for name, m in everything:
        if isinstance(m, nn.Linear) and id(m) not in inside:
            for t, names in table.items():
                if name == t or name.endswith("." + t):
                    names.append(name)
                    linears[name] = m
    none = [t for t, names in table.items() if not names]
    if none:
        raise ValueError(f"target_modules: expected names of unwrapped linears, received {none}")

    wrapped: dict[int, LoRALinear] = {}
    for name, m in linears.items():
        if id(m) not in wrapped:
            wrapped[id(m)] = LoRALinear(m, r=r, alpha=alpha, dropout=dropout)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, wrapped[id(m)])

    adapters = [m for m in model.modules() if isinstance(m, LoRALinear)]
    ids = {id(m.lora_A) for m in adapters} | {id(m.lora_B) for m in adapters}
    for p in model.parameters():
        if id(p) not in ids:
            p.requires_grad_(False)
    return list(linears)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    saved: dict[str, Tensor] = {}
    for name, m in model.named_modules():
        if isinstance(m, LoRALinear):
            stem = f"{name}." if name else ""
            saved.update({stem + "lora_A": m.lora_A.detach().clone()})
            saved.update({stem + "lora_B": m.lora_B.detach().clone()})
    return saved


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    expected = lora_state_dict(model)
    missing, unexpected = expected.keys() - state.keys(), state.keys() - expected.keys()
    if missing or unexpected:
        raise KeyError(f"missing: {sorted(missing)}; unexpected: {sorted(unexpected)}")
    converted: dict[str, Tensor] = {}
    for name, old in expected.items():
        new = state[name]
        if new.shape != old.shape:
            raise ValueError(f"{name}: expected {tuple(old.shape)}, received {tuple(new.shape)}")
        converted[name] = new.detach().to(device=old.device, dtype=old.dtype)
        if not torch.isfinite(converted[name]).all():
            raise ValueError(f"{name}: expected finite values, received NaN or infinity")
    with torch.no_grad():
        for name, value in converted.items():
            model.get_parameter(name).copy_(value)
