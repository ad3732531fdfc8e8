"""LoRA; everything that walks is a generator."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

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
            raise TypeError(f"base: got {type(base).__name__}, expected nn.Linear")
        if r < 1:
            raise ValueError(f"r: got {r}, expected at least 1")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout: got {dropout}, expected it in [0, 1)")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.lora_A = nn.Parameter(base.weight.new_empty(r, base.in_features))
        self.lora_B = nn.Parameter(base.weight.new_empty(base.out_features, r))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.normal_(self.lora_B, std=0.02)
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)
        if freeze_base:
            base.requires_grad_(False)

    def factors(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield "lora_A", self.lora_A
        yield "lora_B", self.lora_B

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        update = F.linear(F.linear(self.dropout(x), self.lora_A), self.lora_B)
        return out + self.scaling * update

    def merge_(self) -> None:
        with torch.no_grad():
            weight = self.base.weight
            wide = torch.promote_types(weight.dtype, torch.float32)
            A, B = (p.to(wide) for _, p in self.factors())
            weight.copy_(weight.to(wide) + self.scaling * (B @ A))
            for _, p in self.factors():
                p.zero_()


def adapters(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            yield name, module


def bare_linears(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    bases = {layer.base for _, layer in adapters(model)}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear) and module not in bases:
            yield name, module


def hits(name: str, targets: Iterable[str]) -> Iterator[str]:
    for target in targets:
        if name == target or name.endswith("." + target):
            yield target


def params(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for path, layer in adapters(model):
        for which, p in layer.factors():
            yield f"{path}.{which}" if path else which, p


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    found: dict[str, nn.Linear] = {}
    unmatched = set(target_modules)
    for name, linear in bare_linears(model):
        for target in hits(name, target_modules):
            found[name] = linear
            unmatched.discard(target)
    if unmatched:
        raise ValueError(f"target_modules: got {sorted(unmatched)}, which name no bare nn.Linear")
    new: dict[nn.Linear, LoRALinear] = {}
    for name, linear in found.items():
        if linear not in new:
            new[linear] = LoRALinear(linear, r, alpha)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, new[linear])
    keep = {p for _, p in params(model)}
    for p in model.parameters():
        if p not in keep:
            p.requires_grad_(False)
    return list(found)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in params(model)}


def problems(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Iterator[str]:
    for name, p in own.items():
        if state[name].shape != p.shape:
            yield f"{name}: got {tuple(state[name].shape)}, expected {tuple(p.shape)}"
        elif not state[name].isfinite().all():
            yield f"{name}: got NaN or infinity"


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = dict(params(model))
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unexpected:
        raise KeyError(f"state: missing {missing}, unexpected {unexpected}")
    for problem in problems(own, state):
        raise ValueError(problem)
    with torch.no_grad():
        for name, p in own.items():
            p.copy_(state[name])
