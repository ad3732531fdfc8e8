"""The style of someone who walks the tree by hand: modules are known by isinstance, names by prefix."""

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
        if not isinstance(base, nn.Linear):
            raise TypeError(f"Expected base to be an nn.Linear but got {type(base).__name__}")
        if r < 1:
            raise ValueError(f"Expected r to be at least 1 but got {r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"Expected dropout to be in [0, 1) but got {dropout}")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.dropout = nn.Dropout(dropout)
        self.lora_A = nn.Parameter(torch.empty(r, base.in_features, dtype=base.weight.dtype))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, r, dtype=base.weight.dtype))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        if freeze_base:
            base.requires_grad_(False)
        self.to(base.weight.device)
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        y = y + F.linear(F.linear(self.scaling * self.dropout(x), self.lora_A), self.lora_B)
        return y

    def merge_(self) -> None:
        with torch.no_grad():
            W = self.base.weight
            if W.dtype == torch.float64:
                W += self.scaling * self.lora_B @ self.lora_A
            else:
                delta = self.scaling * self.lora_B.float() @ self.lora_A.float()
                W.copy_(W.float() + delta)
            self.lora_A.zero_()
            self.lora_B.zero_()


def _walk(module: nn.Module, prefix: str, names: dict[str, nn.Linear]) -> None:
    """Fill names with every linear under module; an adapter is a leaf."""
    for child_name, child in module._modules.items():
        if child is None or isinstance(child, LoRALinear):
            continue
        if isinstance(child, nn.Linear):
            names[prefix + child_name] = child
        _walk(child, prefix + child_name + ".", names)


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    owner = model
    *path, last = name.split(".")
    for step in path:
        owner = owner.get_submodule(step)
    return owner, last


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    linears: dict[str, nn.Linear] = {}
    _walk(model, "", linears)
    wanted: list[str] = []
    used: set[str] = set()
    for name in linears:
        for target in target_modules:
            if name == target or name.endswith("." + target):
                used.add(target)
                if name not in wanted:
                    wanted.append(name)
    for target in target_modules:
        if target not in used:
            raise ValueError(f"Expected {target} in target_modules to match a linear but got none")
    done: list[tuple[nn.Linear, LoRALinear]] = []
    for name in wanted:
        linear = linears[name]
        adapter = None
        for old, new in done:
            if old is linear:
                adapter = new
        if adapter is None:
            adapter = LoRALinear(linear, r, alpha, dropout)
            done.append((linear, adapter))
        owner, last = _owner(model, name)
        setattr(owner, last, adapter)
    for module in model.modules():
        if isinstance(module, LoRALinear):
            continue
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad = False
    return wanted


def _collect(module: nn.Module, prefix: str, seen: set[int], into: dict[str, nn.Parameter]) -> None:
    if id(module) in seen:
        return
    seen.add(id(module))
    if isinstance(module, LoRALinear):
        into[prefix + "lora_A"] = module.lora_A
        into[prefix + "lora_B"] = module.lora_B
        return
    for child_name, child in module.named_children():
        _collect(child, prefix + child_name + ".", seen, into)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    factors: dict[str, nn.Parameter] = {}
    _collect(model, "", set(), factors)
    return {name: factor.detach().clone() for name, factor in factors.items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    factors: dict[str, nn.Parameter] = {}
    _collect(model, "", set(), factors)
    absent = [name for name in factors if name not in state]
    extra = [name for name in state if name not in factors]
    if absent and extra:
        raise KeyError(f"Expected {absent} but got {extra}")
    if absent:
        raise KeyError(f"Expected {absent} but the state lacks them")
    if extra:
        raise KeyError(f"Expected the model's own entries only but got {extra}")
    for test, what in (("shape", "another shape"), ("finite", "NaN or infinity")):
        bad: list[str] = []
        for name, factor in factors.items():
            if test == "shape" and list(state[name].shape) != list(factor.shape):
                bad.append(name)
            if test == "finite" and (state[name].isnan().any() or state[name].isinf().any()):
                bad.append(name)
        if bad:
            raise ValueError(f"Expected other values but got {what} in {bad}")
    with torch.no_grad():
        for name, factor in factors.items():
            factor.copy_(state[name])
