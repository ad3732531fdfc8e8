"""Lab 00. The class only holds things; the work is done by the functions below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

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
        check_arguments(base, r, dropout)
        self.base = base
        self.r, self.alpha, self.scaling = r, alpha, alpha / r
        self.lora_A, self.lora_B = make_factors(base, r)
        self.dropout = nn.Dropout(dropout)
        self.dropout.training = self.training = base.training
        if freeze_base:
            self.base.requires_grad = False

    def forward(self, x: Tensor) -> Tensor:
        return add_branch(self.base(x), self.dropout(x), self.lora_A, self.lora_B, self.scaling)

    def merge_(self) -> None:
        fold(self.base.weight, self.lora_A, self.lora_B, self.scaling)
        clear(self.lora_A, self.lora_B)


def check_arguments(base: object, r: int, dropout: float) -> None:
    if not isinstance(base, nn.Linear):
        raise TypeError(f"base has to be an nn.Linear; got {type(base).__name__}")
    if r < 1:
        raise ValueError(f"r has to be at least 1; got {r}")
    if dropout < 0 or 1 <= dropout:
        raise ValueError(f"dropout has to be in [0, 1); got {dropout}")


def make_factors(base: nn.Linear, r: int) -> tuple[nn.Parameter, nn.Parameter]:
    a = base.weight.new_empty((r, base.in_features))
    b = base.weight.new_zeros((base.out_features, r))
    nn.init.kaiming_uniform_(a, a=5**0.5)
    return nn.Parameter(a), nn.Parameter(b)


def add_branch(y: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    return y + scale * fn.linear(fn.linear(x, a), b)


@torch.no_grad()
def fold(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> None:
    at_least = torch.promote_types(weight.dtype, torch.float32)
    a, b = a.to(at_least), b.to(at_least)
    weight.copy_(weight.to(at_least) + scale * (b @ a))


@torch.no_grad()
def clear(*tensors: Tensor) -> None:
    for tensor in tensors:
        tensor.zero_()


def is_target(name: str, target: str) -> bool:
    return name.split(".")[-len(target.split(".")) :] == target.split(".")


def free_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """All linears, under all their names, that are not yet inside an adapter."""
    inside = {m.base for m in model.modules() if isinstance(m, LoRALinear)}
    every = model.named_modules(remove_duplicate=False)
    return {n: m for n, m in every if isinstance(m, nn.Linear) and m not in inside}


def check_targets(names: Sequence[str], targets: Sequence[str]) -> None:
    lost = [t for t in targets if not any(is_target(n, t) for n in names)]
    if lost:
        raise ValueError(f"target_modules: found no linear to wrap for {lost}")


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def freeze_the_rest(model: nn.Module) -> None:
    keep = set(map(id, factors(model).values()))
    for p in model.parameters():
        if id(p) not in keep:
            p.requires_grad_(False)


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    free = free_linears(model)
    check_targets(list(free), target_modules)
    names = [n for n in free if any(is_target(n, t) for t in target_modules)]
    adapters: dict[nn.Linear, LoRALinear] = {}
    for n in names:
        linear = free[n]
        if linear not in adapters:
            adapters[linear] = LoRALinear(linear, r, alpha, dropout)
        put(model, n, adapters[linear])
    freeze_the_rest(model)
    return names


def factors(model: nn.Module) -> dict[str, nn.Parameter]:
    found: dict[str, nn.Parameter] = {}
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            found[f"{name}.lora_A".lstrip(".")] = module.lora_A
            found[f"{name}.lora_B".lstrip(".")] = module.lora_B
    return found


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in factors(model).items()}


def check_state(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    missing = [n for n in own if n not in state]
    strange = [n for n in state if n not in own]
    if missing + strange:
        raise KeyError(f"state: missing entries {missing}, unexpected entries {strange}")
    for n, p in own.items():
        if p.shape != state[n].shape:
            raise ValueError(f"{n}: has shape {tuple(state[n].shape)}, not {tuple(p.shape)}")
        if not state[n].to(p.dtype).isfinite().all():
            raise ValueError(f"{n}: has a NaN or an infinity")


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = factors(model)
    check_state(own, state)
    with torch.no_grad():
        for n, p in own.items():
            p.copy_(state[n])
