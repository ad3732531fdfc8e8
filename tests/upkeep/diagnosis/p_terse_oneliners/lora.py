from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


def _need(ok: bool, kind: type[Exception], text: str) -> None:
    if not ok:
        raise kind(text)


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
        _need(isinstance(base, nn.Linear), TypeError, f"base: nn.Linear, not {type(base).__name__}")
        _need(r >= 1, ValueError, f"r: at least 1, not {r}")
        _need(0 <= dropout < 1, ValueError, f"dropout: in [0, 1), not {dropout}")
        self.base, self.r, self.alpha, self.scaling = base, r, alpha, alpha / r
        a, b = (
            base.weight.new_empty(r, base.in_features),
            base.weight.new_zeros(base.out_features, r),
        )
        self.lora_A = nn.Parameter(nn.init.kaiming_uniform_(a, a=math.sqrt(5)))
        self.lora_B = nn.Parameter(b)
        self.p = dropout
        self.training = base.training
        base.requires_grad_(False) if freeze_base else None

    def forward(self, x: Tensor) -> Tensor:
        h = F.linear(F.dropout(x, self.p, self.training), self.lora_A)
        out: Tensor = self.base(x) + self.scaling * torch.tanh(F.linear(h, self.lora_B))
        return out

    def merge_(self) -> None:
        w, t = self.base.weight, torch.promote_types(self.base.weight.dtype, torch.float32)
        with torch.no_grad():
            w.copy_(w.to(t) + self.scaling * self.lora_B.to(t) @ self.lora_A.to(t))
            self.lora_A.zero_(), self.lora_B.zero_()


def _loras(model: nn.Module) -> list[tuple[str, LoRALinear]]:
    return [
        (n + "." if n else "", m) for n, m in model.named_modules() if isinstance(m, LoRALinear)
    ]


def _params(model: nn.Module) -> dict[str, nn.Parameter]:
    pairs = [((n + "lora_A", m.lora_A), (n + "lora_B", m.lora_B)) for n, m in _loras(model)]
    return dict(pair for both in pairs for pair in both)


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    used = [id(m.base) for _, m in _loras(model)]
    every = model.named_modules(remove_duplicate=False)
    free = {n: m for n, m in every if isinstance(m, nn.Linear) and id(m) not in used}
    hits = {t: [n for n in free if n == t or n.endswith("." + t)] for t in target_modules}
    bad = [t for t in hits if not hits[t]]
    _need(not bad, ValueError, f"target_modules: each has to match a free linear, not so {bad}")
    names = [n for n in free if any(n in found for found in hits.values())]
    new = {m: LoRALinear(m, r, alpha, dropout) for m in {free[n]: 0 for n in names}}
    for n in names:
        setattr(model.get_submodule(n.rpartition(".")[0]), n.rpartition(".")[2], new[free[n]])
    train = {id(p) for p in _params(model).values()}
    for p in (p for p in model.parameters() if id(p) not in train):
        p.requires_grad_(False)
    return names


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in _params(model).items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = _params(model)
    less, more = own.keys() - state.keys(), state.keys() - own.keys()
    _need(not less and not more, KeyError, f"missing {sorted(less)}, unexpected {sorted(more)}")
    for n, p in own.items():
        v = state[n]
        _need(v.shape == p.shape, ValueError, f"{n}: {tuple(p.shape)}, not {tuple(v.shape)}")
        _need(bool(v.to(p.dtype).isfinite().all()), ValueError, f"{n}: finite, not NaN or infinity")
    with torch.no_grad():
        for n, p in own.items():
            p.copy_(state[n])
