"""LoRA fuer nn.Linear, as somebody writes it who comes from Java."""

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
        ArgumentChecker.checkBase(base)
        ArgumentChecker.checkRank(r)
        ArgumentChecker.checkDropout(dropout)
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.createFactors()
        self.initFactors()
        self.dropoutLayer = nn.Dropout(p=dropout)
        self.train(base.training)
        if freeze_base:
            self.freezeBase()

    def createFactors(self) -> None:
        weight = self.base.weight
        inFeatures = self.base.in_features
        outFeatures = self.base.out_features
        self.lora_A = nn.Parameter(weight.new_empty(self.r, inFeatures))
        self.lora_B = nn.Parameter(weight.new_empty(outFeatures, self.r))

    def initFactors(self) -> None:
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)

    def freezeBase(self) -> None:
        self.base.weight.requires_grad_(False)
        self.base.bias.requires_grad_(False)

    def computeBranch(self, x: Tensor) -> Tensor:
        dropped = self.dropoutLayer(x)
        projectedDown = F.linear(dropped, self.lora_A)
        projectedUp = F.linear(projectedDown, self.lora_B)
        return projectedUp * self.scaling

    def forward(self, x: Tensor) -> Tensor:
        baseOutput: Tensor = self.base(x)
        branchOutput = self.computeBranch(x)
        return baseOutput + branchOutput

    def computeUpdate(self) -> Tensor:
        factorA = self.lora_A.to(torch.float32)
        factorB = self.lora_B.to(torch.float32)
        return torch.mm(factorB, factorA) * self.scaling

    def clearFactors(self) -> None:
        self.lora_A.zero_()
        self.lora_B.zero_()

    def merge_(self) -> None:
        with torch.no_grad():
            weight = self.base.weight
            merged = weight.to(torch.float32) + self.computeUpdate()
            weight.copy_(merged)
            self.clearFactors()


class ArgumentChecker:
    @staticmethod
    def checkBase(base: object) -> None:
        if not isinstance(base, nn.Linear):
            raise TypeError("base: nn.Linear expected, but got " + type(base).__name__)

    @staticmethod
    def checkRank(r: int) -> None:
        if r < 1:
            raise ValueError("r: at least 1 expected, but got " + str(r))

    @staticmethod
    def checkDropout(dropout: float) -> None:
        if not (0.0 <= dropout and dropout < 1.0):
            raise ValueError("dropout: value in [0, 1) expected, but got " + str(dropout))


class LinearFinder:
    """Finds the linears that are still to be wrapped."""

    def __init__(self, model: nn.Module, targetModules: Sequence[str]) -> None:
        self.model = model
        self.targetModules = targetModules
        self.foundLinears: dict[str, nn.Linear] = {}
        self.matchedTargets: set[str] = set()

    def isInsideAdapter(self, linear: nn.Linear) -> bool:
        for module in self.model.modules():
            if isinstance(module, LoRALinear) and module.base is linear:
                return True
        return False

    def getMatchingTargets(self, name: str) -> list[str]:
        return [t for t in self.targetModules if name == t or name.endswith("." + t)]

    def run(self) -> LinearFinder:
        for name, module in self.model.named_modules(remove_duplicate=False):
            if isinstance(module, nn.Linear):
                matching = self.getMatchingTargets(name)
                if len(matching) > 0 and not self.isInsideAdapter(module):
                    self.foundLinears[name] = module
                    self.matchedTargets.update(matching)
        return self

    def throwIfUnmatched(self) -> None:
        for target in self.targetModules:
            if target not in self.matchedTargets:
                raise ValueError("target_modules: no linear to wrap matches " + target)


class AdapterRegistry:
    """Knows the factors of a model by their full names."""

    def __init__(self, model: nn.Module) -> None:
        self.factorMap: dict[str, nn.Parameter] = {}
        for name, module in model.named_modules():
            if isinstance(module, LoRALinear):
                prefix = "" if name == "" else name + "."
                self.factorMap[prefix + "lora_A"] = module.lora_A
                self.factorMap[prefix + "lora_B"] = module.lora_B

    def containsParameter(self, parameter: nn.Parameter) -> bool:
        return any(parameter is factor for factor in self.factorMap.values())


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    finder = LinearFinder(model, target_modules).run()
    finder.throwIfUnmatched()
    adapterCache: dict[nn.Linear, LoRALinear] = {}
    for name, linear in finder.foundLinears.items():
        if linear not in adapterCache:
            adapterCache[linear] = LoRALinear(linear, r, alpha, dropout)
        parentName, _, childName = name.rpartition(".")
        setattr(model.get_submodule(parentName), childName, adapterCache[linear])
    registry = AdapterRegistry(model)
    for parameter in model.parameters():
        if not registry.containsParameter(parameter):
            parameter.requires_grad_(False)
    return list(finder.foundLinears.keys())


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    registry = AdapterRegistry(model)
    return {name: factor.detach().clone() for name, factor in registry.factorMap.items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    factorMap = AdapterRegistry(model).factorMap
    missingNames = [name for name in factorMap if name not in state]
    unexpectedNames = [name for name in state if name not in factorMap]
    if missingNames or unexpectedNames:
        raise KeyError(f"missing: {missingNames}, unexpected: {unexpectedNames}")
    for name, factor in factorMap.items():
        value = state[name]
        if value.shape != factor.shape:
            raise ValueError(f"{name}: {tuple(factor.shape)} expected, got {tuple(value.shape)}")
        if not torch.isfinite(value.to(factor.dtype)).all():
            raise ValueError(f"{name}: finite values expected")
    with torch.no_grad():
        for name, factor in factorMap.items():
            factor.copy_(state[name])
