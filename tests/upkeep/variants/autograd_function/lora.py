"""The style of someone who does not trust autograd: the branch is a Function with its own backward."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Context(Protocol):
    """What autograd hands to forward and takes to backward."""

    saved_tensors: tuple[Tensor, ...]
    scaling: float

    def save_for_backward(self, *tensors: Tensor) -> None: ...


def rows(t: Tensor) -> Tensor:
    """(..., n) -> (tokens, n)"""
    return t.reshape(-1, t.shape[-1])


class LowRank(torch.autograd.Function):
    """u = s · x Aᵀ Bᵀ.

    du/dx = s · g B A, du/dA = s · (g B)ᵀ x, du/dB = s · gᵀ (x Aᵀ).
    """

    @staticmethod
    def forward(ctx: Context, x: Tensor, A: Tensor, B: Tensor, scaling: float) -> Tensor:
        ctx.save_for_backward(x, A, B)
        ctx.scaling = scaling
        return scaling * F.linear(F.linear(x, A), B)

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, A, B = ctx.saved_tensors
        scaled = ctx.scaling * grad
        through_B = scaled @ B
        hidden = F.linear(x, A)  # cheaper to compute again than to keep
        grad_A = rows(through_B).t() @ rows(x)
        grad_B = rows(scaled).t() @ rows(hidden)
        return through_B @ A, grad_A, grad_B, None


low_rank: Callable[[Tensor, Tensor, Tensor, float], Tensor] = LowRank.apply


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
            raise TypeError(f"base: expected an nn.Linear, got a {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r: expected >= 1, got {r}")
        if not (0 <= dropout < 1):
            raise ValueError(f"dropout: expected 0 <= dropout < 1, got {dropout}")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.dropout = nn.Dropout(dropout)
        weight = base.weight
        A = torch.empty(r, base.in_features, dtype=weight.dtype, device=weight.device)
        B = torch.zeros(base.out_features, r, dtype=weight.dtype, device=weight.device)
        self.lora_A = nn.Parameter(nn.init.kaiming_uniform_(A, a=math.sqrt(5)))
        self.lora_B = nn.Parameter(B)
        if freeze_base:
            base.requires_grad_(False)
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        return out + low_rank(self.dropout(x), self.lora_A, self.lora_B, self.scaling)

    def merge_(self) -> None:
        with torch.no_grad():
            weight = self.base.weight
            wide = torch.promote_types(weight.dtype, torch.float32)
            delta = self.scaling * (self.lora_B.to(wide) @ self.lora_A.to(wide))
            weight.copy_(weight.to(wide) + delta)
            self.lora_A.zero_()
            self.lora_B.zero_()


def adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return {
        f"{name}.{which}".lstrip("."): parameter
        for name, module in model.named_modules()
        if isinstance(module, LoRALinear)
        for which, parameter in (("lora_A", module.lora_A), ("lora_B", module.lora_B))
    }


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2"),
    dropout: float = 0.05,
) -> list[str]:
    taken = [module.base for module in model.modules() if isinstance(module, LoRALinear)]
    found: list[tuple[str, nn.Linear]] = []
    unmatched = set(target_modules)
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear) and not any(module is other for other in taken):
            hits = {t for t in target_modules if name == t or name.endswith(f".{t}")}
            unmatched -= hits
            if hits:
                found.append((name, module))
    if unmatched:
        raise ValueError(f"target_modules: nothing matches {', '.join(unmatched)}")
    new: dict[int, LoRALinear] = {}
    for name, linear in found:
        layer = new.get(id(linear)) or LoRALinear(linear, r, alpha, dropout)
        new[id(linear)] = layer
        where, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(where), attribute, layer)
    trained = {id(parameter) for parameter in adapter_parameters(model).values()}
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.requires_grad and id(parameter) in trained)
    return [name for name, _ in found]


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in adapter_parameters(model).items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = adapter_parameters(model)
    strange = set(own) ^ set(state)
    if strange:
        lines = [f"{n}: {'missing' if n in own else 'unexpected'}" for n in sorted(strange)]
        raise KeyError("; ".join(lines))
    problems: list[str] = []
    for name, parameter in own.items():
        value = state[name]
        if value.shape != parameter.shape:
            problems.append(f"{name}: expected {parameter.shape}, got {value.shape}")
        elif not bool(torch.isfinite(value).all()):
            problems.append(f"{name}: expected finite numbers, got NaN or inf")
    if problems:
        raise ValueError("; ".join(problems))
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])
