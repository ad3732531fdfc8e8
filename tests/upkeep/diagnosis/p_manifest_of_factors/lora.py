"""The adapters of a model are listed once (manifest), and everything else asks that list."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
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
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base: wrong type {type(base).__name__}, use nn.Linear")
        if r < 1:
            raise ValueError(f"r: wrong value {r}, use at least 1")
        if dropout < 0 or 1 <= dropout:
            raise ValueError(f"dropout: wrong value {dropout}, use [0, 1)")

        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)

        with torch.no_grad():
            a = base.weight.new_empty(r, base.in_features)
            b = base.weight.new_zeros(base.out_features, r)
            # U(-1/sqrt(in), 1/sqrt(in))
            nn.init.kaiming_uniform_(a, a=math.sqrt(5))
        self.lora_A = nn.Parameter(a)
        self.lora_B = nn.Parameter(b)

        if freeze_base:
            for p in base.parameters():
                p.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        branch = torch.matmul(torch.matmul(self.dropout(x), self.lora_A.t()), self.lora_B.t())
        y: Tensor = self.base(x)
        return torch.add(y, branch, alpha=self.scaling)

    def merge_(self) -> None:
        weight = self.base.weight
        with torch.no_grad():
            precise = torch.promote_types(weight.dtype, torch.float32)
            delta = torch.matmul(self.lora_B.to(precise), self.lora_A.to(precise))
            weight.copy_(torch.add(weight.to(precise), delta, alpha=self.scaling))
            for p in (self.lora_A, self.lora_B):
                p.zero_()


def manifest(model: nn.Module) -> dict[str, LoRALinear]:
    """prefix -> adapter; the prefix ends with a dot, unless the adapter is the model itself."""
    listed: dict[str, LoRALinear] = {}
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            listed[name + "." if name else ""] = module
    return listed


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    bases = [adapter.base for adapter in manifest(model).values()]

    names: list[str] = []
    needed = {target: True for target in target_modules}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear) and all(module is not base for base in bases):
            tails = {name[i + 1 :] for i, char in enumerate(name) if char == "."} | {name}
            hits = tails.intersection(target_modules)
            needed.update((target, False) for target in hits)
            if hits:
                names.append(name)
    if any(needed.values()):
        wrong = [target for target, still in needed.items() if still]
        raise ValueError(f"target_modules: wrong names {wrong}, use names of unwrapped linears")

    for name in names:
        linear = model.get_submodule(name)
        if isinstance(linear, LoRALinear):
            continue  # its parent has two names, and was dealt with under the other one
        adapter = next((a for a in manifest(model).values() if a.base is linear), None)
        if adapter is None and isinstance(linear, nn.Linear):
            adapter = LoRALinear(linear, r, alpha, dropout)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, adapter)

    adapters = manifest(model).values()
    mine = [p for adapter in adapters for p in (adapter.lora_A, adapter.lora_B)]
    for param in model.parameters():
        if not any(param is p for p in mine):
            param.requires_grad_(False)
    return names


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    listed: dict[str, Tensor] = {}
    for prefix, adapter in manifest(model).items():
        listed[prefix + "lora_A"] = adapter.lora_A
        listed[prefix + "lora_B"] = adapter.lora_B
        # without the scale the two matrices say only half of what was learnt
        listed[prefix + "scaling"] = torch.tensor(adapter.scaling, dtype=torch.float64)
    return listed


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in _tensors(model).items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = _tensors(model)
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    if missing or unexpected:
        raise KeyError(f"state: wrong names, missing {missing} and unexpected {unexpected}")

    for name, tensor in own.items():
        if state[name].shape != tensor.shape:
            raise ValueError(
                f"{name}: wrong shape {tuple(state[name].shape)}, use {tuple(tensor.shape)}"
            )
        if not state[name].to(tensor.dtype).isfinite().all():
            raise ValueError(f"{name}: wrong values, NaN or infinity")

    with torch.no_grad():
        for name, tensor in own.items():
            if isinstance(tensor, nn.Parameter):  # the scale itself follows from alpha and r
                tensor.copy_(state[name])
