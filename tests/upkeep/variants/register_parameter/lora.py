"""The style of someone who registers by hand: register_parameter, add_module, explicit names everywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class LoRALinear(nn.Module):
    base: nn.Linear
    lora_A: nn.Parameter
    lora_B: nn.Parameter
    lora_dropout: nn.Dropout

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
            raise TypeError(f"base: expected nn.Linear, got {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r: expected 1 or more, got {r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected 0 or more and less than 1, got {dropout}")
        self.r: int = r
        self.alpha: float = alpha
        self.scaling: float = alpha / r
        weight = base.weight.detach()
        self.register_parameter("lora_A", nn.Parameter(weight.new_empty((r, weight.size(1)))))
        self.register_parameter("lora_B", nn.Parameter(weight.new_zeros((weight.size(0), r))))
        torch.nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5), mode="fan_in")
        self.add_module("lora_dropout", nn.Dropout(dropout))
        self.lora_dropout.train(base.training)
        self.register_module("base", base)
        self.training = base.training
        if freeze_base:
            for _, parameter in base.named_parameters():
                parameter.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        branch = F.linear(self.lora_dropout(x), self.lora_A)
        branch = F.linear(branch, self.lora_B)
        out: Tensor = self.base(x)
        return torch.add(out, branch, alpha=self.scaling)

    def merge_(self) -> None:
        weight = self.base.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        with torch.no_grad():
            update = torch.zeros(weight.shape, dtype=dtype, device=weight.device)
            for k in range(self.r):  # B A is a sum of r outer products
                update += torch.outer(self.lora_B[:, k].to(dtype), self.lora_A[k].to(dtype))
            weight.copy_(weight.to(dtype) + self.scaling * update)
            self.get_parameter("lora_A").zero_()
            self.get_parameter("lora_B").zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    adapter_names = [name for name, m in model.named_modules(remove_duplicate=False) if isinstance(m, LoRALinear)]
    free: dict[str, nn.Linear] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        inside = any(name == f"{adapter}.base" or name.startswith(f"{adapter}.base.") for adapter in adapter_names)
        if isinstance(module, nn.Linear) and not inside:
            free[name] = module
    per_target = [(t, [n for n in free if n == t or n.endswith("." + t)]) for t in target_modules]
    unmatched = [t for t, names in per_target if len(names) == 0]
    if len(unmatched) > 0:
        raise ValueError(f"target_modules: expected at least one linear each, got 0 for {unmatched}")
    names = [n for n in free if any(n in group for _, group in per_target)]
    registry: dict[int, LoRALinear] = {}
    for name in names:
        linear = free[name]
        if id(linear) not in registry:
            registry[id(linear)] = LoRALinear(linear, r, alpha, dropout)
        parent_name, _, child_name = name.rpartition(".")
        parent = model.get_submodule(parent_name)
        parent.register_module(child_name, registry[id(linear)])
    frozen = 0
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] not in ("lora_A", "lora_B"):
            parameter.requires_grad_(False)
            frozen += parameter.numel()
    assert frozen > 0 or not names
    return names


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for key, parameter in model.named_parameters(remove_duplicate=True):
        if key == "lora_A" or key == "lora_B" or key.endswith(".lora_A") or key.endswith(".lora_B"):
            state[key] = torch.empty_like(parameter, requires_grad=False).copy_(parameter.detach())
    return state


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    keys = list(lora_state_dict(model))
    missing = [key for key in keys if key not in state]
    unexpected = [key for key in state if key not in keys]
    if len(missing) > 0 or len(unexpected) > 0:
        raise KeyError("missing: " + ", ".join(missing) + "; unexpected: " + ", ".join(unexpected))
    bad_shapes = [key for key in keys if model.get_parameter(key).shape != state[key].shape]
    if len(bad_shapes) > 0:
        raise ValueError("wrong shape: " + ", ".join(bad_shapes))
    bad_values = [key for key in keys if not math.isfinite(float(state[key].abs().max()))]
    if len(bad_values) > 0:
        raise ValueError("not finite: " + ", ".join(bad_values))
    for key in keys:
        with torch.no_grad():
            model.get_parameter(key).copy_(state[key])
