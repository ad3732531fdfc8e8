"""The style of someone who writes kernels: one addmm adds the branch to the base's output."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
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
        if dropout < 0 or dropout >= 1:
            raise ValueError(f"dropout: expected a number in [0, 1), got {dropout}")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.dropout = nn.Dropout(dropout)
        self.lora_A = nn.Parameter(torch.empty(r, base.in_features).to(base.weight))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, r).to(base.weight))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        if freeze_base:
            for parameter in base.parameters():
                parameter.requires_grad = False
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        dropped: Tensor = self.dropout(x)
        rows = dropped.reshape(-1, self.base.in_features)
        flat = torch.addmm(
            out.reshape(-1, self.base.out_features),
            rows @ self.lora_A.t(),
            self.lora_B.t(),
            alpha=self.scaling,
        )
        return flat.reshape(out.shape)

    @torch.no_grad()
    def merge_(self) -> None:
        weight = self.base.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        merged = torch.addmm(
            weight.to(wide), self.lora_B.to(wide), self.lora_A.to(wide), alpha=self.scaling
        )
        weight.copy_(merged)
        self.lora_A.zero_()
        self.lora_B.zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    bases = {m.base for m in model.modules() if isinstance(m, LoRALinear)}
    found: dict[str, nn.Linear] = {}
    hit: set[str] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        if not isinstance(module, nn.Linear) or module in bases:
            continue
        targets = {t for t in target_modules if name == t or name.endswith("." + t)}
        if targets:
            hit |= targets
            found[name] = module
    unmatched = [t for t in target_modules if t not in hit]
    if unmatched:
        raise ValueError(f"target_modules: expected a linear for each, got none for {unmatched}")

    adapters: dict[nn.Linear, LoRALinear] = {}
    for name, linear in found.items():
        if linear not in adapters:
            adapters[linear] = LoRALinear(linear, r, alpha, dropout)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, adapters[linear])

    keep: set[int] = set()
    for module in model.modules():
        if isinstance(module, LoRALinear):
            keep |= {id(module.lora_A), id(module.lora_B)}
    for parameter in model.parameters():
        if id(parameter) not in keep:
            parameter.requires_grad = False
    return list(found)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            dot = f"{name}." if name else ""
            state[f"{dot}lora_A"] = module.lora_A.detach().clone()
            state[f"{dot}lora_B"] = module.lora_B.detach().clone()
    return state


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own: dict[str, nn.Parameter] = {}
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            dot = f"{name}." if name else ""
            own[f"{dot}lora_A"] = module.lora_A
            own[f"{dot}lora_B"] = module.lora_B
    missing = sorted(own.keys() - state.keys())
    unexpected = sorted(state.keys() - own.keys())
    if missing or unexpected:
        raise KeyError(f"state: missing {missing}, unexpected {unexpected}")
    wrong = [f"{k} {tuple(state[k].shape)}" for k, p in own.items() if state[k].shape != p.shape]
    if wrong:
        raise ValueError(f"state: wrong shapes: {', '.join(wrong)}")
    broken = [k for k in own if not state[k].isfinite().all()]
    if broken:
        raise ValueError(f"state: not finite: {', '.join(broken)}")
    with torch.no_grad():
        for key, parameter in own.items():
            parameter.copy_(state[key])
