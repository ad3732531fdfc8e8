"""LoRA for nn.Linear; modules are hashable, so sets of modules do most of the work."""

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
        if (kind := type(base)) and not issubclass(kind, nn.Linear):
            raise TypeError(f"base: nn.Linear or a subclass expected, {kind.__name__} received")
        if r < 1:
            raise ValueError(f"r: at least 1 expected, {r} received")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: [0, 1) expected, {dropout} received")
        super().__init__()
        self.base = base
        self.r, self.alpha = r, alpha
        self.scaling = alpha / r
        self.dropout = nn.Dropout(dropout)
        self.lora_A = nn.Parameter((W := base.weight.detach()).new_empty(r, base.in_features))
        self.lora_B = nn.Parameter(W.new_zeros(base.out_features, r))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        if freeze_base:
            base.requires_grad_(False)
        if not base.training:
            self.eval()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        return torch.add(
            y, F.linear(F.linear(self.dropout(x), self.lora_A), self.lora_B), alpha=self.scaling
        )

    @torch.no_grad()
    def merge_(self) -> None:
        if (t := (W := self.base.weight).dtype) != torch.float64:
            t = torch.float32
        W.copy_(W.to(t) + self.scaling * (self.lora_B.to(t) @ self.lora_A.to(t)))
        self.lora_A.zero_(), self.lora_B.zero_()


def _adapters(model: nn.Module) -> dict[str, LoRALinear]:
    return {name: m for name, m in model.named_modules() if isinstance(m, LoRALinear)}


def _factors(model: nn.Module) -> dict[str, nn.Parameter]:
    pairs: dict[str, nn.Parameter] = {}
    for name, m in _adapters(model).items():
        dotted = f"{name}." if name else ""
        pairs[dotted + "lora_A"], pairs[dotted + "lora_B"] = m.lora_A, m.lora_B
    return pairs


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    bases: set[nn.Module] = {m.base for m in _adapters(model).values()}
    hits: dict[str, set[str]] = {}
    linears: dict[str, nn.Linear] = {}
    for name, m in model.named_modules():
        if isinstance(m, nn.Linear) and m not in bases:
            if hit := {t for t in target_modules if name == t or name.endswith("." + t)}:
                hits[name], linears[name] = hit, m

    if unmatched := set(target_modules) - set().union(*hits.values()):
        raise ValueError(
            f"target_modules: a linear to wrap expected for each, none for {unmatched}"
        )

    for name, linear in linears.items():
        adapter = LoRALinear(linear, r=r, alpha=alpha, dropout=dropout)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, adapter)

    for p in set(model.parameters()) - set(_factors(model).values()):
        p.requires_grad_(False)
    return list(linears)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in _factors(model).items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = _factors(model)
    if different := own.keys() ^ state.keys():
        missing, unexpected = different - state.keys(), different - own.keys()
        raise KeyError(f"state: missing {sorted(missing)}, unexpected {sorted(unexpected)}")
    for name, p in own.items():
        if (v := state[name]).shape != p.shape:
            raise ValueError(f"{name}: {tuple(p.shape)} expected, {tuple(v.shape)} received")
        if not v.to(p.dtype).isfinite().all():
            raise ValueError(f"{name}: finite values expected, NaN or infinity received")
    with torch.no_grad():
        for name, p in own.items():
            p.copy_(state[name])
