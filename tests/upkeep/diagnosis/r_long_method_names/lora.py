"""LoRA; every method says in its name what it does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
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
    update_kept_for_eval: Tensor | None

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
            raise TypeError(f"base: expected an nn.Linear, got {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r: expected at least 1, got {r}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout: expected a number in [0, 1), got {dropout}")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.lora_A = nn.Parameter(base.weight.new_empty(r, base.in_features))
        self.lora_B = nn.Parameter(base.weight.new_empty(base.out_features, r))
        self.draw_A_and_set_B_to_zero()
        self.dropout = nn.Dropout(dropout)
        self.update_kept_for_eval = None
        self.train(base.training)
        if freeze_base:
            self.base.requires_grad_(False)

    def draw_A_and_set_B_to_zero(self) -> None:
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)

    def compute_branch_with_two_thin_products(self, x: Tensor) -> Tensor:
        return self.scaling * F.linear(F.linear(x, self.lora_A), self.lora_B)

    def compute_update_of_the_weight(self, dtype: torch.dtype) -> Tensor:
        return self.scaling * (self.lora_B.to(dtype) @ self.lora_A.to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        base_output: Tensor = self.base(x)
        if self.training:
            self.update_kept_for_eval = None  # A and B are about to move
            return base_output + self.compute_branch_with_two_thin_products(self.dropout(x))
        # In eval A and B stand still: build B A once and keep it for the next calls.
        if self.update_kept_for_eval is None:
            self.update_kept_for_eval = self.compute_update_of_the_weight(self.lora_A.dtype)
        return base_output + F.linear(x, self.update_kept_for_eval)

    def merge_(self) -> None:
        weight = self.base.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        with torch.no_grad():
            weight.copy_(weight.to(wide) + self.compute_update_of_the_weight(wide))
            self.lora_A.zero_()
            self.lora_B.zero_()


def list_adapters_of_model(model: nn.Module) -> list[LoRALinear]:
    return [module for module in model.modules() if isinstance(module, LoRALinear)]


def name_ends_with_target_at_a_dot(name: str, target: str) -> bool:
    return name == target or name.endswith("." + target)


def find_linears_to_wrap(model: nn.Module, targets: Sequence[str]) -> dict[str, nn.Linear]:
    bases = {adapter.base for adapter in list_adapters_of_model(model)}
    found: dict[str, nn.Linear] = {}
    matched: set[str] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear) and module not in bases:
            for target in targets:
                if name_ends_with_target_at_a_dot(name, target):
                    found[name] = module
                    matched.add(target)
    unmatched = [target for target in targets if target not in matched]
    if unmatched:
        raise ValueError(f"target_modules: expected linears to wrap, got none for {unmatched}")
    return found


def replace_module_by_name(model: nn.Module, name: str, replacement: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, replacement)


def freeze_everything_but_the_adapters(model: nn.Module) -> None:
    keep = {p for a in list_adapters_of_model(model) for p in (a.lora_A, a.lora_B)}
    for param in model.parameters():
        if param not in keep:
            param.requires_grad_(False)


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    found = find_linears_to_wrap(model, target_modules)
    adapter_of: dict[nn.Linear, LoRALinear] = {}
    for name, linear in found.items():
        if linear not in adapter_of:
            adapter_of[linear] = LoRALinear(linear, r=r, alpha=alpha, dropout=dropout)
        replace_module_by_name(model, name, adapter_of[linear])
    freeze_everything_but_the_adapters(model)
    return list(found)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: param.detach().clone()
        for name, param in model.named_parameters()
        if name.rpartition(".")[2] in ("lora_A", "lora_B")
    }


def check_names_of_state(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unexpected:
        raise KeyError(f"state: missing {missing}, unexpected {unexpected}")


def check_shape_and_values_of_entry(name: str, value: Tensor, own: Tensor) -> None:
    if value.shape != own.shape:
        raise ValueError(f"{name}: expected {tuple(own.shape)}, got {tuple(value.shape)}")
    if not value.isfinite().all():
        raise ValueError(f"{name}: expected finite values")


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = lora_state_dict(model)
    check_names_of_state(state, own)
    for name, value in state.items():
        check_shape_and_values_of_entry(name, value, own[name])
    params = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in state.items():
            params[name].copy_(value)
