"""LoRA by hand. Whatever can be computed from something else is a property."""

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
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base: expected nn.Linear, got {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r: expected at least 1, got {r}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout: expected [0, 1), got {dropout}")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.p = dropout
        self.lora_A = nn.Parameter(self.weight.new_empty(r, self.n_in))
        self.lora_B = nn.Parameter(self.weight.new_empty(self.n_out, r))
        nn.init.uniform_(self.lora_A, -self.bound, self.bound)
        nn.init.zeros_(self.lora_B)
        if freeze_base:
            base.requires_grad_(False)
        self.training = base.training

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    @property
    def n_in(self) -> int:
        return self.base.in_features

    @property
    def n_out(self) -> int:
        return self.base.out_features

    @property
    def bound(self) -> float:
        return 1.0 / math.sqrt(self.n_in)

    @property
    def scaling(self) -> float:
        return self.alpha / self.r

    @property
    def factors(self) -> tuple[nn.Parameter, nn.Parameter]:
        return self.lora_A, self.lora_B

    @property
    def compute_dtype(self) -> torch.dtype:
        return torch.promote_types(self.weight.dtype, torch.float32)

    @property
    def delta_weight(self) -> Tensor:
        """scaling * B A, computed in at least float32, in the dtype of the weight."""
        a, b = (f.detach().to(self.compute_dtype) for f in self.factors)
        return (self.scaling * (b @ a)).to(self.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        dropped = F.dropout(x, self.p, training=self.training)
        branch = F.linear(F.linear(dropped, self.lora_A), self.lora_B)
        return self.base(x) + self.scaling * branch

    @torch.no_grad()
    def merge_(self) -> None:
        self.weight.add_(self.delta_weight)
        for factor in self.factors:
            factor.zero_()


class _Tree:
    """Questions about a model and its adapters."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @property
    def adapters(self) -> dict[str, LoRALinear]:
        return {n: m for n, m in self.model.named_modules() if isinstance(m, LoRALinear)}

    @property
    def bases(self) -> set[int]:
        return {id(adapter.base) for adapter in self.adapters.values()}

    @property
    def free(self) -> dict[str, nn.Linear]:
        bases = self.bases
        return {
            n: m
            for n, m in self.model.named_modules(remove_duplicate=False)
            if isinstance(m, nn.Linear) and id(m) not in bases
        }

    @property
    def factors(self) -> dict[str, nn.Parameter]:
        result: dict[str, nn.Parameter] = {}
        for name, adapter in self.adapters.items():
            stem = name and f"{name}."
            result[f"{stem}lora_A"], result[f"{stem}lora_B"] = adapter.factors
        return result

    def hang(self, name: str, module: nn.Module) -> None:
        parent, _, child = name.rpartition(".")
        setattr(self.model.get_submodule(parent), child, module)


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    tree = _Tree(model)
    free = tree.free
    hits = {t: [n for n in free if f".{n}".endswith(f".{t}")] for t in target_modules}
    if not all(hits.values()):
        unmatched = [t for t, names in hits.items() if not names]
        raise ValueError(f"target_modules: expected a linear for each, got none for {unmatched}")
    names = sorted({n for some in hits.values() for n in some})
    adapters = {m: LoRALinear(m, r, alpha, dropout) for m in dict.fromkeys(map(free.get, names)) if m}
    for n in names:
        tree.hang(n, adapters[free[n]])
    spared = {id(p) for p in tree.factors.values()}
    for p in model.parameters():
        if id(p) not in spared:
            p.requires_grad_(False)
    return names


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in _Tree(model).factors.items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    factors = _Tree(model).factors
    missing, unexpected = factors.keys() - state.keys(), state.keys() - factors.keys()
    if missing or unexpected:
        raise KeyError(f"state: missing {sorted(missing)}, unexpected {sorted(unexpected)}")
    for n, p in factors.items():
        if state[n].shape != p.shape:
            raise ValueError(f"{n}: expected {tuple(p.shape)}, got {tuple(state[n].shape)}")
        if not state[n].to(p.dtype).isfinite().all():
            raise ValueError(f"{n}: expected finite values")
    with torch.no_grad():
        for n, p in factors.items():
            p.copy_(state[n])
