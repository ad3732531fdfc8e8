"""The style of someone who types everything: Protocols for what is needed, NamedTuples for what is found."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple, Protocol, Self, TypeAlias, TypeGuard, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Name: TypeAlias = str
Factor: TypeAlias = Literal["lora_A", "lora_B"]
State: TypeAlias = dict[Name, Tensor]

MINIGPT_LINEARS: Final[tuple[Name, ...]] = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")
FACTORS: Final[tuple[Factor, Factor]] = ("lora_A", "lora_B")


class Layer(Protocol):
    def __call__(self, x: Tensor, /) -> Tensor: ...


class Mergeable(Protocol):
    def merge_(self) -> None: ...


class Site(NamedTuple):
    """A place in the model where a linear hangs."""

    name: Name
    linear: nn.Linear

    def put(self, model: nn.Module, adapter: nn.Module) -> None:
        parent, _, child = self.name.rpartition(".")
        setattr(model.get_submodule(parent), child, adapter)

    def matches(self, target: Name) -> bool:
        return self.name == target or self.name.endswith(f".{target}")


class Entry(NamedTuple):
    name: Name
    parameter: nn.Parameter


@final
class LoRALinear(nn.Module):
    base: nn.Linear
    r: int
    alpha: float
    scaling: float
    lora_A: nn.Parameter
    lora_B: nn.Parameter
    dropout: nn.Dropout

    def __init__(
        self: Self,
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
            raise ValueError(f"r: expected int >= 1, got {r!r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected float in [0, 1), got {dropout!r}")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.dropout = nn.Dropout(dropout)
        self.lora_A = nn.Parameter(base.weight.new_empty((r, base.in_features)))
        self.lora_B = nn.Parameter(base.weight.new_zeros((base.out_features, r)))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        if freeze_base:
            base.requires_grad_(False)
        self.train(base.training)

    def forward(self: Self, x: Tensor) -> Tensor:
        base: Layer = self.base
        drop: Layer = self.dropout
        return base(x) + self.scaling * F.linear(F.linear(drop(x), self.lora_A), self.lora_B)

    def merge_(self: Self) -> None:
        weight: Final = self.base.weight.data
        wide: Final = torch.promote_types(weight.dtype, torch.float32)
        product = self.lora_B.data.to(wide) @ self.lora_A.data.to(wide)
        weight.copy_(weight.to(wide) + self.scaling * product)
        for factor in (self.lora_A, self.lora_B):
            factor.data.zero_()


def is_bare_linear(module: nn.Module, bases: frozenset[nn.Module]) -> TypeGuard[nn.Linear]:
    return isinstance(module, nn.Linear) and module not in bases


def sites(model: nn.Module) -> Iterator[Site]:
    bases = frozenset(m.base for m in model.modules() if isinstance(m, LoRALinear))
    for name, module in model.named_modules(remove_duplicate=False):
        if is_bare_linear(module, bases):
            yield Site(name, module)


def entries(model: nn.Module) -> Iterator[Entry]:
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            for factor in FACTORS:
                yield Entry(f"{name}.{factor}" if name else factor, module.get_parameter(factor))


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[Name] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[Name]:
    everywhere = tuple(sites(model))
    unmatched = tuple(t for t in target_modules if not any(site.matches(t) for site in everywhere))
    if unmatched:
        raise ValueError(f"target_modules: expected matches, got none for {unmatched}")
    chosen = tuple(site for site in everywhere if any(map(site.matches, target_modules)))
    adapters: dict[nn.Linear, LoRALinear] = {}
    for site in chosen:
        if site.linear not in adapters:
            adapters[site.linear] = LoRALinear(site.linear, r, alpha, dropout)
        site.put(model, adapters[site.linear])
    trained = frozenset(entry.parameter for entry in entries(model))
    for parameter in model.parameters():
        if parameter not in trained:
            parameter.requires_grad_(False)
    return [site.name for site in chosen]


def lora_state_dict(model: nn.Module) -> State:
    return {name: parameter.detach().clone() for name, parameter in entries(model)}


def load_lora_state_dict(model: nn.Module, state: Mapping[Name, Tensor]) -> None:
    own: Final = {name: parameter for name, parameter in entries(model)}
    missing, unexpected = own.keys() - state.keys(), state.keys() - own.keys()
    if missing or unexpected:
        raise KeyError(f"missing: {sorted(missing)}; unexpected: {sorted(unexpected)}")
    misfits = [name for name, parameter in own.items() if state[name].shape != parameter.shape]
    if misfits:
        raise ValueError(f"wrong shape: {misfits}")
    broken = [name for name in own if not torch.isfinite(state[name]).all()]
    if broken:
        raise ValueError(f"not finite: {broken}")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])
