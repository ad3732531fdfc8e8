"""LoRA with plain loops, no comprehension and no generator anywhere."""

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
        if not isinstance(base, nn.Linear):
            raise TypeError("base: expected nn.Linear, got " + type(base).__name__)
        if r < 1:
            raise ValueError("r: expected at least 1, got " + str(r))
        if dropout < 0 or dropout >= 1:
            raise ValueError("dropout: expected a number in [0, 1), got " + str(dropout))
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.lora_A = nn.Parameter(base.weight.new_empty(r, base.in_features))
        self.lora_B = nn.Parameter(base.weight.new_empty(base.out_features, r))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)
        for param in base.parameters():
            param.requires_grad = not freeze_base

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.base(x)
        branch: Tensor = self.dropout(x)
        for factor in (self.lora_A, self.lora_B):
            branch = F.linear(branch, factor)
        return result + self.scaling * branch

    def merge_(self) -> None:
        weight = self.base.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        with torch.no_grad():
            total = weight.to(wide)
            # one outer product for each of the r directions
            for k in range(self.r):
                column = self.lora_B[:, k].to(wide)
                row = self.lora_A[k, :].to(wide)
                total = total + self.scaling * torch.outer(column, row)
            weight.copy_(total)
            for factor in (self.lora_A, self.lora_B):
                factor.zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    # linears that an adapter owns already
    owned: list[nn.Linear] = []
    for module in model.modules():
        if isinstance(module, LoRALinear):
            owned.append(module.base)

    names: list[str] = []
    linears: list[nn.Linear] = []
    used: list[str] = []
    for name, module in model.named_modules(remove_duplicate=False):
        if not isinstance(module, nn.Linear):
            continue
        is_owned = False
        for linear in owned:
            if linear is module:
                is_owned = True
        if is_owned:
            continue
        hit = False
        for target in target_modules:
            if name == target or name.endswith("." + target):
                hit = True
                if target not in used:
                    used.append(target)
        if hit:
            names.append(name)
            linears.append(module)

    unused: list[str] = []
    for target in target_modules:
        if target not in used:
            unused.append(target)
    if len(unused) > 0:
        raise ValueError("target_modules: no linear found for " + ", ".join(unused))

    adapters: dict[nn.Linear, LoRALinear] = {}
    for i in range(len(names)):
        linear = linears[i]
        if linear not in adapters:
            adapters[linear] = LoRALinear(linear, r, alpha, dropout)
        parts = names[i].split(".")
        parent = model
        for part in parts[:-1]:
            parent = parent.get_submodule(part)
        setattr(parent, parts[-1], adapters[linear])

    trainable: set[int] = set()
    for module in model.modules():
        if isinstance(module, LoRALinear):
            trainable.add(id(module.lora_A))
            trainable.add(id(module.lora_B))
    for param in model.parameters():
        if id(param) not in trainable:
            param.requires_grad = False
    return names


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, param in model.named_parameters():
        last = name.split(".")[-1]
        if last == "lora_A" or last == "lora_B":
            state[name] = param.detach().clone()
    return state


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own: dict[str, nn.Parameter] = {}
    for name, param in model.named_parameters():
        last = name.split(".")[-1]
        if last == "lora_A" or last == "lora_B":
            own[name] = param

    wrong_names: list[str] = []
    for name in own:
        if name not in state:
            wrong_names.append("missing " + name)
    for name in state:
        if name not in own:
            wrong_names.append("unexpected " + name)
    if len(wrong_names) > 0:
        raise KeyError("state: " + ", ".join(wrong_names))

    for name in own:
        if state[name].shape != own[name].shape:
            raise ValueError(
                name + ": expected " + str(tuple(own[name].shape))
                + ", got " + str(tuple(state[name].shape))
            )
        if not torch.isfinite(state[name]).all():
            raise ValueError(name + ": expected finite values")

    with torch.no_grad():
        for name in own:
            own[name].copy_(state[name])
