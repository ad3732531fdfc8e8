"""LoRA from the paper, with my own dropout (a Bernoulli mask), so no nn.Dropout anywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


def drop(x: Tensor, p: float) -> Tensor:
    """Each entry is zero with probability p, the others are divided by 1 - p; x stays as it is."""
    keep = torch.rand(x.shape, device=x.device) >= p
    return torch.where(keep, x / (1.0 - p), torch.zeros_like(x))


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type to compute in: float32, or float64 if that is what we have."""
    return torch.promote_types(dtype, torch.float32)


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
            raise TypeError(f"base: need an nn.Linear, have {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r: need at least 1, have {r}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout: need a probability in [0, 1), have {dropout}")

        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.p_drop = dropout

        # The small matrices are cheap, so they get full precision.
        dtype, device = wide(base.weight.dtype), base.weight.device
        self.lora_A = nn.Parameter(torch.empty(r, base.in_features, dtype=dtype, device=device))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, r, dtype=dtype, device=device))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

        self.training = base.training
        if freeze_base:
            base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        z = drop(x, self.p_drop) if self.training and self.p_drop > 0 else x
        z = F.linear(z.to(self.lora_A.dtype), self.lora_A)
        z = F.linear(z, self.lora_B) * self.scaling
        return y + z.to(y.dtype)

    def merge_(self) -> None:
        with torch.no_grad():
            W, A, B = self.base.weight, self.lora_A, self.lora_B
            t = wide(W.dtype)
            W.copy_(W.to(t) + self.scaling * (B.to(t) @ A.to(t)))
            A.zero_()
            B.zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    old = [m for m in model.modules() if isinstance(m, LoRALinear)]
    bases = {id(m.base) for m in old}

    todo: list[tuple[str, nn.Linear]] = []
    count = dict.fromkeys(target_modules, 0)
    for name, m in model.named_modules(remove_duplicate=False):
        if isinstance(m, nn.Linear) and id(m) not in bases:
            hits = [t for t in count if name == t or name.endswith("." + t)]
            for t in hits:
                count[t] += 1
            if hits:
                todo.append((name, m))
    if 0 in count.values():
        zero = [t for t, n in count.items() if n == 0]
        raise ValueError(f"target_modules: need a linear for each, have none for {zero}")

    new: dict[int, LoRALinear] = {}
    for name, m in todo:
        if id(m) not in new:
            new[id(m)] = LoRALinear(m, r=r, alpha=alpha, dropout=dropout)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, new[id(m)])

    trains = {id(p) for m in (*old, *new.values()) for p in (m.lora_A, m.lora_B)}
    for p in model.parameters():
        if id(p) not in trains:
            p.requires_grad_(False)
    return [name for name, _ in todo]


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    state = {}
    for name, m in model.named_modules():
        if isinstance(m, LoRALinear):
            for key, p in (("lora_A", m.lora_A), ("lora_B", m.lora_B)):
                state[f"{name}.{key}" if name else key] = p.detach().clone()
    return state


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    names = lora_state_dict(model).keys()
    own = {name: p for name, p in model.named_parameters() if name in names}

    missing = [name for name in own if name not in state]
    unknown = [name for name in state if name not in own]
    if missing or unknown:
        raise KeyError(f"state: missing {missing}, unexpected {unknown}")

    for name, p in own.items():
        v = state[name]
        if v.shape != p.shape:
            raise ValueError(f"{name}: need {tuple(p.shape)}, have {tuple(v.shape)}")
        if torch.isnan(v).any():
            raise ValueError(f"{name}: need numbers, have NaN")

    with torch.no_grad():
        for name, p in own.items():
            p.copy_(state[name])
