"""einsum for every product; rows are told by a mask, and each adapter is computed for all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from minituner.adapters import (
    Adapter,
    Base,
    adapters_of,
    check_rank,
    freeze_all_but_adapters,
    matches,
    place,
    sizes,
)
from minituner.folders import Folder, read_folder, write_folder
from minituner.gpt2 import Conv1D, is_conv1d
from minituner.settings import PREFIX, Files, Pairs, Settings, from_files, to_files
from minituner.shelf import Held, Names, Shelf


def product(a: Tensor, b: Tensor, conv1d: bool) -> Tensor:
    """B A, laid out as the base's weight."""
    return torch.einsum("ri,or->io" if conv1d else "ri,or->oi", a, b)


def branch(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.einsum("...i,ri,or->...o", x, a, b)


def new_factors(base: Base, r: int) -> tuple[nn.Parameter, nn.Parameter]:
    columns, rows = sizes(base)
    bound = 1 / math.sqrt(columns)
    down = torch.empty(r, columns, dtype=base.weight.dtype, device=base.weight.device)
    up = torch.zeros(rows, r, dtype=base.weight.dtype, device=base.weight.device)
    return nn.Parameter(down.uniform_(-bound, bound)), nn.Parameter(up)


class LoRAConv1D(Adapter):
    """A frozen Conv1D with a trainable low-rank branch: y = x W + b + scaling · x Aᵀ Bᵀ."""

    base: Conv1D
    dropout: nn.Dropout  # of the branch's input, while training

    def __init__(
        self, base: nn.Module, r: int = 8, alpha: float = 16.0, dropout: float = 0.0
    ) -> None:
        """TypeError: base is not a Conv1D. ValueError: r < 1, or dropout outside [0, 1)."""
        super().__init__()
        if not is_conv1d(base):
            raise TypeError(f"base: expected a Conv1D, got {type(base).__name__}")
        check_rank(r, dropout)
        base.weight.requires_grad = base.bias.requires_grad = False
        self.base, self.r, self.alpha, self.scaling = base, r, alpha, alpha / r
        self.dropout = nn.Dropout(dropout)
        self.lora_A, self.lora_B = new_factors(base, r)
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        out: Tensor = self.base(x) + self.scaling * branch(self.dropout(x), self.lora_A, self.lora_B)
        return out

    def merge_(self) -> None:
        """Fold the update into base.weight, then zero A and B; a second call changes nothing."""
        with torch.no_grad():
            low = self.base.weight.dtype
            high = torch.float64 if low == torch.float64 else torch.float32
            update = product(self.lora_A.to(high), self.lora_B.to(high), conv1d=True)
            self.base.weight[:] = torch.add(self.base.weight.to(high), update, alpha=self.scaling).to(low)
            self.lora_A[:] = 0
            self.lora_B[:] = 0


def wrap_gpt2_with_lora(
    model: nn.Module, targets: Sequence[str], r: int = 8, alpha: float = 16.0, dropout: float = 0.0
) -> list[str]:
    """Replace the targeted Conv1Ds by LoRAConv1D, in place; freeze all else; return their names.

    ValueError when a target, or none, matches a Conv1D still to be wrapped; nothing is changed.
    """
    if not targets:
        raise ValueError("targets: expected at least one, got none")
    inside = {layer.base for layer in adapters_of(model).values()}
    every = model.named_modules(remove_duplicate=False)
    found = {n: m for n, m in every if is_conv1d(m) and m not in inside}
    hits = torch.tensor([[matches(n, t) for t in targets] for n in found]).reshape(len(found), len(targets))
    missed = [t for t, hit in zip(targets, hits.any(0).tolist(), strict=True) if not hit]
    if missed:
        raise ValueError(f"targets: expected a Conv1D for each, got none for {missed}")
    new: dict[Conv1D, LoRAConv1D] = {}
    names = [n for n, hit in zip(found, hits.any(1).tolist(), strict=True) if hit]
    for name in names:
        base = found[name]
        if base not in new:
            new[base] = LoRAConv1D(base, r, alpha, dropout)
        place(model, name, new[base])
    freeze_all_but_adapters(model)
    return names


class LoRAParametrization(nn.Module):
    """W ↦ W + scaling · B A, each time a layer's weight is read; transposed for a Conv1D."""

    scaling: float  # alpha / r
    transposed: bool  # the weight is (in_features, out_features)
    lora_A: nn.Parameter  # (r, in_features), the weight's dtype and device
    lora_B: nn.Parameter  # (out_features, r), the same

    def __init__(self, layer: Base, r: int = 8, alpha: float = 16.0) -> None:
        """It freezes layer, and is then registered on layer.weight. ValueError: r < 1."""
        super().__init__()
        check_rank(r)
        self.scaling = alpha / r
        self.transposed = is_conv1d(layer)
        self.lora_A, self.lora_B = new_factors(layer, r)
        for param in layer.parameters():
            param.requires_grad = False

    def forward(self, weight: Tensor) -> Tensor:
        """The adapted weight, of the same shape."""
        return weight + self.scaling * product(self.lora_A, self.lora_B, self.transposed)


def unwrap_merged(model: nn.Module) -> list[str]:
    """Merge every adapter, put its base back in its place, and return the names.

    ValueError: no adapter, or a base's weight is another module's, too (a tied head); as it was.
    """
    found = adapters_of(model)
    holders: dict[Tensor, int] = {}
    for module in model.modules():
        for param in module.parameters(recurse=False):
            holders[param] = holders.get(param, 0) + 1
    if not found or any(holders[layer.base.weight] > 1 for layer in found.values()):
        raise ValueError(f"model: expected adapters on untied weights, got {list(found)}")
    for layer in found.values():
        layer.merge_()
    for name, layer in found.items():
        place(model, name, layer.base)
    return list(found)


def adapter_files(model: nn.Module, base_name: str | None = None) -> dict[str, bytes]:
    """CONFIG and WEIGHTS of model's adapters, as PEFT reads them; the targets are full names.

    ValueError when there are none, or when one CONFIG cannot tell all: r, alpha, alpha / r.
    """
    found = adapters_of(model)
    told = {(a.r, a.alpha, is_conv1d(a.base)) for a in found.values()}
    if len(told) != 1:
        raise ValueError(f"model: expected adapters with one r, alpha and layout, got {told}")
    if any(a.scaling != a.alpha / a.r for a in found.values()):
        raise ValueError("model: expected scaling = alpha / r")
    ((r, alpha, conv1d),) = told
    tensors: dict[str, Tensor] = {}
    for name, a in found.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = torch.einsum("ri->ri", a.lora_A.detach()).clone()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = torch.einsum("or->or", a.lora_B.detach()).clone()
    return to_files(Settings(r, alpha, tuple(found), conv1d), tensors, base_name)


def read_adapter(files: Files) -> tuple[Settings, Pairs]:
    """An adapter from its two files; ValueError unless all that they say fits together."""
    settings, tensors = from_files(files)
    ends = {".lora_A.weight": 0, ".lora_B.weight": 1}
    halves: dict[str, dict[int, Tensor]] = {}
    for key, value in tensors.items():
        which = next((i for end, i in ends.items() if key.endswith(end)), None)
        if which is None or not key.startswith(PREFIX):
            raise ValueError(f"{key}: expected the A or the B of a module")
        if value.ndim != 2 or value.shape[which] != settings.r:
            raise ValueError(f"{key}: expected rank {settings.r}, got {tuple(value.shape)}")
        if torch.isfinite(value).logical_not().any():
            raise ValueError(f"{key}: expected finite values")
        halves.setdefault(key[len(PREFIX) : -len(".lora_A.weight")], {})[which] = value
    pairs = {name: (half[0], half[1]) for name, half in halves.items() if len(half) == 2}
    if not pairs or len(pairs) < len(halves):
        raise ValueError(f"files: expected an A and a B for each of {sorted(halves)}")
    grid = torch.tensor([[matches(name, t) for t in settings.targets] for name in pairs])
    if not settings.targets or not (grid.any(0).all() and grid.any(1).all()):
        raise ValueError(f"target_modules: expected them to fit {sorted(pairs)}")
    return settings, pairs


def fill(model: nn.Module, files: Files) -> None:
    """Copy an adapter into the Parameters of model's adapters; ValueError first, if unlike them."""
    settings, pairs = read_adapter(files)
    own = adapters_of(model)
    if set(own) != set(pairs):
        raise ValueError(f"files: expected {sorted(own)}, got {sorted(pairs)}")
    jobs: list[tuple[nn.Parameter, Tensor]] = []
    for name, layer in own.items():
        if (layer.r, layer.alpha) != (settings.r, settings.alpha):
            raise ValueError(f"{name}: expected r and alpha {layer.r}, {layer.alpha}")
        if layer.scaling != layer.alpha / layer.r:
            raise ValueError(f"{name}: expected alpha / r, got scaling {layer.scaling}")
        jobs += [(layer.lora_A, pairs[name][0]), (layer.lora_B, pairs[name][1])]
    for param, value in jobs:
        if param.shape != value.shape or not value.to(param.dtype).isfinite().all():
            raise ValueError(f"files: expected finite {tuple(param.shape)}, got {tuple(value.shape)}")
    with torch.no_grad():
        for param, value in jobs:
            param[:] = value


def save_adapter(model: nn.Module, folder: Folder, base_name: str | None = None) -> None:
    """Write model's adapters into folder, whole or not at all; nothing of the base."""
    write_folder(folder, adapter_files(model, base_name))


def load_adapter(model: nn.Module, folder: Folder) -> None:
    """Fill model's adapters from folder; ValueError, and model as it was, if they do not fit."""
    fill(model, read_folder(folder))


def adapted(shelf: Shelf, name: str, x: Tensor, out: Tensor) -> Tensor:
    """out, plus each row's update by its adapter (axis 0); ValueError if chosen has other rows."""
    chosen = shelf.chosen if isinstance(shelf.chosen, list) else [shelf.chosen] * x.shape[0]
    if x.shape[0] != len(chosen):
        raise ValueError(f"chosen: expected {x.shape[0]} names, got {len(chosen)}")
    for adapter, held in shelf.held.items():
        mask = torch.tensor([name_ == adapter for name_ in chosen], device=x.device)
        if name in held.pairs and mask.any():
            update = held.scaling * branch(x, *held.pairs[name])
            out = torch.where(mask.reshape(-1, *[1] * (x.ndim - 1)), out + update, out)
    return out


def attach(shelf: Shelf, name: str, files: Files) -> None:
    """Put an adapter on the shelf; ValueError if name is taken or it does not fit shelf.model."""
    settings, pairs = read_adapter(files)
    if name in shelf.held:
        raise ValueError(f"name: expected a new one, got {name!r}")
    fitted: Pairs = {}
    for path, (a, b) in pairs.items():
        if path not in shelf.bases:
            raise ValueError(f"{path}: expected a module of the model")
        base = shelf.bases[path]
        if (a.shape[1], b.shape[0]) != sizes(base):
            raise ValueError(f"{path}: expected sizes {sizes(base)}")
        fitted[path] = (a.to(base.weight), b.to(base.weight))
    shelf.held[name] = Held(settings.alpha / settings.r, fitted)


def switch(shelf: Shelf, names: Names) -> None:
    """Choose one adapter, none, or one for each row; ValueError if one is not on the shelf."""
    for name in names if isinstance(names, list) else [names]:
        if name is not None and name not in shelf.held:
            raise ValueError(f"names: expected some of {sorted(shelf.held)}, got {name!r}")
    shelf.chosen = names[:] if isinstance(names, list) else names


def detach(shelf: Shelf, name: str) -> None:
    """Take an adapter off the shelf; whoever had it has none now. ValueError if it is not there."""
    if name not in shelf.held:
        raise KeyError(name)
    shelf.held.pop(name)
    if isinstance(shelf.chosen, list):
        shelf.chosen = [None if row == name else row for row in shelf.chosen]
    elif shelf.chosen == name:
        shelf.chosen = None
