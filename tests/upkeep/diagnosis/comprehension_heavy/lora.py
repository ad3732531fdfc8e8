"""LoRA by hand, as few statements as it takes."""

from __future__ import annotations

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
            raise TypeError(f"base: expected nn.Linear, got a {type(base).__name__}")
        wrong = [
            f"{name}: expected {expected}, got {got}"
            for name, ok, expected, got in (
                ("r", r >= 1, "at least 1", r),
                ("dropout", 0.0 <= dropout < 1.0, "[0, 1)", dropout),
            )
            if not ok
        ]
        if wrong:
            raise ValueError("; ".join(wrong))
        self.base, self.r, self.alpha, self.scaling = base, r, alpha, alpha / r
        self.dropout = nn.Dropout(dropout)
        self.lora_A, self.lora_B = (
            nn.Parameter(base.weight.new_zeros(shape))
            for shape in ((r, base.in_features), (base.out_features, r))
        )
        nn.init.uniform_(self.lora_A, -(base.in_features**-0.5), base.in_features**-0.5)
        [p.requires_grad_(False) for p in base.parameters() if freeze_base]
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        plain: Tensor = self.base(x)
        return plain + F.linear(F.linear(self.dropout(x), self.lora_A), self.scaling * self.lora_B)

    @torch.no_grad()
    def merge_(self) -> None:
        wide = torch.promote_types(self.base.weight.dtype, torch.float32)
        W, A, B = (p.to(wide) for p in (self.base.weight, self.lora_A, self.lora_B))
        self.base.weight.copy_(W + self.scaling * (B @ A))
        [p.zero_() for p in (self.lora_A, self.lora_B)]


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    bases = {m.base for m in model.modules() if isinstance(m, LoRALinear)}
    hits = {
        t: {
            n: m
            for n, m in model.named_modules(remove_duplicate=False)
            if (n == t or n.endswith("." + t)) and isinstance(m, nn.Linear) and m not in bases
        }
        for t in target_modules
    }
    if unmatched := [t for t, found in hits.items() if not found]:
        raise ValueError(f"target_modules: no linear left to wrap for {unmatched}")
    named = {n: m for found in hits.values() for n, m in found.items()}
    # dict.fromkeys keeps the order of the model, so the draws of A do not depend on hashes
    adapters = {m: LoRALinear(m, r, alpha, dropout) for m in dict.fromkeys(named.values())}
    for (parent, _, child), m in ((n.rpartition("."), m) for n, m in named.items()):
        setattr(model.get_submodule(parent), child, adapters[m])
    return list(named)


def _own(model: nn.Module) -> dict[str, nn.Parameter]:
    return {
        f"{n}.{k}".lstrip("."): p
        for n, m in model.named_modules()
        if isinstance(m, LoRALinear)
        for k, p in (("lora_A", m.lora_A), ("lora_B", m.lora_B))
    }


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in _own(model).items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = _own(model)
    names = [f"missing {n}" for n in own if n not in state]
    names += [f"unexpected {n}" for n in state if n not in own]
    if names:
        raise KeyError("state: " + ", ".join(names))
    values = [
        f"{n}: expected shape {tuple(p.shape)}, got {tuple(state[n].shape)}"
        for n, p in own.items()
        if state[n].shape != p.shape
    ]
    values += [
        f"{n}: expected finite values, got NaN or infinity"
        for n, p in own.items()
        if not state[n].to(p.dtype).isfinite().all()
    ]
    if values:
        raise ValueError("; ".join(values))
    with torch.no_grad():
        [p.copy_(state[n]) for n, p in own.items()]
