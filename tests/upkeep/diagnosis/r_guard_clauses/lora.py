"""LoRA by hand. Every function says no first and does its work afterwards."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


def check_base(base: object) -> None:
    if isinstance(base, nn.Linear):
        return
    raise TypeError(f"base: expected an nn.Linear, got a {type(base).__name__}")


def check_rank(r: int) -> None:
    if r >= 1:
        return
    raise ValueError(f"r: expected a rank of at least 1, got {r}")


def check_dropout(dropout: float) -> None:
    if dropout < 0:
        raise ValueError(f"dropout: expected no negative probability, got {dropout}")
    if dropout > 1:
        raise ValueError(f"dropout: expected no probability above 1, got {dropout}")


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
        check_base(base)
        check_rank(r)
        check_dropout(dropout)

        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.lora_A = nn.Parameter(base.weight.new_empty((r, base.in_features)))
        self.lora_B = nn.Parameter(base.weight.new_zeros((base.out_features, r)))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)

        if not freeze_base:
            return
        base.weight.requires_grad_(False)
        if base.bias is None:
            return
        base.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        down = F.linear(self.dropout(x), self.lora_A)
        up = F.linear(down, self.lora_B)
        return out + up * self.scaling

    def merge_(self) -> None:
        weight = self.base.weight
        kind = torch.float64 if weight.dtype == torch.float64 else torch.float32
        with torch.no_grad():
            update = self.lora_B.to(kind) @ self.lora_A.to(kind)
            weight.copy_(weight.to(kind) + update * self.scaling)
            self.lora_A.zero_()
            self.lora_B.zero_()


def is_hit(name: str, target: str) -> bool:
    if name == target:
        return True
    return name.endswith(f".{target}")


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    taken: set[nn.Module] = set()
    for module in model.modules():
        if not isinstance(module, LoRALinear):
            continue
        taken.add(module.base)

    found: dict[str, nn.Linear] = {}
    used: set[str] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        if not isinstance(module, nn.Linear):
            continue
        if module in taken:
            continue
        matching = [target for target in target_modules if is_hit(name, target)]
        if not matching:
            continue
        found[name] = module
        used.update(matching)

    unused = [target for target in target_modules if target not in used]
    if unused:
        raise ValueError(f"target_modules: no linear left to wrap for {unused}")

    adapters: dict[nn.Linear, LoRALinear] = {}
    for name, linear in found.items():
        if linear not in adapters:
            adapters[linear] = LoRALinear(linear, r=r, alpha=alpha, dropout=dropout)
        *path, child = name.split(".")
        setattr(model.get_submodule(".".join(path)), child, adapters[linear])

    trainable: set[nn.Parameter] = set()
    for module in model.modules():
        if not isinstance(module, LoRALinear):
            continue
        trainable.add(module.lora_A)
        trainable.add(module.lora_B)
    for param in model.parameters():
        if param in trainable:
            continue
        param.requires_grad_(False)
    return list(found)


def adapter_params(model: nn.Module) -> dict[str, nn.Parameter]:
    owned: set[nn.Parameter] = set()
    for module in model.modules():
        if not isinstance(module, LoRALinear):
            continue
        owned.update((module.lora_A, module.lora_B))
    return {name: param for name, param in model.named_parameters() if param in owned}


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {name: param.detach().clone() for name, param in adapter_params(model).items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    params = adapter_params(model)
    missing = [name for name in params if name not in state]
    unknown = [name for name in state if name not in params]
    if missing or unknown:
        raise KeyError(f"state: missing names {missing}, unexpected names {unknown}")
    for name, param in params.items():
        if state[name].shape == param.shape:
            continue
        raise ValueError(
            f"{name}: expected shape {tuple(param.shape)}, got {tuple(state[name].shape)}"
        )
    for name in params:
        if torch.isfinite(state[name]).all():
            continue
        raise ValueError(f"{name}: expected finite values only")
    with torch.no_grad():
        for name, param in params.items():
            param.copy_(state[name])
