"""The style of a functional programmer: small pure functions at module level, a thin class on top."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

T = TypeVar("T")
MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")

# --- mathematics ---------------------------------------------------------------------------------


def init_A(r: int, like: Tensor) -> Tensor:
    return nn.init.kaiming_uniform_(like.new_empty(r, like.shape[1]), a=math.sqrt(5))


def init_B(r: int, like: Tensor) -> Tensor:
    return like.new_zeros(like.shape[0], r)


def lora_branch(x: Tensor, A: Tensor, B: Tensor, scale: float, p: float, training: bool) -> Tensor:
    return scale * F.linear(F.linear(F.dropout(x, p, training), A), B)


def merged_weight(W: Tensor, A: Tensor, B: Tensor, scale: float) -> Tensor:
    wide = torch.promote_types(W.dtype, torch.float32)
    return (W.to(wide) + scale * (B.to(wide) @ A.to(wide))).to(W.dtype)


# --- arguments -----------------------------------------------------------------------------------


def checked(value: T, name: str, expected: str, fine: Callable[[T], bool]) -> T:
    if not fine(value):
        raise ValueError(f"{name}: expected {expected}, got {value}")
    return value


def checked_base(base: nn.Linear) -> nn.Linear:
    if not isinstance(base, nn.Linear):
        raise TypeError(f"base: expected nn.Linear, got {type(base).__name__}")
    return base


def freeze(parameters: Iterable[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.requires_grad_(False)


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
        self.base = checked_base(base)
        self.r = checked(r, "r", "at least 1", lambda rank: rank >= 1)
        self.p = checked(dropout, "dropout", "a number in [0, 1)", lambda p: 0 <= p < 1)
        self.alpha = alpha
        self.scaling = alpha / r
        self.lora_A = nn.Parameter(init_A(r, base.weight.detach()))
        self.lora_B = nn.Parameter(init_B(r, base.weight.detach()))
        freeze(base.parameters() if freeze_base else ())
        self.training = base.training

    def forward(self, x: Tensor) -> Tensor:
        base = F.linear(x, self.base.weight, self.base.bias)
        return base + lora_branch(x, self.lora_A, self.lora_B, self.scaling, self.p, self.training)

    @torch.no_grad()
    def merge_(self) -> None:
        self.base.weight.copy_(
            merged_weight(self.base.weight, self.lora_A, self.lora_B, self.scaling)
        )
        self.lora_A.zero_()
        self.lora_B.zero_()


# --- models --------------------------------------------------------------------------------------


def adapters(model: nn.Module) -> dict[str, LoRALinear]:
    return {n: m for n, m in model.named_modules() if isinstance(m, LoRALinear)}


def factors(model: nn.Module) -> dict[str, nn.Parameter]:
    return {
        ".".join(part for part in (name, which) if part): factor
        for name, layer in adapters(model).items()
        for which, factor in (("lora_A", layer.lora_A), ("lora_B", layer.lora_B))
    }


def bare_linears(model: nn.Module) -> dict[str, nn.Linear]:
    bases = {layer.base for layer in adapters(model).values()}
    everything = model.named_modules(remove_duplicate=False)
    return {n: m for n, m in everything if isinstance(m, nn.Linear) and m not in bases}


def matches(name: str, target: str) -> bool:
    return name == target or name.endswith("." + target)


def replace(model: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new)


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    linears = bare_linears(model)
    unmatched = [t for t in target_modules if not any(matches(n, t) for n in linears)]
    if unmatched:
        raise ValueError(f"target_modules: expected a bare linear for each, got none for {unmatched}")
    names = [n for n in linears if any(matches(n, t) for t in target_modules)]
    unique = dict.fromkeys(linears[n] for n in names)  # a set would forget the order of the seed
    layer_of = {linear: LoRALinear(linear, r, alpha, dropout) for linear in unique}
    for name in names:
        replace(model, name, layer_of[linears[name]])
    trained = set(factors(model).values())
    freeze(p for p in model.parameters() if p not in trained)
    return names


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {name: factor.detach().clone() for name, factor in factors(model).items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = factors(model)
    missing, unexpected = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    if missing or unexpected:
        raise KeyError(f"missing: {missing}, unexpected: {unexpected}")
    faults = {
        **{n: "not finite" for n in own if not torch.isfinite(state[n]).all()},
        **{n: "wrong shape" for n in own if state[n].shape != own[n].shape},
    }
    if faults:
        raise ValueError("; ".join(f"{name}: {fault}" for name, fault in faults.items()))
    with torch.no_grad():
        for name, factor in own.items():
            factor.copy_(state[name])
