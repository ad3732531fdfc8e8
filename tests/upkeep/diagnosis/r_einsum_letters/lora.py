"""LoRA for nn.Linear, everything written with einsum.

Letters: i = in_features, o = out_features, r = rank, b = batch, t = position.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, einsum, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class LoRALinear(nn.Module):
    """W plus a low-rank update; A is (r, i), B is (o, r)."""

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
            raise TypeError(f"base must be nn.Linear, got {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r must be at least 1, got {r}")
        if not (0 <= dropout < 1):
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")

        self.base = base
        self.r, self.alpha, self.scaling = r, alpha, alpha / r

        w = base.weight
        o, i = w.shape
        self.lora_A = nn.Parameter(torch.empty(r, i, dtype=w.dtype, device=w.device))
        self.lora_B = nn.Parameter(torch.zeros(o, r, dtype=w.dtype, device=w.device))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

        self.dropout = nn.Dropout(p=dropout)
        self.train(base.training)
        if freeze_base:
            for p in base.parameters():
                p.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """(b, t, i) -> (b, t, o)."""
        y: Tensor = self.base(x)
        h = einsum("bti,ri->btr", self.dropout(x), self.lora_A)
        z = einsum("btr,or->bto", h, self.lora_B)
        return y + self.scaling * z

    @torch.no_grad()
    def merge_(self) -> None:
        """W_oi += s * B_or A_ri; then both factors become zero."""
        w = self.base.weight
        up = torch.promote_types(w.dtype, torch.float32)
        delta = einsum("or,ri->oi", self.lora_B.to(up), self.lora_A.to(up))
        w.copy_((w.to(up) + self.scaling * delta).to(w.dtype))
        self.lora_A.zero_()
        self.lora_B.zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    """Swap the targeted linears for LoRALinear and freeze what is left."""
    inner = [m.base for m in model.modules() if isinstance(m, LoRALinear)]
    hits: dict[str, list[str]] = {t: [] for t in target_modules}
    todo: list[tuple[str, nn.Linear]] = []
    for name, m in model.named_modules(remove_duplicate=False):
        if not isinstance(m, nn.Linear) or any(m is k for k in inner):
            continue
        mine = [t for t in target_modules if name == t or name.endswith("." + t)]
        for t in mine:
            hits[t].append(name)
        if mine:
            todo.append((name, m))
    lonely = [t for t, names in hits.items() if not names]
    if lonely:
        raise ValueError(f"target_modules: nothing to wrap for {lonely}")

    made: dict[nn.Linear, LoRALinear] = {}
    for name, m in todo:
        if m not in made:
            made[m] = LoRALinear(m, r, alpha, dropout)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, made[m])

    keep: set[nn.Parameter] = set()
    for m in model.modules():
        if isinstance(m, LoRALinear):
            keep |= {m.lora_A, m.lora_B}
    for p in model.parameters():
        if p not in keep:
            p.requires_grad_(False)
    return [name for name, _ in todo]


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """All A and B, full names, copied."""
    out: dict[str, Tensor] = {}
    for name, m in model.named_modules():
        if isinstance(m, LoRALinear):
            dot = name + "." if name else ""
            out[dot + "lora_A"] = m.lora_A.detach().clone()
            out[dot + "lora_B"] = m.lora_B.detach().clone()
    return out


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Check everything, then copy."""
    slots: dict[str, nn.Parameter] = {}
    for name, m in model.named_modules():
        if isinstance(m, LoRALinear):
            dot = name + "." if name else ""
            slots[dot + "lora_A"] = m.lora_A
            slots[dot + "lora_B"] = m.lora_B
    missing = sorted(set(slots) - set(state))
    extra = sorted(set(state) - set(slots))
    if missing or extra:
        raise KeyError(f"state: missing {missing}, unexpected {extra}")
    for name, p in slots.items():
        v = state[name]
        if v.shape != p.shape:
            raise ValueError(f"{name}: shape {tuple(v.shape)}, expected {tuple(p.shape)}")
        if not v.to(p.dtype).isfinite().all():
            raise ValueError(f"{name}: NaN or infinity")
    with torch.no_grad():
        for name, p in slots.items():
            p.copy_(state[name])
