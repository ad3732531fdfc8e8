"""LoRA where the maths sits in pure functions and the modules only hold tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


def low_rank(x: Tensor, a: Tensor, b: Tensor, p: float, training: bool) -> Tensor:
    """B A x, with dropout while training."""
    a = F.dropout(a, p=p, training=training)
    return torch.einsum("...i,ri,or->...o", x, a, b)


def dense_update(a: Tensor, b: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """scale * B A as a full matrix in the given dtype."""
    return scale * torch.einsum("ri,or->oi", a.to(dtype), b.to(dtype))


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def uniform_rows(r: int, like: Tensor) -> Tensor:
    """(r, in) values of U(-1/sqrt(in), 1/sqrt(in))."""
    n = like.shape[1]
    bound = 1.0 / math.sqrt(n)
    return torch.empty(r, n, dtype=like.dtype, device=like.device).uniform_(-bound, bound)


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
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base: expected nn.Linear, got {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r: expected at least 1, got {r}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout: expected in [0, 1), got {dropout}")
        self.base = base
        self.r, self.alpha, self.scaling, self.p = r, alpha, alpha / r, dropout
        self.lora_A = nn.Parameter(uniform_rows(r, base.weight))
        self.lora_B = nn.Parameter(base.weight.new_zeros(base.out_features, r))
        if freeze_base:
            base.requires_grad_(False)
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        branch = low_rank(x, self.lora_A, self.lora_B, self.p, self.training)
        return self.base(x) + self.scaling * branch

    def merge_(self) -> None:
        with torch.no_grad():
            w = self.base.weight
            dtype = at_least_float32(w.dtype)
            w.copy_(w.to(dtype) + dense_update(self.lora_A, self.lora_B, self.scaling, dtype))
            self.lora_A.zero_()
            self.lora_B.zero_()


def matcher(targets: Sequence[str]) -> Callable[[str], frozenset[str]]:
    def match(name: str) -> frozenset[str]:
        return frozenset(t for t in targets if name == t or name.endswith("." + t))

    return match


def replaced(model: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new)


def factors_of(model: nn.Module) -> dict[str, nn.Parameter]:
    named = ((n + "." if n else "", m) for n, m in model.named_modules())
    layers = [(n, m) for n, m in named if isinstance(m, LoRALinear)]
    return {n + "lora_A": m.lora_A for n, m in layers} | {n + "lora_B": m.lora_B for n, m in layers}


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    match = matcher(target_modules)
    bases = {m.base for m in model.modules() if isinstance(m, LoRALinear)}
    found = {
        name: m
        for name, m in model.named_modules(remove_duplicate=False)
        if isinstance(m, nn.Linear) and m not in bases and match(name)
    }
    unmatched = frozenset(target_modules).difference(*map(match, found))
    if unmatched:
        raise ValueError(f"target_modules: expected a linear for each, none for {set(unmatched)}")
    adapters = {m: LoRALinear(m, r, alpha, dropout) for m in dict.fromkeys(found.values())}
    for name, m in found.items():
        replaced(model, name, adapters[m])
    learns = set(map(id, factors_of(model).values()))
    for p in model.parameters():
        if id(p) not in learns:
            p.requires_grad_(False)
    return list(found)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in factors_of(model).items()}


def names_agree(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    missing, unexpected = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    if missing or unexpected:
        raise KeyError(f"missing {missing}, unexpected {unexpected}")


def fits(name: str, own: Tensor, value: Tensor) -> None:
    if own.shape != value.shape:
        raise ValueError(f"{name}: expected {tuple(own.shape)}, got {tuple(value.shape)}")
    if not torch.isfinite(value.to(own.dtype)).all():
        raise ValueError(f"{name}: NaN or infinity")


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = factors_of(model)
    names_agree(own, state)
    for name, p in own.items():
        fits(name, p, state[name])
    with torch.no_grad():
        for name, p in own.items():
            p.copy_(state[name])
