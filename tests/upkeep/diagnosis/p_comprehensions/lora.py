"""LoRA, as few loops as possible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

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
        complaints = [
            error
            for wrong, error in (
                (
                    not isinstance(base, nn.Linear),
                    TypeError(f"base is a {type(base).__name__}, not an nn.Linear"),
                ),
                (r < 1, ValueError(f"r is {r}, but has to be at least 1")),
                (
                    not 0 <= dropout < 1,
                    ValueError(f"dropout is {dropout}, but has to be in [0, 1)"),
                ),
            )
            if wrong
        ]
        if complaints:
            raise complaints[0]
        self.base = base
        self.r, self.alpha, self.scaling = r, alpha, alpha / r
        self.lora_A, self.lora_B = (
            nn.Parameter(base.weight.detach().new_zeros(shape))
            for shape in ((r, base.in_features), (base.out_features, r))
        )
        nn.init.kaiming_uniform_(self.lora_A, a=sqrt(5))
        self.dropout = nn.Dropout(dropout).train(base.training)
        self.training = base.training
        if freeze_base:
            base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        return y + self.scaling * linear(linear(self.dropout(x), self.lora_A), self.lora_B)

    @torch.no_grad()
    def merge_(self) -> None:
        wide = torch.promote_types(self.base.weight.dtype, torch.float32)
        weight, a, b = (p.to(wide) for p in (self.base.weight, self.lora_A, self.lora_B))
        self.base.weight.copy_(torch.addmm(weight, b, a))
        nn.init.zeros_(self.lora_A)
        nn.init.zeros_(self.lora_B)


def _adapters(model: nn.Module) -> dict[str, LoRALinear]:
    return {name: m for name, m in model.named_modules() if isinstance(m, LoRALinear)}


def _parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return {
        ".".join(filter(None, (name, which))): p
        for name, m in _adapters(model).items()
        for which, p in (("lora_A", m.lora_A), ("lora_B", m.lora_B))
    }


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    bases = {id(m.base) for m in _adapters(model).values()}
    free = {
        name: m
        for name, m in model.named_modules(remove_duplicate=False)
        if isinstance(m, nn.Linear) and id(m) not in bases
    }
    matches = {t: [name for name in free if name.endswith(t)] for t in target_modules}
    lonely = [t for t, names in matches.items() if not names]
    if lonely:
        raise ValueError(f"no linear is left to be wrapped for these target_modules: {lonely}")
    chosen = {name: free[name] for names in matches.values() for name in names}
    new = {m: LoRALinear(m, r, alpha, dropout) for m in dict.fromkeys(chosen.values())}
    for name, m in chosen.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, new[m])
    keep = {id(p) for p in _parameters(model).values()}
    for p in [p for p in model.parameters() if id(p) not in keep]:
        p.requires_grad_(False)
    return sorted(chosen)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in _parameters(model).items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = _parameters(model)
    if own.keys() != state.keys():
        raise KeyError(
            f"missing {sorted(own.keys() - state.keys())}, "
            f"unexpected {sorted(state.keys() - own.keys())}"
        )
    shapes = [
        f"{n} is {tuple(state[n].shape)}, but the model has {tuple(p.shape)}"
        for n, p in own.items()
        if state[n].shape != p.shape
    ]
    values = [n for n, p in own.items() if not state[n].to(p.dtype).isfinite().all()]
    if shapes or values:
        raise ValueError("; ".join(shapes + [f"{n} has NaN or infinity" for n in values]))
    with torch.no_grad():
        _ = [p.copy_(state[n]) for n, p in own.items()]
