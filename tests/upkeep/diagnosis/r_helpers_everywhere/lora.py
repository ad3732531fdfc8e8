"""Low-rank adapters for nn.Linear, cut into small helpers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


def _validate(base: nn.Module, r: int, dropout: float) -> None:
    if not isinstance(base, nn.Linear):
        raise TypeError(f"base: need an nn.Linear, got {type(base).__name__}")
    if r < 1:
        raise ValueError(f"r: need at least 1, got {r}")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout: need a value in [0, 1), got {dropout}")


def _new_A(base: nn.Linear, r: int) -> nn.Parameter:
    A = base.weight.new_empty(r, base.in_features)
    nn.init.kaiming_uniform_(A, a=math.sqrt(5))
    return nn.Parameter(A)


def _new_B(base: nn.Linear, r: int) -> nn.Parameter:
    return nn.Parameter(base.weight.new_zeros(base.out_features, r))


def _freeze(module: nn.Module) -> None:
    module.requires_grad = False


def _low_rank(x: Tensor, A: Tensor, B: Tensor) -> Tensor:
    return F.linear(F.linear(x, A), B)


def _dense(A: Tensor, B: Tensor, scaling: float, dtype: torch.dtype) -> Tensor:
    return scaling * (B.to(dtype) @ A.to(dtype))


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
        _validate(base, r, dropout)
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.lora_A = _new_A(base, r)
        self.lora_B = _new_B(base, r)
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)
        if freeze_base:
            _freeze(base)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        return y + self.scaling * _low_rank(self.dropout(x), self.lora_A, self.lora_B)

    @torch.no_grad()
    def merge_(self) -> None:
        W = self.base.weight
        wide = torch.promote_types(W.dtype, torch.float32)
        W.copy_(W.to(wide) + _dense(self.lora_A, self.lora_B, self.scaling, wide))
        self.lora_A.zero_()
        self.lora_B.zero_()


def _adapters(model: nn.Module) -> Iterator[LoRALinear]:
    for module in model.modules():
        if isinstance(module, LoRALinear):
            yield module


def _matches(name: str, target: str) -> bool:
    return ("." + name).endswith("." + target)


def _free_linears(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    bases = {adapter.base for adapter in _adapters(model)}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear) and module not in bases:
            yield name, module


def _replace(model: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new)


def _freeze_all_but_adapters(model: nn.Module) -> None:
    ours = {p for adapter in _adapters(model) for p in (adapter.lora_A, adapter.lora_B)}
    for p in model.parameters():
        if p not in ours:
            p.requires_grad_(False)


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    free = list(_free_linears(model))
    idle = [t for t in target_modules if not any(_matches(name, t) for name, _ in free)]
    if idle:
        raise ValueError(f"target_modules: no unwrapped nn.Linear for {idle}")
    chosen = [(n, lin) for n, lin in free if any(_matches(n, t) for t in target_modules)]
    adapters: dict[nn.Linear, LoRALinear] = {}
    for name, linear in chosen:
        if linear not in adapters:
            adapters[linear] = LoRALinear(linear, r, alpha, dropout)
        _replace(model, name, adapters[linear])
    _freeze_all_but_adapters(model)
    return [name for name, _ in chosen]


def _slots(model: nn.Module) -> dict[str, nn.Parameter]:
    ours = {p for adapter in _adapters(model) for p in (adapter.lora_A, adapter.lora_B)}
    return {name: p for name, p in model.named_parameters() if p in ours}


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in _slots(model).items()}


def _check_names(want: set[str], got: set[str]) -> None:
    if want != got:
        raise KeyError(f"state: missing {sorted(want - got)}, unexpected {sorted(got - want)}")


def _check_value(name: str, value: Tensor, slot: Tensor) -> None:
    if value.shape != slot.shape:
        raise ValueError(f"{name}: got {tuple(value.shape)}, need {tuple(slot.shape)}")
    if not torch.isfinite(value.to(slot.dtype)).all():
        raise ValueError(f"{name}: a value is not finite")


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    slots = _slots(model)
    _check_names(set(slots), set(state))
    for name, slot in slots.items():
        _check_value(name, state[name], slot)
    with torch.no_grad():
        for name, slot in slots.items():
            slot.copy_(state[name])
