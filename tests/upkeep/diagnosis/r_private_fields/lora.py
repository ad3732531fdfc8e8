"""LoRA that keeps its inner workings behind underscores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")
_SUFFIXES = ("lora_A", "lora_B")


class LoRALinear(nn.Module):
    base: nn.Linear
    r: int
    alpha: float
    scaling: float
    lora_A: nn.Parameter
    lora_B: nn.Parameter
    _drop: nn.Dropout
    _in: int
    _out: int

    def __init__(
        self,
        base: nn.Linear,
        r: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        freeze_base: bool = True,
    ) -> None:
        super().__init__()
        self._refuse(base, r, dropout)
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self._in, self._out = base.in_features, base.out_features
        self.lora_A = nn.Parameter(base.weight.new_empty(r, self._in))
        self.lora_B = nn.Parameter(base.weight.new_empty(self._out, r))
        self._drop = nn.Dropout(dropout)
        self._init()
        self.train(base.training)
        if freeze_base:
            self._freeze()

    @staticmethod
    def _refuse(base: nn.Module, r: int, dropout: float) -> None:
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base: nn.Linear expected, {type(base).__name__} found")
        if r < 1:
            raise ValueError(f"r: 1 or more expected, {r} found")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout: [0, 1) expected, {dropout} found")

    def _init(self) -> None:
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)

    def _freeze(self) -> None:
        for param in self.base.parameters():
            param.requires_grad_(False)

    def _branch(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.lora_A), self.lora_B).mul(self.scaling)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        return out + self._branch(self._drop(x))

    def _merged(self) -> Tensor:
        weight = self.base.weight
        delta = self.lora_B.float() @ self.lora_A.float()
        return weight.float() + self.scaling * delta

    def merge_(self) -> None:
        with torch.no_grad():
            self.base.weight.copy_(self._merged())
            self.lora_A.zero_()
            self.lora_B.zero_()


def _is_match(name: str, target: str) -> bool:
    return name == target or name.endswith("." + target)


def _own(model: nn.Module) -> dict[str, nn.Parameter]:
    return {n: p for n, p in model.named_parameters() if n.rpartition(".")[2] in _SUFFIXES}


def _adapters(model: nn.Module) -> list[LoRALinear]:
    return [m for m in model.modules() if isinstance(m, LoRALinear)]


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    _bases = {layer.base for layer in _adapters(model)}
    _found: dict[str, nn.Linear] = {}
    _used: set[str] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear) and module not in _bases:
            for target in target_modules:
                if _is_match(name, target):
                    _found[name] = module
                    _used.add(target)

    _new: dict[nn.Linear, LoRALinear] = {}
    for name, linear in _found.items():
        if linear not in _new:
            _new[linear] = LoRALinear(linear, r=r, alpha=alpha, dropout=dropout)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, _new[linear])

    _keep = {id(p) for layer in _adapters(model) for p in (layer.lora_A, layer.lora_B)}
    for param in model.parameters():
        if id(param) not in _keep:
            param.requires_grad_(False)

    _unused = sorted(set(target_modules) - _used)
    if _unused:
        raise ValueError(f"target_modules: a bare nn.Linear expected, none found for {_unused}")
    return list(_found)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {name: param.detach().clone() for name, param in _own(model).items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    _params = _own(model)
    _missing = sorted(_params.keys() - state.keys())
    _extra = sorted(state.keys() - _params.keys())
    if _missing or _extra:
        raise KeyError(f"state: missing {_missing}, unexpected {_extra}")
    for name, param in _params.items():
        if state[name].shape != param.shape:
            raise ValueError(
                f"{name}: {tuple(param.shape)} expected, {tuple(state[name].shape)} found"
            )
        if not state[name].isfinite().all():
            raise ValueError(f"{name}: finite values expected")
    with torch.no_grad():
        for name, param in _params.items():
            param.copy_(state[name])
