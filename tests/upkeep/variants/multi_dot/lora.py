"""The style of a numerical analyst: linalg.multi_dot chooses the cheapest order of the products."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, linalg, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


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
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base: expected nn.Linear, got {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r: expected a natural number, got {r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected a number in [0, 1), got {dropout}")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.dropout = nn.Dropout(dropout)
        self.lora_A = nn.Parameter(base.weight.new_empty(r, base.in_features))
        self.lora_B = nn.Parameter(base.weight.new_zeros(base.out_features, r))
        nn.init.kaiming_uniform_(self.lora_A, nonlinearity="leaky_relu", a=math.sqrt(5))
        if freeze_base:
            base.requires_grad_(False)
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        dropped: Tensor = self.dropout(x)
        rows = dropped.reshape(-1, self.base.in_features)
        update = linalg.multi_dot([rows, self.lora_A.mT, self.lora_B.mT])
        return torch.add(out, update.reshape(out.shape), alpha=self.scaling)

    @torch.no_grad()
    def merge_(self) -> None:
        w = self.base.weight
        wide = torch.promote_types(w.dtype, torch.float32)
        update = linalg.multi_dot([self.lora_B.to(wide), self.lora_A.to(wide)])
        w.copy_(torch.add(w.to(wide), update, alpha=self.scaling))
        self.lora_A.zero_()
        self.lora_B.zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    bases = {m.base for m in model.modules() if isinstance(m, LoRALinear)}
    linears = [
        (name, m)
        for name, m in model.named_modules(remove_duplicate=False)
        if isinstance(m, nn.Linear) and m not in bases
    ]
    # hits[i][j]: linear i matches target j. Every column and only the rows with a hit count.
    hits = [[f".{name}".endswith(f".{t}") for t in target_modules] for name, _ in linears]
    unmatched = [t for j, t in enumerate(target_modules) if not any(row[j] for row in hits)]
    if unmatched:
        raise ValueError(f"target_modules: expected a linear for each, got none for {unmatched}")
    chosen = [pair for pair, row in zip(linears, hits) if any(row)]
    layers: dict[nn.Linear, LoRALinear] = {}
    for name, linear in chosen:
        if linear not in layers:
            layers[linear] = LoRALinear(linear, r, alpha, dropout)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layers[linear])
    trained = {p for m in model.modules() if isinstance(m, LoRALinear) for p in (m.lora_A, m.lora_B)}
    for p in model.parameters():
        if p not in trained:
            p.requires_grad_(False)
    return [name for name, _ in chosen]


def _factors(model: nn.Module) -> dict[str, nn.Parameter]:
    every = model.named_parameters(remove_duplicate=False)  # under all names of a shared module
    return {name: p for name, p in every if name.split(".")[-1] in ("lora_A", "lora_B")}


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in _factors(model).items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    factors = _factors(model)
    missing = sorted(factors.keys() - state.keys())
    unexpected = sorted(state.keys() - factors.keys())
    if missing or unexpected:
        raise KeyError(f"missing {missing}, unexpected {unexpected}")
    shapes = {n: (tuple(p.shape), tuple(state[n].shape)) for n, p in factors.items()}
    wrong = {n: f"expected {want}, got {got}" for n, (want, got) in shapes.items() if want != got}
    if wrong:
        raise ValueError(str(wrong))
    bad = [n for n in factors if not state[n].isfinite().all()]
    if bad:
        raise ValueError(f"expected finite entries, got others in {bad}")
    with torch.no_grad():
        for n, p in factors.items():
            p.copy_(state[n])
