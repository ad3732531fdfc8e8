from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


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
        is_linear = isinstance(base, nn.Linear)
        rank_ok = r >= 1
        dropout_ok = dropout >= 0.0 and dropout < 1.0
        if not is_linear:
            raise TypeError(f"base: expected nn.Linear, got {type(base).__name__}")
        if not rank_ok:
            raise ValueError(f"r: expected at least 1, got {r}")
        if not dropout_ok:
            raise ValueError(f"dropout: expected [0, 1), got {dropout}")

        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        has_dropout = dropout > 0.0
        self.dropout: nn.Module = nn.Dropout(dropout) if has_dropout else nn.Identity()

        weight = base.weight.detach()
        self.lora_A = nn.Parameter(weight.new_zeros((r, base.in_features)))
        self.lora_B = nn.Parameter(weight.new_zeros((base.out_features, r)))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5), nonlinearity="leaky_relu")

        has_bias = base.bias is not None
        if freeze_base:
            base.weight.requires_grad = False
        if freeze_base and has_bias:
            base.bias.requires_grad = False
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.base(x)
        branch = self.dropout(x)
        branch = F.linear(branch, self.lora_A)
        branch = F.linear(branch, self.lora_B)
        branch = branch * self.scaling
        return result + branch

    def merge_(self) -> None:
        with torch.no_grad():
            weight = self.base.weight
            is_half = weight.dtype in (torch.float16, torch.bfloat16)
            A = self.lora_A.float() if is_half else self.lora_A
            B = self.lora_B.float() if is_half else self.lora_B
            W = weight.float() if is_half else weight
            merged = W + self.scaling * (B @ A)
            weight.copy_(merged)
            self.lora_A.zero_()
            self.lora_B.zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    adapted: set[int] = set()
    for module in model.modules():
        if isinstance(module, LoRALinear):
            adapted.add(id(module.base))

    counter = {target: 0 for target in target_modules}
    selected: dict[str, nn.Linear] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        is_candidate = isinstance(module, nn.Linear) and id(module) not in adapted
        if not is_candidate:
            continue
        for target in counter:
            is_match = name == target or name.endswith("." + target)
            if is_match:
                counter[target] += 1
                selected[name] = module

    n_unmatched = sum(1 for count in counter.values() if count == 0)
    if n_unmatched > 0:
        raise ValueError(
            f"target_modules: {n_unmatched} of {len(counter)} targets match no linear to wrap"
        )

    adapters: dict[int, LoRALinear] = {}
    for name, module in selected.items():
        is_new = id(module) not in adapters
        if is_new:
            adapters[id(module)] = LoRALinear(module, r=r, alpha=alpha, dropout=dropout)
        parent_name, _, child_name = name.rpartition(".")
        parent = model.get_submodule(parent_name)
        setattr(parent, child_name, adapters[id(module)])

    trainable: set[int] = set()
    for module in model.modules():
        if isinstance(module, LoRALinear):
            trainable.update({id(module.lora_A), id(module.lora_B)})
    for parameter in model.parameters():
        is_factor = id(parameter) in trainable
        if not is_factor:
            parameter.requires_grad = False
    return list(selected)


def _pairs(model: nn.Module) -> dict[str, nn.Parameter]:
    pairs: dict[str, nn.Parameter] = {}
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            is_root = name == ""
            prefix = "" if is_root else f"{name}."
            pairs[f"{prefix}lora_A"] = module.lora_A
            pairs[f"{prefix}lora_B"] = module.lora_B
    return pairs


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in _pairs(model).items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    pairs = _pairs(model)
    missing = [name for name in pairs if name not in state]
    unexpected = [name for name in state if name not in pairs]
    names_ok = not missing and not unexpected
    if not names_ok:
        raise KeyError(f"state: missing {missing}, unexpected {unexpected}")
    for name, p in pairs.items():
        shape_ok = state[name].shape == p.shape
        if not shape_ok:
            raise ValueError(
                f"{name}: expected shape {tuple(p.shape)}, got {tuple(state[name].shape)}"
            )
        finite = bool(torch.isfinite(state[name].to(p.dtype)).all())
        if not finite:
            raise ValueError(f"{name}: expected finite values, got NaN or infinity")
    with torch.no_grad():
        for name, p in pairs.items():
            p.copy_(state[name])
