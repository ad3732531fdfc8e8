"""LoRALinear built in stages; each stage is a method of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import Parameter

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
        self._store(base, r, alpha)
        self._allocate()
        self._initialise()
        self._setup_dropout(dropout)
        self._setup_gradients(freeze_base)

    @staticmethod
    def _validate(base: object, r: int, dropout: float) -> None:
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base needs to be an nn.Linear, and this is a {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r needs to be at least 1, and this is {r}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout needs to be in [0, 1), and this is {dropout}")

    def _store(self, base: nn.Linear, r: int, alpha: float) -> None:
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r

    def _allocate(self) -> None:
        reference = self.base.weight
        self.lora_A = Parameter(reference.new_empty(self.r, self.base.in_features))
        self.lora_B = Parameter(reference.new_empty(self.base.out_features, self.r))

    def _initialise(self) -> None:
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5), mode="fan_out")
        nn.init.zeros_(self.lora_B)

    def _setup_dropout(self, dropout: float) -> None:
        self.dropout = nn.Dropout(dropout)
        self.train(self.base.training)

    def _setup_gradients(self, freeze_base: bool) -> None:
        if freeze_base:
            self.base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self._frozen(x) + self._adapted(x)

    def _frozen(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        return out

    def _adapted(self, x: Tensor) -> Tensor:
        h: Tensor = self.dropout(x)
        h = nn.functional.linear(h, self.lora_A)
        h = nn.functional.linear(h, self.lora_B)
        return h * self.scaling

    def merge_(self) -> None:
        with torch.no_grad():
            self._fold()
            self._clear()

    def _fold(self) -> None:
        W = self.base.weight
        wide = torch.promote_types(W.dtype, torch.float32)
        update = self.lora_B.to(wide).matmul(self.lora_A.to(wide)).mul(self.scaling)
        W.copy_(update.add(W.to(wide)))

    def _clear(self) -> None:
        self.lora_A.zero_()
        self.lora_B.zero_()

    def _items(self, path: str) -> list[tuple[str, Parameter]]:
        """The two factors, with their names below path."""
        dot = "." if path else ""
        return [(path + dot + "lora_A", self.lora_A), (path + dot + "lora_B", self.lora_B)]


class _Wrapper:
    """One run of wrap_minigpt_with_lora."""

    def __init__(self, model: nn.Module, targets: Sequence[str]) -> None:
        self._model = model
        self._targets = targets
        self._found: dict[str, nn.Linear] = {}

    def _is_base(self, module: nn.Module) -> bool:
        return any(isinstance(m, LoRALinear) and m.base is module for m in self._model.modules())

    def _find(self) -> None:
        open_targets = set(self._targets)
        for name, module in self._model.named_modules(remove_duplicate=False):
            hits = [t for t in self._targets if name == t or name.endswith("." + t)]
            if hits and isinstance(module, nn.Linear) and not self._is_base(module):
                self._found[name] = module
                open_targets.difference_update(hits)
        if open_targets:
            raise ValueError(f"target_modules needs linears to wrap; {open_targets} have none")

    def _replace(self, r: int, alpha: float, dropout: float) -> None:
        layers: dict[int, LoRALinear] = {}
        for name, linear in self._found.items():
            if id(linear) not in layers:
                layers[id(linear)] = LoRALinear(linear, r, alpha, dropout)
            parent, _, child = name.rpartition(".")
            setattr(self._model.get_submodule(parent), child, layers[id(linear)])

    def _freeze(self) -> None:
        kept = [id(p) for _, p in _adapter_items(self._model)]
        for p in self._model.parameters():
            if id(p) not in kept:
                p.requires_grad_(False)

    def run(self, r: int, alpha: float, dropout: float) -> list[str]:
        self._find()
        self._replace(r, alpha, dropout)
        self._freeze()
        return list(self._found)


def _adapter_items(model: nn.Module) -> list[tuple[str, Parameter]]:
    items: list[tuple[str, Parameter]] = []
    for path, module in model.named_modules():
        if isinstance(module, LoRALinear):
            items.extend(module._items(path))
    return items


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    return _Wrapper(model, target_modules).run(r, alpha, dropout)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in _adapter_items(model)}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    items = _adapter_items(model)
    names = {name for name, _ in items}
    missing, unexpected = sorted(names - set(state)), sorted(set(state) - names)
    if missing or unexpected:
        raise KeyError(f"state: missing {missing}, unexpected {unexpected}")
    for name, p in items:
        if state[name].shape != p.shape:
            raise ValueError(
                f"{name} needs shape {tuple(p.shape)}, and this is {tuple(state[name].shape)}"
            )
        if not state[name].to(p.dtype).isfinite().all():
            raise ValueError(f"{name} needs finite values, and this has NaN or infinity")
    with torch.no_grad():
        for name, p in items:
            p.copy_(state[name])
