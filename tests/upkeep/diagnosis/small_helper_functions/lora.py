"""Lab 00. I like functions that do one thing, so there are many."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


def _check_base(base: object) -> None:
    if not isinstance(base, nn.Linear):
        raise TypeError(f"base: expected nn.Linear but got {type(base).__name__}")


def _check_rank(r: int) -> None:
    if r < 1:
        raise ValueError(f"r: expected at least 1 but got {r}")


def _check_probability(dropout: float) -> None:
    if not 0.0 <= dropout <= 1.0:
        raise ValueError(f"dropout: expected a probability in [0, 1) but got {dropout}")


def _make_A(base: nn.Linear, r: int) -> nn.Parameter:
    A = torch.empty(r, base.in_features, dtype=base.weight.dtype, device=base.weight.device)
    return nn.Parameter(nn.init.kaiming_uniform_(A, a=math.sqrt(5)))


def _make_B(base: nn.Linear, r: int) -> nn.Parameter:
    B = torch.zeros(base.out_features, r, dtype=base.weight.dtype, device=base.weight.device)
    return nn.Parameter(B)


def _freeze(params: Iterable[nn.Parameter]) -> None:
    for p in params:
        p.requires_grad_(False)


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
        _check_base(base)
        _check_rank(r)
        _check_probability(dropout)
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.lora_A = _make_A(base, r)
        self.lora_B = _make_B(base, r)
        self.dropout = nn.Dropout(dropout)
        if freeze_base:
            _freeze(base.parameters())
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        frozen: Tensor = self.base(x)
        return frozen + self._branch(x)

    def _branch(self, x: Tensor) -> Tensor:
        inner = F.linear(self.dropout(x), self.lora_A)
        return F.linear(inner, self.lora_B) * self.scaling

    def _update(self, dtype: torch.dtype) -> Tensor:
        return (self.lora_B.to(dtype) @ self.lora_A.to(dtype)) * self.scaling

    def merge_(self) -> None:
        with torch.no_grad():
            weight = self.base.weight
            wide = torch.promote_types(weight.dtype, torch.float32)
            weight.copy_(weight.to(wide) + self._update(wide))
            nn.init.zeros_(self.lora_A)
            nn.init.zeros_(self.lora_B)


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith("." + target)


def _adapters(model: nn.Module) -> dict[str, LoRALinear]:
    return {n: m for n, m in model.named_modules() if isinstance(m, LoRALinear)}


def _free_linears(model: nn.Module) -> dict[str, nn.Linear]:
    used = {id(a.base) for a in _adapters(model).values()}
    return {
        n: m
        for n, m in model.named_modules(remove_duplicate=False)
        if isinstance(m, nn.Linear) and id(m) not in used
    }


def _select(free: dict[str, nn.Linear], targets: Sequence[str]) -> dict[str, nn.Linear]:
    for t in targets:
        if not any(_matches(n, t) for n in free):
            raise ValueError(f"target_modules: expected a linear still unwrapped, got {t!r}")
    return {n: m for n, m in free.items() if any(_matches(n, t) for t in targets)}


def _put(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)


def _freeze_all_but_adapters(model: nn.Module) -> None:
    spared = {id(p) for p in _named_factors(model).values()}
    _freeze(p for p in model.parameters() if id(p) not in spared)


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    chosen = _select(_free_linears(model), target_modules)
    layers: dict[int, LoRALinear] = {}
    for linear in chosen.values():
        if id(linear) not in layers:
            layers[id(linear)] = LoRALinear(linear, r, alpha, dropout)
    for name, linear in chosen.items():
        _put(model, name, layers[id(linear)])
    _freeze_all_but_adapters(model)
    return list(chosen)


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _named_factors(model: nn.Module) -> dict[str, nn.Parameter]:
    found: dict[str, nn.Parameter] = {}
    for name, layer in _adapters(model).items():
        found[_join(name, "lora_A")] = layer.lora_A
        found[_join(name, "lora_B")] = layer.lora_B
    return found


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in _named_factors(model).items()}


def _check_names(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    missing, unexpected = set(own) - set(state), set(state) - set(own)
    if missing or unexpected:
        raise KeyError(f"missing {sorted(missing)}, unexpected {sorted(unexpected)}")


def _check_entry(name: str, own: Tensor, value: Tensor) -> None:
    if own.shape != value.shape:
        raise ValueError(f"{name}: expected {tuple(own.shape)} but got {tuple(value.shape)}")
    if not value.to(own.dtype).isfinite().all():
        raise ValueError(f"{name}: expected finite values but got NaN or infinity")


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = _named_factors(model)
    _check_names(own, state)
    for name, param in own.items():
        _check_entry(name, param, state[name])
    with torch.no_grad():
        for name, param in own.items():
            param.copy_(state[name])
