"""The style of a PyTorch contributor: reset_parameters, extra_repr and a __repr__, as in torch.nn."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import init
from torch.nn.parameter import Parameter

__all__ = ["LoRALinear", "load_lora_state_dict", "lora_state_dict", "wrap_minigpt_with_lora"]


class LoRALinear(nn.Module):
    r"""Applies an affine transformation with a low-rank update: :math:`y = xW^T + b + s xA^TB^T`."""

    __constants__: ClassVar[list[str]] = ["in_features", "out_features", "r", "alpha", "scaling"]
    in_features: int
    out_features: int
    r: int
    alpha: float
    scaling: float
    base: nn.Linear
    lora_A: Parameter
    lora_B: Parameter

    def __init__(
        self,
        base: nn.Linear,
        r: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        freeze_base: bool = True,
    ) -> None:
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base: expected nn.Linear, got {torch.typename(base)}")
        if r < 1:
            raise ValueError(f"r: expected a positive integer, got {r}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout: expected a float in [0, 1), got {dropout}")
        super().__init__()
        self.in_features = base.in_features
        self.out_features = base.out_features
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.lora_A = Parameter(
            torch.empty((r, self.in_features), device=base.weight.device, dtype=base.weight.dtype)
        )
        self.lora_B = Parameter(
            torch.empty((self.out_features, r), device=base.weight.device, dtype=base.weight.dtype)
        )
        self.dropout = nn.Dropout(dropout)
        self.base = base.requires_grad_(False) if freeze_base else base
        self.reset_parameters()
        self.train(base.training)

    def reset_parameters(self) -> None:
        """A as nn.Linear initialises its weight, B with zeros."""
        init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        init.zeros_(self.lora_B)

    def forward(self, input: Tensor) -> Tensor:
        """Runs the forward pass."""
        update = F.linear(F.linear(self.dropout(input), self.lora_A), self.lora_B)
        output: Tensor = self.base(input)
        return output + update.mul(self.scaling)

    @torch.no_grad()
    def merge_(self) -> None:
        acc_dtype = torch.promote_types(self.base.weight.dtype, torch.float32)
        update = torch.mm(self.lora_B.to(acc_dtype), self.lora_A.to(acc_dtype))
        self.base.weight.copy_(torch.add(self.base.weight.to(acc_dtype), update, alpha=self.scaling))
        init.zeros_(self.lora_A)
        init.zeros_(self.lora_B)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"r={self.r}, alpha={self.alpha}, dropout={self.dropout.p}"
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()}, base={self.base})"


def _named_lora_parameters(module: nn.Module) -> Iterator[tuple[str, Parameter]]:
    for prefix, submodule in module.named_modules():
        if isinstance(submodule, LoRALinear):
            yield from submodule.named_parameters(prefix=prefix, recurse=False)


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2"),
    dropout: float = 0.05,
) -> list[str]:
    memo = {m.base for m in model.modules() if isinstance(m, LoRALinear)}
    replaced: dict[str, nn.Linear] = {}
    unmatched_targets = list(target_modules)
    for name, module in model.named_modules(remove_duplicate=False):
        if not isinstance(module, nn.Linear) or module in memo:
            continue
        hits = [t for t in target_modules if name == t or name.endswith(f".{t}")]
        if hits:
            replaced[name] = module
        unmatched_targets = [t for t in unmatched_targets if t not in hits]
    if unmatched_targets:
        raise ValueError(f"target_modules: expected matches in the model, got none for {unmatched_targets}")
    new: dict[nn.Linear, LoRALinear] = {}
    for name, linear in replaced.items():
        if linear not in new:
            new[linear] = LoRALinear(linear, r, alpha, dropout)
        parent, _, attr = name.rpartition(".")
        setattr(model.get_submodule(parent), attr, new[linear])
    lora_parameters = {parameter for _, parameter in _named_lora_parameters(model)}
    for parameter in model.parameters():
        if parameter not in lora_parameters:
            parameter.requires_grad_(False)
    return list(replaced)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in _named_lora_parameters(model)}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    local_state = dict(_named_lora_parameters(model))
    missing_keys = [key for key in local_state if key not in state]
    unexpected_keys = [key for key in state if key not in local_state]
    error_msgs: list[str] = []
    if unexpected_keys:
        error_msgs.append("Unexpected key(s): {}.".format(", ".join(f'"{k}"' for k in unexpected_keys)))
    if missing_keys:
        error_msgs.append("Missing key(s): {}.".format(", ".join(f'"{k}"' for k in missing_keys)))
    if error_msgs:
        raise KeyError("Error(s) in loading adapters: " + " ".join(error_msgs))
    for key, parameter in local_state.items():
        if state[key].size() != parameter.size():
            error_msgs.append(f"size mismatch for {key}: {state[key].size()} vs {parameter.size()}")
        elif not torch.isfinite(state[key]).all():
            error_msgs.append(f"non-finite values for {key}")
    if error_msgs:
        raise ValueError("Error(s) in loading adapters: " + "; ".join(error_msgs))
    with torch.no_grad():
        for key, parameter in local_state.items():
            parameter.copy_(state[key])
