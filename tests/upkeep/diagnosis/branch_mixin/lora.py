"""LoRA with the branch's arithmetic in a mixin, and the layer around it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class _LowRankMixin:
    """What can be computed from A, B and the scale alone."""

    lora_A: nn.Parameter
    lora_B: nn.Parameter
    dropout: nn.Dropout
    scaling: float

    def branch(self, x: Tensor) -> Tensor:
        down: Tensor = x @ self.lora_A.T
        dropped: Tensor = self.dropout(down)
        return self.scaling * (dropped @ self.lora_B.T)

    def dense(self, dtype: torch.dtype) -> Tensor:
        return self.scaling * (self.lora_B.detach().to(dtype) @ self.lora_A.detach().to(dtype))

    def clear(self) -> None:
        with torch.no_grad():
            self.lora_A.zero_()
            self.lora_B.zero_()


class LoRALinear(_LowRankMixin, nn.Module):
    def __init__(
        self,
        base: nn.Linear,
        r: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        freeze_base: bool = True,
    ) -> None:
        nn.Module.__init__(self)
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base: expected an nn.Linear; this is {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r: expected at least 1; this is {r}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout: expected a probability in [0, 1); this is {dropout}")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.dropout = nn.Dropout(dropout)

        rows, columns = base.out_features, base.in_features
        self.lora_A = nn.Parameter(base.weight.new_empty((r, columns)))
        self.lora_B = nn.Parameter(base.weight.new_empty((rows, r)))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)

        if freeze_base:
            base.requires_grad_(False)
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        return out + self.branch(x)

    def merge_(self) -> None:
        weight = self.base.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        merged = weight.detach().to(dtype) + self.dense(dtype)
        with torch.no_grad():
            weight.copy_(merged)
        self.clear()


def _matching(names: Iterable[str], target: str) -> list[str]:
    return [n for n in names if n == target or n.endswith("." + target)]


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    adapted = [m.base for m in model.modules() if isinstance(m, LoRALinear)]
    bare = {
        name: m
        for name, m in model.named_modules(remove_duplicate=False)
        if isinstance(m, nn.Linear) and all(m is not b for b in adapted)
    }
    by_target = {t: _matching(bare, t) for t in target_modules}
    for t, names in by_target.items():
        if len(names) == 0:
            raise ValueError(f"target_modules: expected {t} to match a linear still to be wrapped")
    names = sorted(set().union(*by_target.values()))

    memo: dict[int, LoRALinear] = {}
    for name in names:
        linear = bare[name]
        if id(linear) not in memo:
            memo[id(linear)] = LoRALinear(linear, r, alpha, dropout)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, memo[id(linear)])

    mine: set[int] = set()
    for m in model.modules():
        if isinstance(m, LoRALinear):
            mine |= {id(m.lora_A), id(m.lora_B)}
    for p in model.parameters():
        if id(p) not in mine:
            p.requires_grad_(False)
    return names


def _parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    result: dict[str, nn.Parameter] = {}
    for name, m in model.named_modules():
        if isinstance(m, LoRALinear):
            start = f"{name}." if name else ""
            result |= {f"{start}lora_A": m.lora_A, f"{start}lora_B": m.lora_B}
    return result


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in _parameters(model).items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    params = _parameters(model)
    missing = sorted(params.keys() - state.keys())
    unexpected = sorted(state.keys() - params.keys())
    if missing or unexpected:
        raise KeyError(f"state: these are missing: {missing}; these are unexpected: {unexpected}")
    for name, p in params.items():
        shape = tuple(state[name].shape)
        if shape != tuple(p.shape):
            raise ValueError(f"{name}: expected shape {tuple(p.shape)}; this is {shape}")
        if not state[name].to(p.dtype).isfinite().all():
            raise ValueError(f"{name}: expected finite values; there is NaN or infinity")
    with torch.no_grad():
        for name, p in params.items():
            p.copy_(state[name])
