"""LoRA driven by tables: what to check, what to init, what to wrap."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")

Number = int | float
CHECKS: dict[str, tuple[Callable[[Number], bool], str]] = {
    "r": (lambda value: value >= 1, "at least 1"),
    "dropout": (lambda value: 0 <= value < 1, "a probability in [0, 1)"),
}
INITS: dict[str, Callable[[Tensor], Tensor]] = {
    "lora_A": lambda tensor: nn.init.kaiming_uniform_(tensor, a=math.sqrt(5)),
    "lora_B": lambda tensor: nn.init.zeros_(tensor),
}
WIDE = {torch.float64: torch.float64}  # everything else is merged in float32


def check(**values: Number) -> None:
    for name, value in values.items():
        good, wanted = CHECKS[name]
        if not good(value):
            raise ValueError(f"{name}: expected {wanted}, got {value}")


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
            raise TypeError(f"base: expected nn.Linear, got {type(base).__name__}")
        check(r=r, dropout=dropout)
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        shapes = {"lora_A": (r, base.in_features), "lora_B": (base.out_features, r)}
        for name, init in INITS.items():
            self.register_parameter(name, nn.Parameter(init(base.weight.new_empty(shapes[name]))))
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)
        if freeze_base:
            base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():  # base does not train
            out: Tensor = self.base(x)
        z = F.linear(F.linear(self.dropout(x), self.lora_A), self.lora_B)
        return out + self.scaling * z

    def merge_(self) -> None:
        with torch.no_grad():
            weight = self.base.weight
            wide = WIDE.get(weight.dtype, torch.float32)
            update = self.scaling * (self.lora_B.to(wide) @ self.lora_A.to(wide))
            weight.copy_(weight.to(wide) + update)
            for name in INITS:
                self.get_parameter(name).zero_()


def hit_table(model: nn.Module, targets: Sequence[str]) -> dict[str, dict[str, nn.Linear]]:
    """target -> {name: linear} of the linears that are not wrapped yet."""
    bases = {m.base for m in model.modules() if isinstance(m, LoRALinear)}
    table: dict[str, dict[str, nn.Linear]] = {target: {} for target in targets}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear) and module not in bases:
            for target, row in table.items():
                if name == target or name.endswith("." + target):
                    row[name] = module
    return table


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    table = hit_table(model, target_modules)
    empty = [target for target, row in table.items() if not row]
    if empty:
        raise ValueError(f"target_modules: expected a bare nn.Linear for each, got none for {empty}")
    found: dict[str, nn.Linear] = {}
    for row in table.values():
        found.update(row)
    adapters: dict[nn.Linear, LoRALinear] = {}
    for name, linear in found.items():
        if linear not in adapters:
            adapters[linear] = LoRALinear(linear, r=r, alpha=alpha, dropout=dropout)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, adapters[linear])
    for name, param in model.named_parameters():
        if "lora" not in name:
            param.requires_grad_(False)
    return list(found)


def factor_table(model: nn.Module) -> dict[str, nn.Parameter]:
    """full name -> Parameter, for every A and B."""
    table: dict[str, nn.Parameter] = {}
    for path, module in model.named_modules():
        if isinstance(module, LoRALinear):
            for name in INITS:
                table[f"{path}.{name}" if path else name] = module.get_parameter(name)
    return table


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {name: param.detach().clone() for name, param in factor_table(model).items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    table = factor_table(model)
    missing, unexpected = sorted(table.keys() - state.keys()), sorted(state.keys() - table.keys())
    if missing or unexpected:
        raise KeyError(f"state: missing {missing}, unexpected {unexpected}")
    for name, param in table.items():
        if state[name].shape != param.shape:
            raise ValueError(
                f"{name}: expected {tuple(param.shape)}, got {tuple(state[name].shape)}"
            )
        if not state[name].isfinite().all():
            raise ValueError(f"{name}: expected finite values")
    with torch.no_grad():
        for name, param in table.items():
            param.copy_(state[name])
