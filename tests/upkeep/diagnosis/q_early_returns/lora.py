"""LoRA. Functions leave as soon as they know the answer."""

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

        w = base.weight
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.p = dropout
        self.lora_A = nn.Parameter(torch.empty(r, w.size(1), dtype=w.dtype, device=w.device))
        self.lora_B = nn.Parameter(torch.zeros(w.size(0), r, dtype=w.dtype, device=w.device))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.train(base.training)

        if not freeze_base:
            return
        base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        if not self.lora_B.any():
            return y  # nothing to add, save the two products
        z = F.dropout(x, self.p, self.training)
        return y + self.scaling * F.linear(F.linear(z, self.lora_A), self.lora_B)

    @torch.no_grad()
    def merge_(self) -> None:
        w = self.base.weight
        acc = torch.promote_types(w.dtype, torch.float32)
        w.copy_(w.to(acc) + self.scaling * (self.lora_B.to(acc) @ self.lora_A.to(acc)))
        self.lora_A.zero_()
        self.lora_B.zero_()


def _hit(name: str, target: str) -> bool:
    if name == target:
        return True
    return name.endswith("." + target)


def _targets_of(name: str, module: nn.Module, targets: Sequence[str], bases: set[int]) -> set[str]:
    if not isinstance(module, nn.Linear):
        return set()
    if id(module) in bases:
        return set()
    return {t for t in targets if _hit(name, t)}


def _is_factor(p: nn.Parameter, model: nn.Module) -> bool:
    for m in model.modules():
        if isinstance(m, LoRALinear) and (p is m.lora_A or p is m.lora_B):
            return True
    return False


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    bases = {id(m.base) for m in model.modules() if isinstance(m, LoRALinear)}
    rest = set(target_modules)
    found: list[tuple[str, nn.Module]] = []
    for name, module in model.named_modules(remove_duplicate=False):
        targets = _targets_of(name, module, target_modules, bases)
        if not targets:
            continue
        found.append((name, module))
        rest -= targets
    if rest:
        raise ValueError(f"target_modules: no linear left for {sorted(rest)}")

    made: dict[nn.Module, LoRALinear] = {}
    for name, module in found:
        if module not in made:
            assert isinstance(module, nn.Linear)
            made[module] = LoRALinear(module, r, alpha, dropout)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, made[module])

    for p in model.parameters():
        if _is_factor(p, model):
            continue
        p.requires_grad_(False)
    return [name for name, _ in found]


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    # after wrapping only A and B train, so this is the adapter
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = {n: p for n, p in model.named_parameters() if _is_factor(p, model)}
    missing = [n for n in own if n not in state]
    unexpected = [n for n in state if n not in own]
    if missing or unexpected:
        raise KeyError(f"state: missing {missing}, unexpected {unexpected}")
    for n, p in own.items():
        if state[n].shape != p.shape:
            raise ValueError(f"{n}: expected {tuple(p.shape)}, got {tuple(state[n].shape)}")
        if not state[n].to(p.dtype).isfinite().all():
            raise ValueError(f"{n}: NaN or infinity")
    with torch.no_grad():
        for n, p in own.items():
            p.copy_(state[n])
