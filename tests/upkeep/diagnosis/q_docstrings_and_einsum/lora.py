"""Low-rank adapters, written with einsum so that every index can be read off the formula.

Index letters used throughout:

    i   input features
    k   rank
    o   output features
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import sqrt

import torch
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class LoRALinear(nn.Module):
    """An ``nn.Linear`` with a branch ``scaling * B A`` at its side.

    The branch reads ``dropout(x)``; the base reads ``x`` itself.
    """

    base: nn.Linear
    lora_A: nn.Parameter
    lora_B: nn.Parameter
    scaling: Tensor

    def __init__(
        self,
        base: nn.Linear,
        r: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        freeze_base: bool = True,
    ) -> None:
        """Check the arguments, make the two factors, freeze what has to be frozen."""
        super().__init__()
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base: expected an nn.Linear, got a {type(base).__name__}")
        if not r >= 1:
            raise ValueError(f"r: expected at least 1, got {r}")
        if dropout < 0 or dropout >= 1:
            raise ValueError(f"dropout: expected a number in [0, 1), got {dropout}")

        self.base = base
        self.r = r
        self.alpha = alpha
        # travels with the module to whatever device it is moved to
        self.register_buffer("scaling", torch.tensor(alpha / r))

        like = {"dtype": base.weight.dtype, "device": base.weight.device}
        self.lora_A = nn.Parameter(torch.empty((r, base.in_features), **like))
        self.lora_B = nn.Parameter(torch.zeros((base.out_features, r), **like))
        nn.init.kaiming_uniform_(self.lora_A, a=sqrt(5))

        self.dropout = nn.Dropout(p=dropout)
        if freeze_base:
            for parameter in base.parameters():
                parameter.requires_grad_(False)
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., i) -> (..., o)``."""
        hidden = torch.einsum("...i,ki->...k", self.dropout(x), self.lora_A)
        update = torch.einsum("...k,ok->...o", hidden, self.lora_B)
        y: Tensor = self.base(x)
        return y + self.scaling * update

    @torch.no_grad()
    def merge_(self) -> None:
        """``W <- W + scaling * B A``, then both factors to zero."""
        w = self.base.weight
        precise = torch.float64 if w.dtype == torch.float64 else torch.float32
        product = torch.einsum("ok,ki->oi", self.lora_B.to(precise), self.lora_A.to(precise))
        w.copy_(w.to(precise) + self.scaling * product)
        for factor in (self.lora_A, self.lora_B):
            factor.zero_()


def _adapters(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    """Every adapter with its dotted name, a shared one once."""
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            yield name, module


def _factors(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Every A and every B with its dotted name."""
    for name, adapter in _adapters(model):
        dot = f"{name}." if name else ""
        yield f"{dot}lora_A", adapter.lora_A
        yield f"{dot}lora_B", adapter.lora_B


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    """Put an adapter around each linear that ``target_modules`` names; freeze the rest."""
    taken = {id(adapter.base) for _, adapter in _adapters(model)}
    candidates = [
        (name, module)
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, nn.Linear) and id(module) not in taken
    ]

    chosen: dict[str, nn.Linear] = {}
    for target in target_modules:
        hits = {n: m for n, m in candidates if n == target or n.endswith(f".{target}")}
        if not hits:
            raise ValueError(f"target_modules: no linear left to wrap matches {target!r}")
        chosen.update(hits)

    made: dict[int, LoRALinear] = {}
    for name, linear in chosen.items():
        if id(linear) not in made:
            made[id(linear)] = LoRALinear(linear, r, alpha, dropout)
        path, _, last = name.rpartition(".")
        setattr(model.get_submodule(path), last, made[id(linear)])

    keep = {id(p) for _, p in _factors(model)}
    for p in model.parameters():
        if id(p) not in keep:
            p.requires_grad_(False)
    return list(chosen)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all factors, by name."""
    return {name: p.detach().clone() for name, p in _factors(model)}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Check everything, then copy the values of ``state`` into the model's factors."""
    factors = dict(_factors(model))
    missing = sorted(set(factors) - set(state))
    unexpected = sorted(set(state) - set(factors))
    if missing or unexpected:
        raise KeyError(f"state: missing {missing}, unexpected {unexpected}")
    for name, p in factors.items():
        value = state[name]
        if value.shape != p.shape:
            raise ValueError(f"{name}: expected {tuple(p.shape)}, got {tuple(value.shape)}")
        if not torch.isfinite(value.to(p.dtype)).all():
            raise ValueError(f"{name}: has NaN or infinite values")
    with torch.no_grad():
        for name, p in factors.items():
            p.copy_(state[name])
