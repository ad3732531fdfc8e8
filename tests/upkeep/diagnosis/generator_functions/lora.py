"""LoRA by hand. Anything that lists things is a generator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


def complaints(r: int, dropout: float) -> Iterator[str]:
    if r < 1:
        yield f"r: {r} given, at least 1 expected"
    if not 0 <= dropout < 1:
        yield f"dropout: {dropout} given, a probability in [0, 1) expected"


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
            raise TypeError(f"base: {type(base).__name__} given, nn.Linear expected")
        for complaint in complaints(r, dropout):
            raise ValueError(complaint)
        self.base = base
        self.r, self.alpha = r, alpha
        self.scaling = alpha / r
        self.drop = nn.Dropout(dropout)
        A, B = (nn.Parameter(base.weight.new_zeros(*shape)) for shape in self.shapes())
        nn.init.uniform_(A, -(base.in_features**-0.5), base.in_features**-0.5)
        self.lora_A, self.lora_B = A, B
        if freeze_base:
            for p in base.parameters():
                p.requires_grad_(False)
        self.train(base.training)

    def shapes(self) -> Iterator[tuple[int, int]]:
        yield self.r, self.base.in_features
        yield self.base.out_features, self.r

    def factors(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield "lora_A", self.lora_A
        yield "lora_B", self.lora_B

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        z: Tensor = self.drop(x)
        for _, factor in self.factors():
            z = F.linear(z, factor)
        return out + self.scaling * z

    def merge_(self) -> None:
        with torch.no_grad():
            W = self.base.weight
            wide = torch.promote_types(W.dtype, torch.float32)
            A, B = (factor.to(wide) for _, factor in self.factors())
            W.copy_(W.to(wide) + self.scaling * B @ A)
            for _, factor in self.factors():
                factor.zero_()


def adapters(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            yield name, module


def adapter_params(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for name, adapter in adapters(model):
        for short, p in adapter.factors():
            yield (f"{name}.{short}" if name else short), p


def bare_linears(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    inside = [adapter.base for _, adapter in adapters(model)]
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear) and not any(module is m for m in inside):
            yield name, module


def hits(name: str, targets: Sequence[str]) -> Iterator[str]:
    for t in targets:
        if name == t or name.endswith("." + t):
            yield t


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    found = [(n, m) for n, m in bare_linears(model) if any(True for _ in hits(n, target_modules))]
    used = {t for n, _ in found for t in hits(n, target_modules)}
    for t in target_modules:
        if t not in used:
            raise ValueError(
                f"target_modules: {t!r} given, but no linear to wrap goes by that name"
            )

    new: dict[nn.Linear, LoRALinear] = {}
    for n, m in found:
        if m not in new:
            new[m] = LoRALinear(m, r=r, alpha=alpha, dropout=dropout)
        parent, _, child = n.rpartition(".")
        setattr(model.get_submodule(parent), child, new[m])

    spared = {id(p) for _, p in adapter_params(model)}
    for p in model.parameters():
        if id(p) not in spared:
            p.requires_grad_(False)
    return [n for n, _ in found]


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in adapter_params(model)}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = dict(adapter_params(model))
    missing = [n for n in own if n not in state]
    unexpected = [n for n in state if n not in own]
    if missing or unexpected:
        raise KeyError(f"state: {missing} missing, {unexpected} not expected")
    with torch.no_grad():
        for name, p in own.items():
            value = state[name]
            if value.shape != p.shape:
                raise ValueError(f"{name}: {tuple(value.shape)} given, {tuple(p.shape)} expected")
            if not value.to(p.dtype).isfinite().all():
                raise ValueError(f"{name}: NaN or infinity given, finite values expected")
            p.copy_(value)
