"""The style of someone who never writes into a weight: merge_ installs a fresh frozen Parameter."""

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
            raise TypeError(f"base: expected nn.Linear, got {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r: expected at least 1, got {r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected in [0, 1), got {dropout}")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        A = torch.empty(r, base.in_features).to(base.weight)
        B = torch.zeros(base.out_features, r).to(base.weight)
        self.lora_A = nn.Parameter(A)
        self.lora_B = nn.Parameter(B)
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.dropout = nn.Dropout(dropout)
        if freeze_base:
            self.freeze_base()
        self.train(base.training)

    def freeze_base(self) -> None:
        for parameter in self.base.parameters():
            parameter.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        update = F.linear(F.linear(self.dropout(x), self.lora_A), self.lora_B)
        return torch.add(self.base(x), update, alpha=self.scaling)

    def merge_(self) -> None:
        old = self.base.weight.detach()
        wide = torch.promote_types(old.dtype, torch.float32)
        A, B = self.lora_A.detach().to(wide), self.lora_B.detach().to(wide)
        new = (old.to(wide) + self.scaling * (B @ A)).to(old.dtype)
        self.base.weight = nn.Parameter(new, requires_grad=False)
        with torch.no_grad():
            self.lora_A.fill_(0.0)
            self.lora_B.fill_(0.0)


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    has_adapter = {m.base for m in model.modules() if isinstance(m, LoRALinear)}

    def is_free_linear(module: nn.Module) -> bool:
        return isinstance(module, nn.Linear) and module not in has_adapter

    free = [n for n, m in model.named_modules(remove_duplicate=False) if is_free_linear(m)]
    chosen: list[str] = []
    for target in target_modules:
        matching = [name for name in free if name == target or name.endswith("." + target)]
        if not matching:
            raise ValueError(f"target_modules: expected a linear for {target!r}, got none")
        chosen.extend(matching)
    adapters: dict[nn.Module, LoRALinear] = {}
    for name in chosen:
        module = model.get_submodule(name)
        if isinstance(module, nn.Linear):
            if module not in adapters:
                adapters[module] = LoRALinear(module, r, alpha, dropout)
            parent_name, _, child_name = name.rpartition(".")
            setattr(model.get_submodule(parent_name), child_name, adapters[module])
    trainable = {
        id(factor)
        for module in model.modules()
        if isinstance(module, LoRALinear)
        for factor in (module.lora_A, module.lora_B)
    }
    for parameter in model.parameters():
        if id(parameter) not in trainable:
            parameter.requires_grad_(False)
    return [name for name in free if name in chosen]


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, LoRALinear):
            for key in ("lora_A", "lora_B"):
                full = f"{prefix}.{key}" if prefix else key
                state[full] = module.get_parameter(key).detach().clone()
    return state


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    expected = lora_state_dict(model)
    missing = expected.keys() - state.keys()
    unexpected = state.keys() - expected.keys()
    if missing or unexpected:
        raise KeyError(f"missing: {sorted(missing)}; unexpected: {sorted(unexpected)}")
    bad_shape = [k for k, v in expected.items() if v.shape != state[k].shape]
    if bad_shape:
        raise ValueError(f"expected the shapes of the model, got others: {bad_shape}")
    bad_value = [k for k in expected if not torch.isfinite(state[k]).all()]
    if bad_value:
        raise ValueError(f"expected finite values, got NaN or inf: {bad_value}")
    for k in expected:
        parameter = model.get_parameter(k)
        # .data keeps the Parameter object; the copy keeps state and model apart.
        parameter.data = state[k].detach().to(parameter.device, parameter.dtype, copy=True)
