"""LoRA for nn.Linear."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")

BAD_BASE = "base: expected nn.Linear, got {}"
BAD_RANK = "r: the rank has to be a positive integer, at least 1"
BAD_DROPOUT = "dropout: expected a probability in [0, 1), got {}"
BAD_TARGETS = "target_modules: no linear left to wrap for {}"
BAD_NAMES = "state: missing {}, unexpected {}"
BAD_SHAPE = "{}: expected shape {}, got {}"
BAD_VALUE = "{}: expected finite values, got NaN or infinity"


class LoRALinear(nn.Module):
    """A linear layer and its low-rank update."""

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
            raise TypeError(BAD_BASE.format(type(base).__name__))
        if r < 1:
            raise ValueError(BAD_RANK)
        if not 0.0 <= dropout < 1.0:
            raise ValueError(BAD_DROPOUT.format(dropout))

        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r

        dtype, device = base.weight.dtype, base.weight.device
        self.lora_A = nn.Parameter(torch.empty(r, base.in_features, dtype=dtype, device=device))
        self.lora_B = nn.Parameter(torch.empty(base.out_features, r, dtype=dtype, device=device))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)

        self.dropout = nn.Dropout(dropout)
        self.train(base.training)

        if freeze_base:
            base.weight.requires_grad_(False)
            if base.bias is not None:
                base.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        down = F.linear(self.dropout(x), self.lora_A)
        up = F.linear(down, self.lora_B)
        return out + self.scaling * up

    def merge_(self) -> None:
        weight = self.base.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        with torch.no_grad():
            update = self.scaling * (self.lora_B.to(wide) @ self.lora_A.to(wide))
            weight.copy_((weight.to(wide) + update).to(weight.dtype))
            # with B at zero the branch is off again, as it was at init
            self.lora_B.zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    already = {id(m.base) for m in model.modules() if isinstance(m, LoRALinear)}
    matches: dict[str, nn.Linear] = {}
    missing = list(dict.fromkeys(target_modules))
    for name, module in model.named_modules(remove_duplicate=False):
        if not isinstance(module, nn.Linear):
            continue
        if id(module) in already:
            continue
        for target in target_modules:
            if name == target or name.endswith("." + target):
                matches[name] = module
                if target in missing:
                    missing.remove(target)
    if missing:
        raise ValueError(BAD_TARGETS.format(missing))

    adapters: dict[int, LoRALinear] = {}
    for name, module in matches.items():
        if id(module) not in adapters:
            adapters[id(module)] = LoRALinear(module, r=r, alpha=alpha, dropout=dropout)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, adapters[id(module)])

    train = set()
    for module in model.modules():
        if isinstance(module, LoRALinear):
            train.add(module.lora_A)
            train.add(module.lora_B)
    for p in model.parameters():
        if p not in train:
            p.requires_grad_(False)
    return list(matches)


def named_factors(model: nn.Module) -> dict[str, nn.Parameter]:
    result: dict[str, nn.Parameter] = {}
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            result[f"{name}.lora_A" if name else "lora_A"] = module.lora_A
            result[f"{name}.lora_B" if name else "lora_B"] = module.lora_B
    return result


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in named_factors(model).items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    factors = named_factors(model)
    missing = sorted(factors.keys() - state.keys())
    unexpected = sorted(state.keys() - factors.keys())
    if missing or unexpected:
        raise KeyError(BAD_NAMES.format(missing, unexpected))
    for name, p in factors.items():
        value = state[name]
        if value.shape != p.shape:
            raise ValueError(BAD_SHAPE.format(name, tuple(p.shape), tuple(value.shape)))
        if not torch.isfinite(value.to(p.dtype)).all():
            raise ValueError(BAD_VALUE.format(name))
    with torch.no_grad():
        for name, p in factors.items():
            p.copy_(state[name])
