"""LoRA in the functional style: F.linear, F.dropout, and as few submodules as possible."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


def lora_branch(x: Tensor, A: Tensor, B: Tensor, scale: float, p: float, training: bool) -> Tensor:
    """scale · B A dropout(x), as a pure function."""
    return F.linear(F.linear(F.dropout(x, p, training), A), B) * scale


def lora_update(A: Tensor, B: Tensor, scale: float) -> Tensor:
    """scale · B A in at least float32."""
    wide = torch.promote_types(A.dtype, torch.float32)
    return torch.matmul(B.to(wide), A.to(wide)) * scale


class LoRALinear(nn.Module):
    base: nn.Linear
    r: int
    alpha: float
    scaling: float
    lora_A: nn.Parameter
    lora_B: nn.Parameter
    p: float  # dropout's probability

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
            raise TypeError(f"base: nn.Linear wanted, {type(base).__name__} given")
        if r < 1:
            raise ValueError(f"r: 1 or more wanted, {r} given")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout: [0, 1) wanted, {dropout} given")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.p = dropout
        self.lora_A = nn.Parameter(torch.empty_like(base.weight[:1]).repeat(r, 1))
        self.lora_B = nn.Parameter(torch.zeros_like(base.weight[:, :1]).repeat(1, r))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        if freeze_base:
            base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        return y + lora_branch(x, self.lora_A, self.lora_B, self.scaling, self.p, self.training)

    def merge_(self) -> None:
        with torch.no_grad():
            update = lora_update(self.lora_A, self.lora_B, self.scaling)
            weight = self.base.weight
            weight.copy_(weight.to(update.dtype) + update)
            self.lora_A.zero_()
            self.lora_B.zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    inner = set(map(id, (m.base for m in model.modules() if isinstance(m, LoRALinear))))
    everything = model.named_modules(remove_duplicate=False)
    linears = {n: m for n, m in everything if isinstance(m, nn.Linear) and id(m) not in inner}
    per_target = {
        t: [n for n in linears if n == t or n.endswith("." + t)] for t in target_modules
    }
    empty = [t for t, names in per_target.items() if not names]
    if empty:
        raise ValueError(f"target_modules: no bare linear is called {empty}")
    names = list(dict.fromkeys(n for found in per_target.values() for n in found))
    new = {
        m: LoRALinear(m, r=r, alpha=alpha, dropout=dropout)
        for m in dict.fromkeys(linears[n] for n in names)
    }
    for name in names:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, new[linears[name]])
    adapters = [m for m in model.modules() if isinstance(m, LoRALinear)]
    free = set(map(id, (p for m in adapters for p in (m.lora_A, m.lora_B))))
    for param in filter(lambda p: id(p) not in free, model.parameters()):
        param.requires_grad_(False)
    return names


def _is_factor(name: str) -> bool:
    return name.rpartition(".")[2] in ("lora_A", "lora_B")


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if _is_factor(n)}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = {n: p for n, p in model.named_parameters() if _is_factor(n)}
    missing, extra = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    if missing or extra:
        raise KeyError(f"state: missing {missing}, unexpected {extra}")
    bad_shape = {
        n: (tuple(p.shape), tuple(state[n].shape))
        for n, p in own.items()
        if p.shape != state[n].shape
    }
    if bad_shape:
        raise ValueError(f"state: (wanted, given) shapes differ: {bad_shape}")
    bad_value = [n for n in own if not torch.isfinite(state[n]).all()]
    if bad_value:
        raise ValueError(f"state: NaN or infinity in {bad_value}")
    with torch.no_grad():
        for name, param in own.items():
            param.copy_(state[name])
