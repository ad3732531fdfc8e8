"""LoRALinear and friends; each step is a small function with a name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


def check_base(base: object) -> None:
    if not isinstance(base, nn.Linear):
        raise TypeError(f"base: expected a torch.nn.Linear (nn.Linear), got {type(base).__name__}")


def check_rank(r: int) -> None:
    if r < 1:
        raise ValueError(f"r: expected an integer of at least 1, got {r}")


def check_dropout(dropout: float) -> None:
    inside = dropout >= 0.0 and dropout < 1.0
    if not inside:
        raise ValueError(f"dropout: expected something in [0, 1), got {dropout}")


def make_A(base: nn.Linear, r: int) -> nn.Parameter:
    A = torch.empty(r, base.in_features, dtype=base.weight.dtype, device=base.weight.device)
    nn.init.kaiming_uniform_(A, a=math.sqrt(5))
    return nn.Parameter(A)


def make_B(base: nn.Linear, r: int) -> nn.Parameter:
    B = torch.zeros(base.out_features, r, dtype=base.weight.dtype, device=base.weight.device)
    return nn.Parameter(B)


def freeze(module: nn.Module) -> None:
    for param in module.parameters():
        param.requires_grad_(False)


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32


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
        check_base(base)
        check_rank(r)
        check_dropout(dropout)
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.lora_A = make_A(base, r)
        self.lora_B = make_B(base, r)
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)
        if freeze_base:
            freeze(base)

    def branch(self, x: Tensor) -> Tensor:
        return self.scaling * F.linear(F.linear(x, self.lora_A), self.lora_B)

    def delta(self, dtype: torch.dtype) -> Tensor:
        return self.scaling * (self.lora_B.to(dtype) @ self.lora_A.to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        return y + self.branch(self.dropout(x))

    def merge_(self) -> None:
        weight = self.base.weight
        with torch.no_grad():
            dtype = at_least_float32(weight.dtype)
            weight.copy_(weight.to(dtype) + self.delta(dtype))
            self.lora_A.zero_()
            self.lora_B.zero_()
        self.scaling = 0.0  # the update lives in the weight from here on


def is_match(name: str, target: str) -> bool:
    return name == target or name.endswith("." + target)


def adapters_of(model: nn.Module) -> list[LoRALinear]:
    return [module for module in model.modules() if isinstance(module, LoRALinear)]


def adapter_param_ids(model: nn.Module) -> set[int]:
    ids: set[int] = set()
    for layer in adapters_of(model):
        ids.add(id(layer.lora_A))
        ids.add(id(layer.lora_B))
    return ids


def find_linears(model: nn.Module, targets: Sequence[str]) -> dict[str, nn.Linear]:
    occupied = {id(layer.base) for layer in adapters_of(model)}
    found: dict[str, nn.Linear] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        if id(module) in occupied:
            continue
        if any(is_match(name, target) for target in targets):
            found[name] = module
    return found


def demand_all_matched(names: Sequence[str], targets: Sequence[str]) -> None:
    useless = [t for t in targets if not any(is_match(name, t) for name in names)]
    if useless:
        raise ValueError(f"target_modules: {useless} match no nn.Linear that is still unwrapped")


def replace_child(model: nn.Module, name: str, new: nn.Module) -> None:
    parent_name, _, child_name = name.rpartition(".")
    setattr(model.get_submodule(parent_name), child_name, new)


def freeze_all_but(model: nn.Module, keep: set[int]) -> None:
    for param in model.parameters():
        if id(param) not in keep:
            param.requires_grad_(False)


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    found = find_linears(model, target_modules)
    demand_all_matched(list(found), target_modules)
    for name, linear in found.items():
        replace_child(model, name, LoRALinear(linear, r=r, alpha=alpha, dropout=dropout))
    freeze_all_but(model, adapter_param_ids(model))
    return list(found)


def adapter_params(model: nn.Module) -> dict[str, nn.Parameter]:
    ids = adapter_param_ids(model)
    return {name: param for name, param in model.named_parameters() if id(param) in ids}


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {name: param.detach().clone() for name, param in adapter_params(model).items()}


def check_names(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    if missing or unexpected:
        raise KeyError(f"missing entries: {missing}; unexpected entries: {unexpected}")


def check_entry(name: str, own: Tensor, value: Tensor) -> None:
    if value.shape != own.shape:
        raise ValueError(f"{name}: expected shape {tuple(own.shape)}, got {tuple(value.shape)}")
    if not torch.isfinite(value.to(own.dtype)).all():
        raise ValueError(f"{name}: expected finite values")


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = adapter_params(model)
    check_names(own, state)
    for name in own:
        check_entry(name, own[name], state[name])
    with torch.no_grad():
        for name in own:
            own[name].copy_(state[name])
