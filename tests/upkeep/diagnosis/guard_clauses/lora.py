"""LoRA for nn.Linear. Every odd case leaves early; the main path is never indented."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
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
            raise TypeError(f"base: not an nn.Linear but a {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r: has to be at least 1, not {r}")
        if not (0.0 <= dropout < 1.0):
            raise ValueError(f"dropout: has to be in [0, 1), not {dropout}")

        W = base.weight
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.rate = dropout
        self.lora_A = nn.Parameter(torch.empty(r, base.in_features, dtype=W.dtype, device=W.device))
        self.lora_B = nn.Parameter(
            torch.zeros(base.out_features, r, dtype=W.dtype, device=W.device)
        )
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.train(base.training)

        if not freeze_base:
            return
        W.requires_grad_(False)
        if base.bias is None:
            return
        base.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        dropped = F.dropout(x, self.rate)
        return out + self.scaling * F.linear(F.linear(dropped, self.lora_A), self.lora_B)

    @torch.no_grad()
    def merge_(self) -> None:
        W = self.base.weight
        wide = torch.promote_types(W.dtype, torch.float32)
        dW = self.scaling * (self.lora_B.to(wide) @ self.lora_A.to(wide))
        W.copy_(W.to(wide) + dW)
        self.lora_A.zero_()
        self.lora_B.zero_()


def _matching(name: str, module: nn.Module, targets: Sequence[str]) -> set[str]:
    if not isinstance(module, nn.Linear):
        return set()
    return {t for t in targets if name == t or name.endswith("." + t)}


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    bases = {id(m.base) for m in model.modules() if isinstance(m, LoRALinear)}

    names: list[str] = []
    matched: set[str] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        if id(module) in bases:
            continue
        targets = _matching(name, module, target_modules)
        if not targets:
            continue
        names.append(name)
        matched |= targets

    for target in target_modules:
        if target in matched:
            continue
        raise ValueError(f"target_modules: {target!r} has to match an unwrapped nn.Linear")

    replaced: dict[int, LoRALinear] = {}
    for name in names:
        linear = model.get_submodule(name)
        parent = model.get_submodule(name.rpartition(".")[0])
        child = name.rpartition(".")[2]
        if id(linear) in replaced:
            setattr(parent, child, replaced[id(linear)])
            continue
        if not isinstance(linear, nn.Linear):  # cannot be: it was one a moment ago
            continue
        replaced[id(linear)] = LoRALinear(linear, r, alpha, dropout)
        setattr(parent, child, replaced[id(linear)])

    spared: set[int] = set()
    for module in model.modules():
        if not isinstance(module, LoRALinear):
            continue
        spared.add(id(module.lora_A))
        spared.add(id(module.lora_B))
    for param in model.parameters():
        if id(param) in spared:
            continue
        param.requires_grad_(False)
    return names


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if not isinstance(module, LoRALinear):
            continue
        before = name + "." if name else name
        state[before + "lora_A"] = module.lora_A.detach().clone()
        state[before + "lora_B"] = module.lora_B.detach().clone()
    return state


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = lora_state_dict(model)
    if own.keys() != state.keys():
        missing = sorted(own.keys() - state.keys())
        unexpected = sorted(state.keys() - own.keys())
        raise KeyError(f"state: misses {missing}, and these are unexpected: {unexpected}")

    for name, value in state.items():
        if value.shape != own[name].shape:
            shapes = f"{tuple(own[name].shape)}, not {tuple(value.shape)}"
            raise ValueError(f"{name}: the shape has to be {shapes}")
        if not value.to(own[name].dtype).isfinite().all():
            raise ValueError(f"{name}: all values have to be finite")

    params = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in state.items():
            params[name].copy_(value)
