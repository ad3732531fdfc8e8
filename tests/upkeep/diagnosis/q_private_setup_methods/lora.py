"""LoRA from scratch. Each stage of the constructor is a private method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

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
        self._validate(base, r, dropout)
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self._allocate()
        self._reset()
        self._setup_dropout(dropout)
        if freeze_base:
            self._freeze()

    @staticmethod
    def _validate(base: object, r: int, dropout: float) -> None:
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base should be nn.Linear but is {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r should be at least 1 but is {r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout should be in [0, 1) but is {dropout}")

    def _allocate(self) -> None:
        w = self.base.weight
        rows, cols = w.shape
        self.lora_A = nn.Parameter(torch.empty(self.r, cols, dtype=w.dtype, device=w.device))
        self.lora_B = nn.Parameter(torch.empty(rows, self.r, dtype=w.dtype, device=w.device))

    def _reset(self) -> None:
        # the update has to be zero before the first step
        nn.init.zeros_(self.lora_A)
        nn.init.zeros_(self.lora_B)

    def _setup_dropout(self, p: float) -> None:
        self._p = p
        self.training = self.base.training

    def _freeze(self) -> None:
        for p in self.base.parameters():
            p.requires_grad = False

    def _branch(self, x: Tensor) -> Tensor:
        z = F.dropout(x, p=self._p, training=self.training)
        z = F.linear(z, self.lora_A)
        z = F.linear(z, self.lora_B)
        return z * self.scaling

    def _delta(self, dtype: torch.dtype) -> Tensor:
        return self.scaling * torch.matmul(self.lora_B.to(dtype), self.lora_A.to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self._branch(x)

    @torch.no_grad()
    def merge_(self) -> None:
        weight = self.base.weight
        dtype = weight.dtype
        if dtype in (torch.bfloat16, torch.float16):
            dtype = torch.float32
        weight.copy_((weight.to(dtype) + self._delta(dtype)).to(weight.dtype))
        self.lora_A.zero_()
        self.lora_B.zero_()


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith("." + target)


def _collect(model: nn.Module, targets: Sequence[str]) -> dict[str, nn.Linear]:
    occupied = set()
    for module in model.modules():
        if isinstance(module, LoRALinear):
            occupied.add(module.base)
    result = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear) and module not in occupied:
            if any(_matches(name, t) for t in targets):
                result[name] = module
    return result


def _replace(model: nn.Module, name: str, new: nn.Module) -> None:
    *path, leaf = name.split(".")
    parent = model
    for part in path:
        parent = getattr(parent, part)
    setattr(parent, leaf, new)


def _freeze_all_but_adapters(model: nn.Module) -> None:
    spared = set()
    for module in model.modules():
        if isinstance(module, LoRALinear):
            spared |= {module.lora_A, module.lora_B}
    for p in model.parameters():
        if p not in spared:
            p.requires_grad = False


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    found = _collect(model, target_modules)
    for target in target_modules:
        if not any(_matches(name, target) for name in found):
            raise ValueError(f"target_modules: {target} matches no linear that can be wrapped")
    adapters: dict[nn.Linear, LoRALinear] = {}
    for linear in found.values():
        if linear not in adapters:
            adapters[linear] = LoRALinear(linear, r=r, alpha=alpha, dropout=dropout)
    for name, linear in found.items():
        _replace(model, name, adapters[linear])
    _freeze_all_but_adapters(model)
    return sorted(found)


def _lora_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    out = {}
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            prefix = f"{name}." if name != "" else ""
            out[prefix + "lora_A"] = module.lora_A
            out[prefix + "lora_B"] = module.lora_B
    return out


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    out = {}
    for name, p in _lora_parameters(model).items():
        out[name] = p.detach().clone()
    return out


def _check(params: Mapping[str, nn.Parameter], state: Mapping[str, Tensor]) -> None:
    missing = params.keys() - state.keys()
    unexpected = state.keys() - params.keys()
    if missing or unexpected:
        raise KeyError(f"state: missing {sorted(missing)}, unexpected {sorted(unexpected)}")
    for name, p in params.items():
        if state[name].shape != p.shape:
            raise ValueError(
                f"{name}: shape is {tuple(state[name].shape)}, should be {tuple(p.shape)}"
            )
        if not state[name].to(p.dtype).isfinite().all():
            raise ValueError(f"{name}: a value is NaN or infinite")


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    params = _lora_parameters(model)
    _check(params, state)
    with torch.no_grad():
        for name, p in params.items():
            p.copy_(state[name])
