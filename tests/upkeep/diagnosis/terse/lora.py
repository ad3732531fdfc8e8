from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import Parameter as P
from torch.nn import functional as F

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
            raise TypeError(f"base: nn.Linear != {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r: at least 1, got {r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: [0, 1), got {dropout}")
        self.base, self.r, self.alpha, self.scaling = base, r, alpha, alpha / r
        w, b = base.weight.detach(), base.in_features**-0.5
        self.lora_A = P(w.new_empty(r, base.in_features).uniform_(-b, b))
        self.lora_B = P(w.new_zeros(base.out_features, r))
        self.dropout = nn.Dropout(dropout)
        if freeze_base:
            base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        return y + self.scaling * F.linear(F.linear(self.dropout(x), self.lora_A), self.lora_B)

    @torch.no_grad()
    def merge_(self) -> None:
        w, a, b = self.base.weight, self.lora_A, self.lora_B
        t = torch.promote_types(w.dtype, torch.float32)
        w.copy_(w.to(t) + self.scaling * (b.to(t) @ a.to(t)))
        a.zero_()
        b.zero_()


def _ab(model: nn.Module) -> dict[str, P]:
    ms = [(n + "." if n else n, m) for n, m in model.named_modules() if isinstance(m, LoRALinear)]
    return {n + k: p for n, m in ms for k, p in (("lora_A", m.lora_A), ("lora_B", m.lora_B))}


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    old = {m.base for m in model.modules() if isinstance(m, LoRALinear)}
    todo: dict[str, nn.Linear] = {}
    left = set(target_modules)
    for n, m in model.named_modules(remove_duplicate=False):
        hit = {t for t in target_modules if ("." + n).endswith("." + t)}
        if hit and isinstance(m, nn.Linear) and m not in old:
            todo[n] = m
            left -= hit
    if left:
        raise ValueError(f"target_modules: no unwrapped linear for {left}")
    new: dict[nn.Linear, LoRALinear] = {}
    for n, m in todo.items():
        new[m] = new.get(m) or LoRALinear(m, r, alpha, dropout)
        head, _, tail = n.rpartition(".")
        setattr(model.get_submodule(head), tail, new[m])
    ids = {id(p) for p in _ab(model).values()}
    for p in model.parameters():
        if id(p) not in ids:
            p.requires_grad_(False)
    return [*todo]


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in _ab(model).items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    ab = _ab(model)
    if odd := ab.keys() ^ state.keys():
        raise KeyError(f"missing {[*odd & ab.keys()]}, unexpected {[*odd - ab.keys()]}")
    for n, p in ab.items():
        v = state[n]
        if v.shape != p.shape:
            raise ValueError(f"{n}: shape {tuple(p.shape)}, got {tuple(v.shape)}")
        if not v.to(p.dtype).isfinite().all():
            raise ValueError(f"{n}: not finite")
    with torch.no_grad():
        for n, p in ab.items():
            p.copy_(state[n])
