"""LoRA by hand, without magic numbers or strings in the code."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")

DOT = "."
NAME_A = "lora_A"
NAME_B = "lora_B"
FACTOR_NAMES = (NAME_A, NAME_B)
MIN_RANK = 1
DROPOUT_FROM, DROPOUT_BELOW = 0.0, 1.0
KAIMING_SLOPE = math.sqrt(5)
LEAST_MERGE_DTYPE = torch.float32
DEFAULT_RANK, DEFAULT_ALPHA, DEFAULT_WRAP_DROPOUT = 8, 16.0, 0.05


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
        r: int = DEFAULT_RANK,
        alpha: float = DEFAULT_ALPHA,
        dropout: float = 0.0,
        freeze_base: bool = True,
    ) -> None:
        super().__init__()
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base: expected {nn.Linear.__name__}, got {type(base).__name__}")
        if r < MIN_RANK:
            raise ValueError(f"r: expected at least {MIN_RANK}, got {r}")
        if not DROPOUT_FROM <= dropout < DROPOUT_BELOW:
            raise ValueError(
                f"dropout: expected [{DROPOUT_FROM}, {DROPOUT_BELOW}), got {dropout}"
            )
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.lora_A = nn.Parameter(base.weight.new_empty(r, base.in_features))
        self.lora_B = nn.Parameter(base.weight.new_empty(base.out_features, r))
        nn.init.kaiming_uniform_(self.lora_A, a=KAIMING_SLOPE)
        nn.init.zeros_(self.lora_B)
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)
        if freeze_base:
            base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        thin = F.linear(self.dropout(x), self.lora_A)
        return y + self.scaling * F.linear(thin, self.lora_B)

    def merge_(self) -> None:
        weight = self.base.weight
        with torch.no_grad():
            merge_dtype = torch.promote_types(weight.dtype, LEAST_MERGE_DTYPE)
            A, B = self.lora_A.to(merge_dtype), self.lora_B.to(merge_dtype)
            update = self.scaling * (B @ A)
            weight.add_(update.to(weight.dtype))
            for name in FACTOR_NAMES:
                self.get_parameter(name).zero_()


def last_part(name: str) -> str:
    return name.rpartition(DOT)[2]


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = DEFAULT_RANK,
    alpha: float = DEFAULT_ALPHA,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = DEFAULT_WRAP_DROPOUT,
) -> list[str]:
    bases = {id(m.base) for m in model.modules() if isinstance(m, LoRALinear)}
    found: dict[str, nn.Linear] = {}
    seen: set[str] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        if not isinstance(module, nn.Linear) or id(module) in bases:
            continue
        hits = {t for t in target_modules if (DOT + name).endswith(DOT + t)}
        if hits:
            found[name] = module
            seen |= hits
    never = sorted(set(target_modules) - seen)
    if never:
        raise ValueError(f"target_modules: no {nn.Linear.__name__} to wrap for {never}")

    adapter_of: dict[int, LoRALinear] = {}
    for name, linear in found.items():
        key = id(linear)
        if key not in adapter_of:
            adapter_of[key] = LoRALinear(linear, r=r, alpha=alpha, dropout=dropout)
        setattr(model.get_submodule(name.rpartition(DOT)[0]), last_part(name), adapter_of[key])

    factors = {
        id(m.get_parameter(name))
        for m in model.modules()
        if isinstance(m, LoRALinear)
        for name in FACTOR_NAMES
    }
    for param in model.parameters():
        if id(param) not in factors:
            param.requires_grad_(False)
    return list(found)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: param.detach().clone()
        for name, param in model.named_parameters()
        if last_part(name) in FACTOR_NAMES
    }


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = {n: p for n, p in model.named_parameters() if last_part(n) in FACTOR_NAMES}
    missing = sorted(own.keys() - state.keys())
    unexpected = sorted(state.keys() - own.keys())
    if missing or unexpected:
        raise KeyError(f"state: missing {missing}, unexpected {unexpected}")
    for name, param in own.items():
        if state[name].shape != param.shape:
            raise ValueError(
                f"{name}: expected {tuple(param.shape)}, got {tuple(state[name].shape)}"
            )
        if not state[name].isfinite().all():
            raise ValueError(f"{name}: expected finite values")
    with torch.no_grad():
        for name, param in own.items():
            param.copy_(state[name])
