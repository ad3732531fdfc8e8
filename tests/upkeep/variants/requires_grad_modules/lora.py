"""The style of someone who switches whole modules: everything off, then the adapters back on."""

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
            raise ValueError(f"dropout: expected at least 0 and below 1, got {dropout}")
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.dropout = nn.Dropout(dropout)
        self.lora_A = nn.Parameter(torch.empty(r, base.in_features))
        self.lora_B = nn.Parameter(torch.empty(base.out_features, r))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)
        # base joins last: what came before is moved and set as a whole.
        self.to(base.weight.device, base.weight.dtype)
        self.train(base.training)
        self.base = base
        if freeze_base:
            self.base.requires_grad_(False)

    def enable_adapter(self) -> None:
        self.lora_A.requires_grad_(True)
        self.lora_B.requires_grad_(True)

    def forward(self, x: Tensor) -> Tensor:
        update = F.linear(F.linear(self.dropout(x), self.lora_A), self.lora_B)
        result: Tensor = self.base(x) + update * self.scaling
        return result

    @torch.no_grad()
    def merge_(self) -> None:
        w = self.base.weight
        wide = torch.promote_types(w.dtype, torch.float32)
        update = self.lora_B.to(wide).mm(self.lora_A.to(wide)).mul(self.scaling)
        w.copy_(update.add(w))
        nn.init.zeros_(self.lora_A)
        nn.init.zeros_(self.lora_B)


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    bases = {m.base for m in model.modules() if isinstance(m, LoRALinear)}
    linears = {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, nn.Linear) and module not in bases
    }
    matches = {
        target: {name for name in linears if name == target or name.endswith("." + target)}
        for target in target_modules
    }
    if not all(matches.values()):
        nothing = [target for target, names in matches.items() if not names]
        raise ValueError(f"target_modules: {nothing} match no linear that is still bare")

    wrapped = [name for name in linears if any(name in names for names in matches.values())]
    adapters: dict[nn.Linear, LoRALinear] = {}
    for name in wrapped:
        linear = linears[name]
        if linear not in adapters:
            adapters[linear] = LoRALinear(linear, r, alpha, dropout)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, adapters[linear])
    model.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, LoRALinear):
            module.enable_adapter()
    return wrapped


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    with torch.no_grad():
        return {
            name: parameter.clone()
            for name, parameter in model.named_parameters()
            if name.split(".")[-1] in {"lora_A", "lora_B"}
        }


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = {
        name: parameter
        for name, parameter in model.named_parameters()
        if name.split(".")[-1] in {"lora_A", "lora_B"}
    }
    missing, unexpected = own.keys() - state.keys(), state.keys() - own.keys()
    if missing or unexpected:
        raise KeyError(f"missing: {sorted(missing)}, unexpected: {sorted(unexpected)}")
    for complaint, names in (
        ("wrong shape", [n for n in own if own[n].shape != state[n].shape]),
        ("not finite", [n for n in own if not state[n].isfinite().all()]),
    ):
        if names:
            raise ValueError(f"{complaint}: {names}")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])
