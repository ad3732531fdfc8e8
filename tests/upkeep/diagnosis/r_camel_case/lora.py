"""LoRA, written by somebody who comes from Java."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

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
        self.checkArguments(base, r, dropout)
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.createFactors()
        self.initFactors()
        self.dropout = nn.Dropout(dropout)
        self.train(self.base.training)
        if freeze_base:
            self.freezeBase()

    @staticmethod
    def checkArguments(base: nn.Module, rank: int, dropProb: float) -> None:
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base: expected nn.Linear, got {type(base).__name__}")
        if rank < 1:
            raise ValueError(f"r: expected rank >= 1, got {rank}")
        if dropProb < 0.0 or dropProb >= 1.0:
            raise ValueError(f"dropout: expected probability in [0, 1), got {dropProb}")

    def createFactors(self) -> None:
        baseWeight = self.base.weight
        numOut = self.base.out_features
        numIn = self.base.in_features
        self.lora_A = nn.Parameter(baseWeight.new_empty(self.r, numIn))
        self.lora_B = nn.Parameter(baseWeight.new_empty(numOut, self.r))

    def initFactors(self) -> None:
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)

    def freezeBase(self) -> None:
        for baseParam in self.base.parameters():
            baseParam.requires_grad = False

    def computeBranch(self, inputs: Tensor) -> Tensor:
        hidden = F.linear(inputs, self.lora_A)
        return self.scaling * F.linear(hidden, self.lora_B)

    def computeDelta(self, computeType: torch.dtype) -> Tensor:
        matA = self.lora_A.to(computeType)
        matB = self.lora_B.to(computeType)
        return self.scaling * torch.mm(matB, matA)

    def forward(self, x: Tensor) -> Tensor:
        baseOut: Tensor = self.base(x)
        return baseOut + self.computeBranch(self.dropout(x))

    def merge_(self) -> None:
        baseWeight = self.base.weight
        computeType = torch.promote_types(baseWeight.dtype, torch.float32)
        with torch.no_grad():
            merged = baseWeight.to(computeType) + self.computeDelta(computeType)
            baseWeight.copy_(merged)
            self.lora_B.zero_()  # B = 0 makes the product zero


class LinearFinder:
    """Finds the linears of a model that the targets name."""

    def __init__(self, model: nn.Module, targets: Sequence[str]) -> None:
        self.targets = list(targets)
        self.wrappedBases = {m.base for m in model.modules() if isinstance(m, LoRALinear)}
        self.foundLinears: dict[str, nn.Linear] = {}
        self.usedTargets: set[str] = set()
        for moduleName, module in model.named_modules(remove_duplicate=False):
            self.visit(moduleName, module)

    def visit(self, moduleName: str, module: nn.Module) -> None:
        if not isinstance(module, nn.Linear) or module in self.wrappedBases:
            return
        for target in self.targets:
            if moduleName == target or moduleName.endswith("." + target):
                self.foundLinears[moduleName] = module
                self.usedTargets.add(target)

    def unusedTargets(self) -> list[str]:
        return [t for t in self.targets if t not in self.usedTargets]


def collectAdapterParams(model: nn.Module) -> dict[str, nn.Parameter]:
    adapterIds: set[int] = set()
    for module in model.modules():
        if isinstance(module, LoRALinear):
            adapterIds.add(id(module.lora_A))
            adapterIds.add(id(module.lora_B))
    return {name: p for name, p in model.named_parameters() if id(p) in adapterIds}


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    finder = LinearFinder(model, target_modules)
    unusedTargets = finder.unusedTargets()
    if len(unusedTargets) > 0:
        raise ValueError(f"target_modules: nothing to wrap for {unusedTargets}")
    newAdapters: dict[nn.Linear, LoRALinear] = {}
    for linearName, linear in finder.foundLinears.items():
        if linear not in newAdapters:
            newAdapters[linear] = LoRALinear(linear, r=r, alpha=alpha, dropout=dropout)
        parentName, _, childName = linearName.rpartition(".")
        setattr(model.get_submodule(parentName), childName, newAdapters[linear])
    trainableParams = set(collectAdapterParams(model).values())
    for param in model.parameters():
        if param not in trainableParams:
            param.requires_grad = False
    return list(finder.foundLinears.keys())


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in collectAdapterParams(model).items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    adapterParams = collectAdapterParams(model)
    missingNames = sorted(set(adapterParams.keys()) - set(state.keys()))
    unexpectedNames = sorted(set(state.keys()) - set(adapterParams.keys()))
    if missingNames or unexpectedNames:
        raise KeyError(f"state: missing {missingNames}, unexpected {unexpectedNames}")
    for paramName, param in adapterParams.items():
        newValue = state[paramName]
        if newValue.shape != param.shape:
            raise ValueError(
                f"{paramName}: expected shape {tuple(param.shape)}, got {tuple(newValue.shape)}"
            )
        if not torch.isfinite(newValue).all():
            raise ValueError(f"{paramName}: values are not finite")
    with torch.no_grad():
        for paramName, param in adapterParams.items():
            param.copy_(state[paramName])
