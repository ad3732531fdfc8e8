"""nn.Linear with a low-rank update, and what is needed to use it on a model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class LoRALinear(nn.Module):
    FACTOR_NAMES = ("lora_A", "lora_B")
    INIT_SLOPE = math.sqrt(5)

    base: nn.Linear
    r: int
    alpha: float
    scaling: float
    lora_A: nn.Parameter
    lora_B: nn.Parameter

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
            raise TypeError(f"base: this is a {type(base).__name__} and should be an nn.Linear")
        if r < 1:
            raise ValueError(f"r: this is {r} and should be at least 1")
        if not (0.0 <= dropout < 1.0):
            raise ValueError(f"dropout: this is {dropout} and should be in [0, 1)")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha // r
        self.lora_A = nn.Parameter(
            torch.empty(r, base.in_features, device=base.weight.device, dtype=base.weight.dtype)
        )
        self.lora_B = nn.Parameter(
            torch.zeros(base.out_features, r, device=base.weight.device, dtype=base.weight.dtype)
        )
        nn.init.kaiming_uniform_(self.lora_A, a=self.INIT_SLOPE)
        self.branch_dropout = nn.Dropout(dropout)
        if freeze_base:
            base.requires_grad_(False)
        self.train(base.training)

    def extra_repr(self) -> str:
        return f"r={self.r}, alpha={self.alpha}, scaling={self.scaling}"

    def forward(self, x: Tensor) -> Tensor:
        update = linear(linear(self.branch_dropout(x), self.lora_A), self.lora_B)
        result: Tensor = self.base(x)
        return result + self.scaling * update

    def merge_(self) -> None:
        with torch.no_grad():
            weight = self.base.weight
            precision = torch.promote_types(weight.dtype, torch.float32)
            product = self.lora_B.to(precision) @ self.lora_A.to(precision)
            weight.copy_(torch.add(weight.to(precision), product, alpha=self.scaling))
            for name in self.FACTOR_NAMES:
                self.get_parameter(name).zero_()


def _named_factors(model: nn.Module) -> dict[str, nn.Parameter]:
    named: dict[str, nn.Parameter] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, LoRALinear):
            for name in LoRALinear.FACTOR_NAMES:
                named[f"{path}.{name}" if path else name] = module.get_parameter(name)
    return named


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    inner = {id(module.base) for module in model.modules() if isinstance(module, LoRALinear)}
    chosen: dict[str, nn.Linear] = {}
    used: set[str] = set()
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear) and id(module) not in inner:
            for target in target_modules:
                if path == target or path.endswith(f".{target}"):
                    chosen[path] = module
                    used.add(target)
    unused = sorted(set(target_modules) - used)
    if unused:
        raise ValueError(f"target_modules: no linear is left to wrap for {unused}")

    adapters: dict[int, LoRALinear] = {}
    for path, module in chosen.items():
        adapter = adapters.get(id(module)) or LoRALinear(module, r, alpha, dropout)
        adapters[id(module)] = adapter
        parent, _, attribute = path.rpartition(".")
        setattr(model.get_submodule(parent), attribute, adapter)

    ours = {id(p) for p in _named_factors(model).values()}
    for p in model.parameters():
        if id(p) not in ours:
            p.requires_grad_(False)
    return list(chosen)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in _named_factors(model).items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    named = _named_factors(model)
    missing = [name for name in named if name not in state]
    unexpected = [name for name in state if name not in named]
    if missing or unexpected:
        raise KeyError(f"state: missing {missing}; unexpected {unexpected}")
    for name, value in state.items():
        wanted = named[name]
        if value.shape != wanted.shape:
            raise ValueError(f"{name}: is {tuple(value.shape)}, should be {tuple(wanted.shape)}")
        if not torch.isfinite(value.to(wanted.dtype)).all():
            raise ValueError(f"{name}: has values that are not finite")
    with torch.no_grad():
        for name, value in state.items():
            named[name].copy_(value)
