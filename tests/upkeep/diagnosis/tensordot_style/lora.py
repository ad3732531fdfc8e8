"""LoRA with tensordot: contract the last axis, whatever stands before it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn, tensordot

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


def contract(x: Tensor, matrix: Tensor) -> Tensor:
    """(..., n) and (m, n) -> (..., m)"""
    out: Tensor = tensordot(x, matrix, dims=([-1], [1]))
    return out


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
            raise TypeError(f"base: cannot adapt a {type(base).__name__}, only an nn.Linear")
        if r < 1:
            raise ValueError(f"r: cannot be {r}, must be at least 1")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout: cannot be {dropout}, must be in [0, 1)")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():
            a = torch.empty(r, base.in_features).to(base.weight)
            b = torch.zeros(base.out_features, r).to(base.weight)
        self.lora_A = nn.Parameter(a)
        self.lora_B = nn.Parameter(b)
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        if freeze_base:
            base.requires_grad_(False)
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        # base is frozen, so it needs no graph
        with torch.no_grad():
            y: Tensor = self.base(x)
        u = contract(contract(self.dropout(x), self.lora_A), self.lora_B)
        return y + self.scaling * u

    @torch.no_grad()
    def merge_(self) -> None:
        weight = self.base.weight
        calc = torch.promote_types(torch.float32, weight.dtype)
        update = tensordot(self.lora_B.to(calc), self.lora_A.to(calc), dims=1)
        weight.copy_(weight.to(calc) + self.scaling * update)
        nn.init.zeros_(self.lora_A)
        nn.init.zeros_(self.lora_B)


def _is(name: str, target: str) -> bool:
    head, found, tail = name.rpartition(target)
    return found != "" and tail == "" and (head == "" or head.endswith("."))


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    inner = {m.base for m in model.modules() if isinstance(m, LoRALinear)}
    linears = {
        name: m
        for name, m in model.named_modules(remove_duplicate=False)
        if isinstance(m, nn.Linear) and m not in inner
    }
    chosen: list[str] = []
    failed: list[str] = []
    for target in target_modules:
        names = [name for name in linears if _is(name, target)]
        chosen += [name for name in names if name not in chosen]
        failed += [] if names else [target]
    if failed:
        raise ValueError(f"target_modules: cannot find a linear to wrap for {failed}")

    layers: dict[nn.Linear, LoRALinear] = {}
    for name in chosen:
        linear = linears[name]
        if linear not in layers:
            layers[linear] = LoRALinear(linear, r=r, alpha=alpha, dropout=dropout)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layers[linear])

    live = {id(p) for p in _named(model).values()}
    for p in model.parameters():
        if id(p) not in live:
            p.requires_grad_(False)
    return chosen


def _named(model: nn.Module) -> dict[str, nn.Parameter]:
    """lora_A and lora_B of all adapters, by the name the model itself gives them."""
    factors: set[nn.Parameter] = set()
    for m in model.modules():
        if isinstance(m, LoRALinear):
            factors.update((m.lora_A, m.lora_B))
    return {name: p for name, p in model.named_parameters() if p in factors}


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in _named(model).items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    named = _named(model)
    missing = sorted(named.keys() - state.keys())
    unexpected = sorted(state.keys() - named.keys())
    if missing or unexpected:
        raise KeyError(f"state: cannot load with {missing} missing and {unexpected} unexpected")
    for name, p in named.items():
        if state[name].shape != p.shape:
            shapes = f"{tuple(state[name].shape)} into {tuple(p.shape)}"
            raise ValueError(f"{name}: cannot load {shapes}")
        if not state[name].to(p.dtype).isfinite().all():
            raise ValueError(f"{name}: cannot load NaN or infinity")
    with torch.no_grad():
        for name, p in named.items():
            p.copy_(state[name])
