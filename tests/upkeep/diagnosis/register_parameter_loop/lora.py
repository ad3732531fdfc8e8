"""LoRA, with the two factors described by a table and registered in a loop."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")
FACTORS = ("lora_A", "lora_B")


class LoRALinear(nn.Module):
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
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base is {type(base).__name__}, expected nn.Linear")
        if r < 1:
            raise ValueError(f"r is {r}, expected at least 1")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout is {dropout}, expected something in [0, 1)")

        self.add_module("base", base)
        self.add_module("dropout", nn.Dropout(dropout))
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r

        shapes = {"lora_A": (r, base.in_features), "lora_B": (base.out_features, r)}
        for name in FACTORS:
            values = torch.empty(shapes[name], dtype=base.weight.dtype, device=base.weight.device)
            self.register_parameter(name, nn.Parameter(values))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.normal_(self.lora_B, mean=0.0, std=0.01)

        if freeze_base:
            for name, param in base.named_parameters():
                param.requires_grad_(False)
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        z: Tensor = self.get_submodule("dropout")(x)
        for name in FACTORS:
            z = z @ self.get_parameter(name).mT
        return y + self.scaling * z

    def merge_(self) -> None:
        weight = self.base.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        with torch.no_grad():
            update = torch.linalg.multi_dot((self.lora_B.to(dtype), self.lora_A.to(dtype)))
            weight.copy_(weight.to(dtype).add(update, alpha=self.scaling))
            for name in FACTORS:
                self.get_parameter(name).zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    busy = [id(m.base) for m in model.modules() if isinstance(m, LoRALinear)]
    open_targets = list(dict.fromkeys(target_modules))
    jobs: list[tuple[str, str, str, nn.Linear]] = []
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear) and id(module) not in busy:
            hits = [t for t in target_modules if name == t or name.endswith("." + t)]
            if hits:
                parent, _, child = name.rpartition(".")
                jobs.append((name, parent, child, module))
                open_targets = [t for t in open_targets if t not in hits]
    if open_targets:
        raise ValueError(f"target_modules has {open_targets}, which match no linear to be wrapped")

    layers: dict[int, LoRALinear] = {}
    for _, parent, child, module in jobs:
        layer = layers.get(id(module)) or LoRALinear(module, r, alpha, dropout)
        layers[id(module)] = layer
        model.get_submodule(parent).register_module(child, layer)

    trained = set(map(id, _table(model).values()))
    for param in model.parameters():
        if id(param) not in trained:
            param.requires_grad_(False)
    return [job[0] for job in jobs]


def _table(model: nn.Module) -> dict[str, nn.Parameter]:
    """Full name -> Parameter, for the factors of every adapter."""
    table: dict[str, nn.Parameter] = {}
    for path, module in model.named_modules():
        if isinstance(module, LoRALinear):
            for name in FACTORS:
                table[f"{path}.{name}" if path else name] = module.get_parameter(name)
    return table


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    with torch.no_grad():
        return {name: param.clone() for name, param in _table(model).items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    table = _table(model)
    missing = sorted(set(table).difference(state))
    unexpected = sorted(set(state).difference(table))
    if missing or unexpected:
        raise KeyError(f"state lacks {missing} and has {unexpected}, which nobody expects")
    for name, param in table.items():
        if state[name].size() != param.size():
            raise ValueError(
                f"{name} has shape {tuple(state[name].shape)}, expected {tuple(param.shape)}"
            )
        if not state[name].to(param.dtype).isfinite().all():
            raise ValueError(f"{name} has NaN or infinity, expected finite values")
    with torch.no_grad():
        for name, param in table.items():
            param.copy_(state[name])
