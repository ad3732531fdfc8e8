"""LoRA in the style of "ask for forgiveness, not for permission"."""

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

    def __init__(
        self,
        base: nn.Linear,
        r: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        freeze_base: bool = True,
    ) -> None:
        super().__init__()
        if type(base) is not nn.Linear:
            raise TypeError(f"base: expected nn.Linear, got {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r: expected a rank of 1 or more, got {r}")
        if dropout == 1.0:  # nn.Dropout would take it
            raise ValueError(f"dropout: expected less than 1, got {dropout}")
        try:
            self.dropout = nn.Dropout(dropout)
        except ValueError as error:
            raise ValueError(f"dropout: expected a number in [0, 1), got {dropout}") from error

        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        weight = base.weight
        self.lora_A = nn.Parameter(weight.new_empty(r, base.in_features))
        self.lora_B = nn.Parameter(weight.new_zeros(base.out_features, r))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.train(base.training)
        if freeze_base:
            weight.requires_grad_(False)
            try:
                base.bias.requires_grad_(False)
            except AttributeError:
                pass  # no bias

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        return y + self.scaling * F.linear(F.linear(self.dropout(x), self.lora_A), self.lora_B)

    def merge_(self) -> None:
        weight = self.base.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        with torch.no_grad():
            total = weight.to(wide) + self.scaling * (self.lora_B.to(wide) @ self.lora_A.to(wide))
            weight.copy_(total)
            self.lora_A.zero_()
            self.lora_B.zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    found: dict[str, nn.Linear] = {}
    counts: dict[str, int] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if not isinstance(module, nn.Linear):
            continue
        for target in target_modules:
            if name == target or name.endswith("." + target):
                found[name] = module
                try:
                    counts[target] += 1
                except KeyError:
                    counts[target] = 1
    try:
        for target in target_modules:
            counts[target]
    except KeyError as error:
        raise ValueError(f"target_modules: no nn.Linear to wrap is called {error}") from None

    made: dict[nn.Linear, LoRALinear] = {}
    for name, linear in found.items():
        try:
            adapter = made[linear]
        except KeyError:
            adapter = made[linear] = LoRALinear(linear, r=r, alpha=alpha, dropout=dropout)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, adapter)

    keep: set[nn.Parameter] = set()
    for module in model.modules():
        if isinstance(module, LoRALinear):
            keep |= {module.lora_A, module.lora_B}
    for param in model.parameters():
        if param not in keep:
            param.requires_grad_(False)
    return list(found)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: p.detach().clone()
        for name, p in model.named_parameters()
        if name.rpartition(".")[2] in ("lora_A", "lora_B")
    }


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = lora_state_dict(model)
    missing: list[str] = []
    for name in own:
        try:
            state[name]
        except KeyError:
            missing.append(name)
    unexpected: list[str] = []
    for name in state:
        try:
            own[name]
        except KeyError:
            unexpected.append(name)
    if missing or unexpected:
        raise KeyError(f"state: missing {missing}, unexpected {unexpected}")
    for name, value in state.items():
        want, got = tuple(own[name].shape), tuple(value.shape)
        if want != got:
            raise ValueError(f"{name}: expected shape {want}, got {got}")
        if not torch.isfinite(value).all():
            raise ValueError(f"{name}: expected finite values")
    params = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in state.items():
            params[name].copy_(value)
