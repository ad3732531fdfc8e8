"""LoRA; the model is walked with a stack and a while loop."""

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
            raise TypeError(f"base: {type(base).__name__} given, nn.Linear needed")
        if r < 1:
            raise ValueError(f"r: {r} given, 1 or more needed")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: {dropout} given, [0, 1) needed")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.lora_A = nn.Parameter(base.weight.new_empty(r, base.in_features))
        self.lora_B = nn.Parameter(base.weight.new_zeros(base.out_features, r))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)
        if freeze_base:
            base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        h = F.linear(self.dropout(x), self.lora_A)
        return torch.add(out, F.linear(h, self.lora_B), alpha=self.scaling)

    def merge_(self) -> None:
        with torch.no_grad():
            weight = self.base.weight
            wide = torch.promote_types(weight.dtype, torch.float32)
            delta = self.lora_B.to(wide) @ self.lora_A.to(wide)
            weight.copy_(torch.add(weight.to(wide), delta, alpha=self.scaling))
            self.lora_A.zero_()
            self.lora_B.zero_()


def walk(model: nn.Module) -> list[tuple[nn.Module, str, str, nn.Module]]:
    """(parent, attribute, full name, module) for every place below model, adapters closed."""
    seen: list[tuple[nn.Module, str, str, nn.Module]] = []
    stack: list[tuple[str, nn.Module]] = [("", model)]
    while stack:
        prefix, parent = stack.pop()
        if isinstance(parent, LoRALinear):
            continue
        for attribute, child in parent._modules.items():
            if child is None:
                continue
            full = f"{prefix}.{attribute}" if prefix else attribute
            seen.append((parent, attribute, full, child))
            stack.append((full, child))
    return seen


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    places = walk(model)
    closed = {m.base for m in model.modules() if isinstance(m, LoRALinear)}

    todo: list[tuple[nn.Module, str, str, nn.Linear]] = []
    waiting = list(target_modules)
    i = 0
    while i < len(places):
        parent, attribute, full, child = places[i]
        i += 1
        if not isinstance(child, nn.Linear) or child in closed:
            continue
        hits = [t for t in target_modules if full == t or full.endswith("." + t)]
        if hits:
            todo.append((parent, attribute, full, child))
            waiting = [t for t in waiting if t not in hits]
    if waiting:
        raise ValueError(f"target_modules: no linear to wrap for {waiting}")

    done: dict[nn.Linear, LoRALinear] = {}
    wrapped: list[str] = []
    while todo:
        parent, attribute, full, linear = todo.pop()
        if linear not in done:
            done[linear] = LoRALinear(linear, r, alpha, dropout)
        setattr(parent, attribute, done[linear])
        wrapped.append(full)

    model.requires_grad_(False)
    for adapter in done.values():
        adapter.lora_A.requires_grad_(True)
        adapter.lora_B.requires_grad_(True)
    return wrapped


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    queue = list(model.named_parameters())
    while queue:
        name, param = queue.pop(0)
        if name.rpartition(".")[2] in ("lora_A", "lora_B"):
            state[name] = param.detach().clone()
    return state


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    params = dict(model.named_parameters())
    own = [n for n in params if n.rpartition(".")[2] in ("lora_A", "lora_B")]
    missing = [n for n in own if n not in state]
    extra = [n for n in state if n not in own]
    if missing or extra:
        raise KeyError(f"state: missing {missing}, unexpected {extra}")
    to_check = list(own)
    while to_check:
        name = to_check.pop()
        want, got = tuple(params[name].shape), tuple(state[name].shape)
        if want != got:
            raise ValueError(f"{name}: shape {got} given, {want} needed")
        if not state[name].isfinite().all():
            raise ValueError(f"{name}: finite values needed")
    to_write = list(own)
    with torch.no_grad():
        while to_write:
            name = to_write.pop()
            params[name].copy_(state[name])
