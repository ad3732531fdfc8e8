"""LoRA with one addmm: the leading axes of x are flattened into one and restored at the end."""

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
            raise TypeError(f"`base` must be an `nn.Linear`; this one is `{type(base).__name__}`")
        if not r >= 1:
            raise ValueError(f"`r` must be at least 1; this one is {r}")
        if not (dropout >= 0 and dropout < 1):
            raise ValueError(f"`dropout` must be within [0, 1); this one is {dropout}")

        self.base = base
        self.r, self.alpha = r, alpha
        self.scaling = alpha / r

        self.lora_A = nn.Parameter(base.weight.new_empty((r, base.in_features)))
        self.lora_B = nn.Parameter(base.weight.new_zeros((base.out_features, r)))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

        self.dropout = nn.Dropout(dropout)
        self.train(base.training)

        if freeze_base:
            base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():  # the base does not train
            y = self.base(x)
        rows = self.dropout(x).reshape(-1, self.base.in_features)
        hidden = rows.mm(self.lora_A.t())
        flat = torch.addmm(
            y.reshape(-1, self.base.out_features), hidden, self.lora_B.t(), alpha=self.scaling
        )
        return flat.reshape(y.shape)

    @torch.no_grad()
    def merge_(self) -> None:
        update = self.lora_B.mm(self.lora_A).mul_(self.scaling)
        self.base.weight.add_(update)
        self.lora_A.zero_()
        self.lora_B.zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    # The names inside an adapter begin with the adapter's own name and a dot.
    names_of: dict[nn.Linear, list[str]] = {}
    wrapped_already: set[nn.Module] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, LoRALinear):
            wrapped_already.add(module.base)
        elif isinstance(module, nn.Linear):
            names_of.setdefault(module, []).append(name)
    for module in wrapped_already:
        if isinstance(module, nn.Linear):
            names_of.pop(module, None)

    def hits(target: str) -> set[str]:
        return {
            name
            for names in names_of.values()
            for name in names
            if name == target or name.endswith(f".{target}")
        }

    wanted: set[str] = set()
    for target in target_modules:
        found = hits(target)
        if not found:
            raise ValueError(f"target_modules: {target!r} matches no nn.Linear left to wrap")
        wanted |= found

    for linear, names in names_of.items():
        mine = [name for name in names if name in wanted]
        if mine:
            adapter = LoRALinear(linear, r, alpha, dropout)
            for name in mine:
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, adapter)

    factors: set[nn.Parameter] = set()
    for module in model.modules():
        if isinstance(module, LoRALinear):
            factors.update((module.lora_A, module.lora_B))
    for parameter in model.parameters():
        if parameter not in factors:
            parameter.requires_grad_(False)

    return sorted(wanted)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            head = [name] if name else []
            state[".".join([*head, "lora_A"])] = module.lora_A.detach().clone()
            state[".".join([*head, "lora_B"])] = module.lora_B.detach().clone()
    return state


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    expected = {name: tuple(value.shape) for name, value in lora_state_dict(model).items()}
    difference = expected.keys() ^ state.keys()
    if difference:
        missing = sorted(difference & expected.keys())
        unexpected = sorted(difference - expected.keys())
        raise KeyError(f"missing {missing}, unexpected {unexpected}")

    targets = {name: model.get_parameter(name) for name in expected}
    for name, shape in expected.items():
        if tuple(state[name].shape) != shape:
            raise ValueError(f"{name}: need the shape {shape}, got {tuple(state[name].shape)}")
        if not state[name].to(targets[name].dtype).isfinite().all():
            raise ValueError(f"{name}: contains NaN or infinity")

    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(state[name])
