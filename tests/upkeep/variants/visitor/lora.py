"""The style of someone from Java: a class for every job, visitors, and static methods."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Names:
    """Everything about dotted names."""

    SEPARATOR: Final = "."
    LORA_A: Final = "lora_A"
    LORA_B: Final = "lora_B"
    DEFAULT_TARGETS: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")

    @staticmethod
    def join(*parts: str) -> str:
        return Names.SEPARATOR.join(part for part in parts if part)

    @staticmethod
    def matches(name: str, target: str) -> bool:
        return name == target or name.endswith(Names.SEPARATOR + target)


class Require:
    """Argument checks."""

    @staticmethod
    def linear(name: str, value: object) -> None:
        if not isinstance(value, nn.Linear):
            raise TypeError(f"{name}: expected nn.Linear, got {type(value).__name__}")

    @staticmethod
    def at_least(name: str, value: int, minimum: int) -> None:
        if value < minimum:
            raise ValueError(f"{name}: expected at least {minimum}, got {value}")

    @staticmethod
    def probability(name: str, value: float) -> None:
        if value < 0 or value >= 1:
            raise ValueError(f"{name}: expected a probability below 1, got {value}")


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
        Require.linear("base", base)
        Require.at_least("r", r, 1)
        Require.probability("dropout", dropout)
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = self.compute_scaling(alpha, r)
        self.dropout = nn.Dropout(dropout)
        self.lora_A = self.create_factor(base.weight, r, base.in_features)
        self.lora_B = self.create_factor(base.weight, base.out_features, r)
        self.initialise()
        if freeze_base:
            FreezeVisitor().visit(base)
        self.train(base.training)

    @staticmethod
    def compute_scaling(alpha: float, r: int) -> float:
        return alpha / r

    @staticmethod
    def create_factor(like: Tensor, rows: int, columns: int) -> nn.Parameter:
        return nn.Parameter(torch.zeros(rows, columns, dtype=like.dtype, device=like.device))

    def initialise(self) -> None:
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def get_update(self, dtype: torch.dtype) -> Tensor:
        return self.lora_B.to(dtype).matmul(self.lora_A.to(dtype)).mul(self.scaling)

    def forward(self, x: Tensor) -> Tensor:
        base_result: Tensor = self.base(x)
        branch_result = F.linear(F.linear(self.dropout(x), self.lora_A), self.lora_B)
        return base_result.add(branch_result.mul(self.scaling))

    def merge_(self) -> None:
        MergeVisitor().visit_adapter(self)


class WrappedLinear(LoRALinear):
    """The one that stands in a model."""


class Visitor:
    """Walks a model; an adapter is visited as a whole, its base only if the visitor goes on."""

    def walk(self, module: nn.Module, name: str = "") -> None:
        if isinstance(module, LoRALinear):
            self.visit_named_adapter(name, module)
            return
        if isinstance(module, nn.Linear):
            self.visit_named_linear(name, module)
        for key in module._modules:
            child = module._modules[key]
            if child is not None:
                self.walk(child, Names.join(name, key))

    def visit_named_adapter(self, name: str, adapter: LoRALinear) -> None:
        pass

    def visit_named_linear(self, name: str, linear: nn.Linear) -> None:
        pass


class FreezeVisitor:
    def visit(self, module: nn.Module) -> None:
        for parameter in module.parameters():
            parameter.requires_grad_(False)


class MergeVisitor:
    @torch.no_grad()
    def visit_adapter(self, adapter: LoRALinear) -> None:
        weight = adapter.base.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        weight.copy_(weight.to(wide).add(adapter.get_update(wide)))
        adapter.lora_A.zero_()
        adapter.lora_B.zero_()


class FindLinearsVisitor(Visitor):
    def __init__(self) -> None:
        self.linears: dict[str, nn.Linear] = {}

    def visit_named_linear(self, name: str, linear: nn.Linear) -> None:
        self.linears[name] = linear


class CollectFactorsVisitor(Visitor):
    def __init__(self) -> None:
        self.seen: set[LoRALinear] = set()
        self.factors: dict[str, nn.Parameter] = {}

    def visit_named_adapter(self, name: str, adapter: LoRALinear) -> None:
        if adapter not in self.seen:
            self.seen.add(adapter)
            self.factors[Names.join(name, Names.LORA_A)] = adapter.lora_A
            self.factors[Names.join(name, Names.LORA_B)] = adapter.lora_B


class AdapterFactory:
    """Hands out one adapter for each linear."""

    def __init__(self, r: int, alpha: float, dropout: float) -> None:
        self.r, self.alpha, self.dropout = r, alpha, dropout
        self.made: dict[int, LoRALinear] = {}

    def get(self, linear: nn.Linear) -> LoRALinear:
        if id(linear) not in self.made:
            self.made[id(linear)] = WrappedLinear(linear, self.r, self.alpha, self.dropout)
        return self.made[id(linear)]


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = Names.DEFAULT_TARGETS,
    dropout: float = 0.05,
) -> list[str]:
    finder = FindLinearsVisitor()
    finder.walk(model)
    chosen = {
        name: linear
        for name, linear in finder.linears.items()
        if any(Names.matches(name, target) for target in target_modules)
    }
    for target in target_modules:
        if not any(Names.matches(name, target) for name in chosen):
            raise ValueError(f"target_modules: expected a linear called {target}, got none")
    factory = AdapterFactory(r, alpha, dropout)
    for name, linear in chosen.items():
        parent, _, child = name.rpartition(Names.SEPARATOR)
        setattr(model.get_submodule(parent), child, factory.get(linear))
    collector = CollectFactorsVisitor()
    collector.walk(model)
    trained = set(collector.factors.values())
    for parameter in model.parameters():
        if parameter not in trained:
            parameter.requires_grad_(False)
    return list(chosen)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    collector = CollectFactorsVisitor()
    collector.walk(model)
    return {name: factor.detach().clone() for name, factor in collector.factors.items()}


class StateChecker:
    def __init__(self, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
        self.own, self.state = own, state

    def check(self) -> None:
        self.check_names()
        self.check_shapes()
        self.check_values()

    def check_names(self) -> None:
        missing = sorted(set(self.own) - set(self.state))
        unexpected = sorted(set(self.state) - set(self.own))
        if missing or unexpected:
            raise KeyError(f"state: missing entries {missing}, unexpected entries {unexpected}")

    def check_shapes(self) -> None:
        wrong = [n for n in self.own if self.own[n].shape != self.state[n].shape]
        if wrong:
            raise ValueError(f"state: entries of another shape {wrong}")

    def check_values(self) -> None:
        wrong = [n for n in self.own if not self.state[n].isfinite().all()]
        if wrong:
            raise ValueError(f"state: entries that are not finite {wrong}")


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    collector = CollectFactorsVisitor()
    collector.walk(model)
    StateChecker(collector.factors, state).check()
    with torch.no_grad():
        for name, factor in collector.factors.items():
            factor.copy_(state[name])
