"""The style of someone who builds from mixins: one class per concern, LoRALinear only adds them up."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LowRankMixin(nn.Module):
    """Owns A and B and the scale between them."""

    r: int
    alpha: float
    scaling: float
    lora_A: nn.Parameter
    lora_B: nn.Parameter

    def make_factors(self, like: Tensor, r: int, alpha: float) -> None:
        if r < 1:
            raise ValueError(f"r: expected at least 1, got {r}")
        out_features, in_features = like.shape
        self.r, self.alpha, self.scaling = r, alpha, alpha / r
        self.lora_A = nn.Parameter(like.new_empty(r, in_features))
        self.lora_B = nn.Parameter(like.new_empty(out_features, r))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)

    def low_rank(self, x: Tensor) -> Tensor:
        return self.scaling * F.linear(F.linear(x, self.lora_A), self.lora_B)

    def product(self, dtype: torch.dtype) -> Tensor:
        return self.scaling * torch.matmul(self.lora_B.to(dtype), self.lora_A.to(dtype))


class InputDropoutMixin(nn.Module):
    """Owns the dropout on the branch's input."""

    input_dropout: nn.Dropout

    def make_dropout(self, p: float) -> None:
        if not 0 <= p < 1:
            raise ValueError(f"dropout: expected [0, 1), got {p}")
        self.input_dropout = nn.Dropout(p)

    def drop(self, x: Tensor) -> Tensor:
        dropped: Tensor = self.input_dropout(x)
        return dropped


class MergeMixin(LowRankMixin):
    """Knows how to fold the product into a weight."""

    base: nn.Linear

    @torch.no_grad()
    def merge_(self) -> None:
        weight = self.base.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        weight.copy_(weight.to(wide) + self.product(wide))
        self.lora_A.zero_()
        self.lora_B.zero_()


class Adapter(nn.Module):
    """What the functions below look for."""

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        raise NotImplementedError

    def adapted(self) -> nn.Module:
        raise NotImplementedError


class LoRALinear(MergeMixin, InputDropoutMixin, Adapter):
    def __init__(
        self,
        base: nn.Linear,
        r: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        freeze_base: bool = True,
    ) -> None:
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base: expected nn.Linear, got {type(base).__name__}")
        super().__init__()
        self.base = base
        self.make_factors(base.weight, r, alpha)
        self.make_dropout(dropout)
        if freeze_base:
            base.requires_grad_(False)
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        return out + self.low_rank(self.drop(x))

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield "lora_A", self.lora_A
        yield "lora_B", self.lora_B

    def adapted(self) -> nn.Module:
        return self.base


class AtADot:
    """Matches a dotted name that is the target or ends with it at a dot."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __call__(self, name: str) -> bool:
        return name == self.target or name.endswith("." + self.target)


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2"),
    dropout: float = 0.05,
) -> list[str]:
    matchers = [AtADot(target) for target in target_modules]
    adapted = {m.adapted() for m in model.modules() if isinstance(m, Adapter)}
    linears = {
        name: m
        for name, m in model.named_modules(remove_duplicate=False)
        if isinstance(m, nn.Linear) and m not in adapted
    }
    unmatched = [m.target for m in matchers if not any(m(name) for name in linears)]
    if unmatched:
        raise ValueError(f"target_modules: no linear matches {unmatched}")
    names = [name for name in linears if any(m(name) for m in matchers)]
    layers: dict[nn.Linear, LoRALinear] = {}
    for name in names:
        linear = linears[name]
        if linear not in layers:
            layers[linear] = LoRALinear(linear, r, alpha, dropout)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layers[linear])
    kept = {p for m in model.modules() if isinstance(m, Adapter) for _, p in m.trained()}
    for p in model.parameters():
        if p not in kept:
            p.requires_grad_(False)
    return names


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {
        f"{path}.{name}" if path else name: p
        for path, m in model.named_modules()
        if isinstance(m, Adapter)
        for name, p in m.trained()
    }


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in _trained(model).items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = _trained(model)
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unexpected:
        raise KeyError(f"missing {missing}, unexpected {unexpected}")
    unfit = [name for name, p in own.items() if state[name].shape != p.shape]
    if unfit:
        raise ValueError(f"expected the shapes of this model's factors, got others: {unfit}")
    unwell = [name for name in own if not state[name].isfinite().all()]
    if unwell:
        raise ValueError(f"expected finite values, got NaN or inf: {unwell}")
    with torch.no_grad():
        for name, p in own.items():
            p.copy_(state[name])
