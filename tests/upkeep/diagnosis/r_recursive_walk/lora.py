"""LoRA for nn.Linear; the model is walked by recursion over named_children."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
            raise TypeError(f"base: wanted nn.Linear, got {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r: wanted 1 or more, got {r}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout: wanted [0, 1), got {dropout}")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        like = base.weight
        self.lora_A = nn.Parameter(
            torch.empty(r, base.in_features, dtype=like.dtype, device=like.device)
        )
        self.lora_B = nn.Parameter(
            torch.zeros(base.out_features, r, dtype=like.dtype, device=like.device)
        )
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)
        if freeze_base:
            base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        branch = F.linear(F.linear(self.dropout(x), self.lora_A), self.lora_B)
        return y + branch * self.scaling

    def merge_(self) -> None:
        with torch.no_grad():
            w = self.base.weight
            wide = torch.promote_types(w.dtype, torch.float32)
            w.copy_(w.to(wide) + (self.lora_B.to(wide) @ self.lora_A.to(wide)) * self.scaling)
            self.lora_A.zero_()
            self.lora_B.zero_()


def join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


Place = tuple[nn.Module, str, str, nn.Linear]  # parent, child name, full name, the linear


def places(parent: nn.Module, prefix: str, visited: set[nn.Module]) -> Iterator[Place]:
    """Every linear in the tree with its place; never looks inside an adapter.

    visited: what the walk has been to already, so that nothing is wrapped twice.
    """
    if isinstance(parent, LoRALinear):
        return
    for name, child in parent.named_children():
        if child in visited:
            continue
        visited.add(child)
        full = join(prefix, name)
        if isinstance(child, nn.Linear):
            yield parent, name, full, child
        yield from places(child, full, visited)


def adapters(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, LoRALinear]]:
    """Every adapter with its full name."""
    if isinstance(module, LoRALinear):
        yield prefix, module
        return
    for name, child in module.named_children():
        yield from adapters(child, join(prefix, name))


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    inside = {adapter.base for _, adapter in adapters(model)}
    chosen: list[Place] = []
    seen: set[str] = set()
    for place in places(model, "", set()):
        _, _, full, linear = place
        hits = {t for t in target_modules if full == t or full.endswith("." + t)}
        if hits and linear not in inside:
            chosen.append(place)
            seen |= hits
    left = sorted(set(target_modules) - seen)
    if left:
        raise ValueError(f"target_modules: no free linear for {left}")
    new: dict[nn.Linear, LoRALinear] = {}
    for parent, name, _, linear in chosen:
        if linear not in new:
            new[linear] = LoRALinear(linear, r, alpha, dropout)
        setattr(parent, name, new[linear])
    keep = {p for _, a in adapters(model) for p in (a.lora_A, a.lora_B)}
    for p in model.parameters():
        if p not in keep:
            p.requires_grad_(False)
    return [full for _, _, full, _ in chosen]


def slots(model: nn.Module) -> dict[str, nn.Parameter]:
    found: dict[str, nn.Parameter] = {}
    for name, adapter in adapters(model):
        found[join(name, "lora_A")] = adapter.lora_A
        found[join(name, "lora_B")] = adapter.lora_B
    return found


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in slots(model).items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = slots(model)
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or extra:
        raise KeyError(f"state: missing {missing}, unexpected {extra}")
    for name, p in own.items():
        if state[name].shape != p.shape:
            raise ValueError(f"{name}: shape {tuple(state[name].shape)} for {tuple(p.shape)}")
        if not state[name].isfinite().all():
            raise ValueError(f"{name}: not finite")
    with torch.no_grad():
        for name, p in own.items():
            p.copy_(state[name])
