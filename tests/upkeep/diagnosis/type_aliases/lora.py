"""LoRA for the MiniGPT, with names for the shapes that are handed around."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

import torch
from torch import Tensor, nn

Name: TypeAlias = str
Names: TypeAlias = list[Name]
State: TypeAlias = dict[Name, Tensor]
Params: TypeAlias = dict[Name, nn.Parameter]
Linears: TypeAlias = dict[Name, nn.Linear]
Matcher: TypeAlias = Callable[[Name], bool]

MINIGPT_LINEARS: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")
SQRT5: Final = math.sqrt(5)


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
            raise TypeError(f"base: expected nn.Linear, found {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r: expected at least 1, found {r}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout: expected a value in [0, 1), found {dropout}")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.dropout = nn.Dropout(dropout)
        self.lora_A = nn.Parameter(base.weight.new_empty((r, base.in_features)))
        self.lora_B = nn.Parameter(base.weight.new_empty((base.out_features, r)))
        nn.init.kaiming_uniform_(self.lora_A, a=SQRT5)
        nn.init.zeros_(self.lora_B)
        if freeze_base:
            base.requires_grad_(False)
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        kept: Tensor = self.base(x)
        low: Tensor = nn.functional.linear(self.dropout(x), self.lora_A)
        high: Tensor = nn.functional.linear(low, self.lora_B)
        return kept + high.mul(self.scaling)

    def merge_(self) -> None:
        weight: Tensor = self.base.weight
        wide: torch.dtype = torch.promote_types(weight.dtype, torch.float32)
        with torch.no_grad():
            down: Tensor = self.lora_A.to(wide)
            up: Tensor = self.lora_B.to(wide)
            total: Tensor = weight.to(wide) + self.scaling * (up @ down)
            weight.copy_(total)
            self.lora_A.zero_()
            self.lora_B.zero_()


def matcher(target: Name) -> Matcher:
    tail = "." + target
    return lambda name: name == target or name.endswith(tail)


def linears_to_wrap(model: nn.Module) -> Linears:
    taken: set[int] = {id(m.base) for m in model.modules() if isinstance(m, LoRALinear)}
    found: Linears = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear) and id(module) not in taken:
            found[name] = module
    return found


def factors(model: nn.Module) -> Params:
    found: Params = {}
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            stem: Name = f"{name}." if name else ""
            found[f"{stem}lora_A"] = module.lora_A
            found[f"{stem}lora_B"] = module.lora_B
    return found


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> Names:
    pool: Linears = linears_to_wrap(model)
    matchers: dict[Name, Matcher] = {target: matcher(target) for target in target_modules}

    idle: Names = [t for t, matches in matchers.items() if not any(map(matches, pool))]
    if idle:
        raise ValueError(f"target_modules: expected targets with a linear to wrap, found {idle}")

    chosen: Linears = {
        name: linear
        for name, linear in pool.items()
        if any(matches(name) for matches in matchers.values())
    }
    layers: dict[int, LoRALinear] = {}
    for name, linear in chosen.items():
        if id(linear) not in layers:
            layers[id(linear)] = LoRALinear(linear, r, alpha, dropout)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layers[id(linear)])

    training: set[int] = {id(p) for p in factors(model).values()}
    for param in model.parameters():
        if id(param) not in training:
            param.requires_grad_(False)
    return list(chosen)


def lora_state_dict(model: nn.Module) -> State:
    state: State = {}
    for name, param in factors(model).items():
        state[name] = param.detach()
    return state


def load_lora_state_dict(model: nn.Module, state: Mapping[Name, Tensor]) -> None:
    own: Params = factors(model)
    missing: Names = sorted(own.keys() - state.keys())
    unexpected: Names = sorted(state.keys() - own.keys())
    if missing or unexpected:
        raise KeyError(f"state: missing {missing}, unexpected {unexpected}")
    for name, param in own.items():
        value: Tensor = state[name]
        if value.shape != param.shape:
            raise ValueError(f"{name}: expected {tuple(param.shape)}, found {tuple(value.shape)}")
        if not bool(value.to(param.dtype).isfinite().all()):
            raise ValueError(f"{name}: expected finite values, found NaN or infinity")
    with torch.no_grad():
        for name, param in own.items():
            param.copy_(state[name])
