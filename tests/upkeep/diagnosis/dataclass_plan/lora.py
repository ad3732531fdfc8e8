"""LoRA by hand. Wrapping works from a plan: first write down every replacement, then do it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class LoRALinear(nn.Module):
    """y = base(x) + (alpha / r) * B A dropout(x)"""

    lora_A: nn.Parameter
    lora_B: nn.Parameter

    def __init__(
        self,
        base: nn.Linear,
        r: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        freeze_base: bool = True,
    ) -> None:
        super().__init__()
        problems = {
            "r": (r >= 1, "at least 1", r),
            "dropout": (0 <= dropout < 1, "a number in [0, 1)", dropout),
        }
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base: expected nn.Linear, got {type(base).__name__}")
        for argument, (fine, expected, got) in problems.items():
            if not fine:
                raise ValueError(f"{argument}: expected {expected}, got {got}")

        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.dropout = nn.Dropout(dropout)
        weight = base.weight.detach()
        self.lora_A = nn.Parameter(weight.new_zeros(r, base.in_features))
        self.lora_B = nn.Parameter(weight.new_zeros(base.out_features, r))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5.0))
        if freeze_base:
            base.requires_grad_(False)
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        wide_path: Tensor = self.base(x)
        thin_path: Tensor = self.dropout(x).matmul(self.lora_A.t()).matmul(self.lora_B.t())
        return torch.add(wide_path, thin_path, alpha=self.scaling)

    def merge_(self) -> None:
        with torch.no_grad():
            old = self.base.weight
            compute = torch.promote_types(torch.float32, old.dtype)
            A, B = self.lora_A.to(compute), self.lora_B.to(compute)
            merged = torch.addmm(old.to(compute), B, A, alpha=self.scaling).to(old.dtype)
            self.base.weight = nn.Parameter(merged, requires_grad=False)
            for factor in (self.lora_A, self.lora_B):
                factor.zero_()


@dataclass(frozen=True)
class Replacement:
    """One name in the model and the linear that is found there."""

    parent: nn.Module
    child: str
    path: str
    linear: nn.Linear


@dataclass
class Plan:
    """What one call of wrap_minigpt_with_lora is going to do."""

    replacements: list[Replacement] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)


def make_plan(model: nn.Module, targets: Sequence[str]) -> Plan:
    adapted = {id(m.base) for m in model.modules() if isinstance(m, LoRALinear)}
    plan = Plan(unmatched=list(targets))
    for path, module in model.named_modules(remove_duplicate=False):
        if not isinstance(module, nn.Linear) or id(module) in adapted:
            continue
        hits = [target for target in targets if path.endswith(target)]
        if not hits:
            continue
        parent_path, _, child = path.rpartition(".")
        parent = model.get_submodule(parent_path)
        plan.replacements.append(Replacement(parent, child, path, module))
        plan.unmatched = [target for target in plan.unmatched if target not in hits]
    return plan


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    plan = make_plan(model, target_modules)
    if plan.unmatched:
        raise ValueError(f"target_modules: no unwrapped nn.Linear matches {plan.unmatched}")

    adapters: dict[int, LoRALinear] = {}
    for step in plan.replacements:
        key = id(step.linear)
        if key not in adapters:
            adapters[key] = LoRALinear(step.linear, r=r, alpha=alpha, dropout=dropout)
        setattr(step.parent, step.child, adapters[key])

    training = set()
    for module in model.modules():
        if isinstance(module, LoRALinear):
            training.update({id(module.lora_A), id(module.lora_B)})
    for param in model.parameters():
        if id(param) not in training:
            param.requires_grad_(False)
    return [step.path for step in plan.replacements]


@dataclass(frozen=True)
class Entry:
    key: str
    param: nn.Parameter


def entries(model: nn.Module) -> list[Entry]:
    found: list[Entry] = []
    for path, module in model.named_modules():
        if isinstance(module, LoRALinear):
            start = path + "." if path else ""
            found.append(Entry(start + "lora_A", module.lora_A))
            found.append(Entry(start + "lora_B", module.lora_B))
    return found


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {e.key: e.param.detach().clone() for e in entries(model)}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = entries(model)
    keys = {e.key for e in own}
    missing = sorted(keys.difference(state))
    unexpected = sorted(set(state).difference(keys))
    if missing or unexpected:
        raise KeyError(f"state: missing entries {missing}, unexpected entries {unexpected}")
    for e in own:
        value = state[e.key]
        if value.shape != e.param.shape:
            raise ValueError(
                f"{e.key}: expected shape {tuple(e.param.shape)}, got {tuple(value.shape)}"
            )
        if not bool(value.to(e.param.dtype).isfinite().all()):
            raise ValueError(f"{e.key}: expected finite values, got NaN or infinity")
    with torch.no_grad():
        for e in own:
            e.param.copy_(state[e.key])
