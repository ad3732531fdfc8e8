"""Adapters on real models: Conv1D, parametrize, unwrapping, PEFT's folder, several at once.

Source: Hu et al. 2021, arXiv:2106.09685 §4.1; many adapters in a batch, arXiv:2311.03285 §5.
The contract is BLUEPRINT-04.md beside this file. Leaves out: rsLoRA, DoRA, embeddings, quantised
bases, a kernel for mixed batches.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minituner import adapters
from minituner.adapters import Adapter, Base, adapters_of
from minituner.folders import Folder, read_folder, write_folder
from minituner.gpt2 import Conv1D, is_conv1d
from minituner.settings import PREFIX, Files, Pairs, Settings, from_files, to_files
from minituner.shelf import Held, Names, Shelf


class LoRAConv1D(Adapter):
    """A frozen Conv1D with a trainable low-rank branch: y = x W + b + scaling · x Aᵀ Bᵀ."""

    base: Conv1D
    dropout: nn.Dropout  # of the branch's input, while training

    def __init__(
        self, base: nn.Module, r: int = 8, alpha: float = 16.0, dropout: float = 0.0
    ) -> None:
        """TypeError: base is not a Conv1D. ValueError: r < 1, or dropout outside [0, 1)."""
        super().__init__()
        # BEGIN SOLUTION A1
        if not is_conv1d(base):
            raise TypeError(f"base: expected a Conv1D, got {type(base).__name__}")
        adapters.check_rank(r, dropout)
        self.base, self.r, self.alpha, self.scaling = base, r, alpha, alpha / r
        self.lora_A, self.lora_B = adapters.factors(base, r)
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)
        base.requires_grad_(False)
        # END SOLUTION

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        # BEGIN SOLUTION A2
        out: Tensor = self.base(x)
        return out + self.scaling * F.linear(F.linear(self.dropout(x), self.lora_A), self.lora_B)
        # END SOLUTION

    def merge_(self) -> None:
        """Fold the update into base.weight, then zero A and B; a second call changes nothing."""
        # BEGIN SOLUTION A3
        weight = self.base.weight
        with torch.no_grad():
            wide = torch.promote_types(weight.dtype, torch.float32)  # rounded once, at the end
            update = self.scaling * (self.lora_B.to(wide) @ self.lora_A.to(wide))
            weight.copy_(weight.to(wide) + update.T)
            self.lora_A.zero_()
            self.lora_B.zero_()
        # END SOLUTION


def wrap_gpt2_with_lora(
    model: nn.Module, targets: Sequence[str], r: int = 8, alpha: float = 16.0, dropout: float = 0.0
) -> list[str]:
    """Replace the targeted Conv1Ds by LoRAConv1D, in place; freeze all else; return their names.

    ValueError when a target, or none, matches a Conv1D still to be wrapped; nothing is changed.
    """
    # BEGIN SOLUTION A4
    found, missed = adapters.targets_in(model, targets, is_conv1d)
    if missed or not found:
        raise ValueError(f"targets: expected each to match a Conv1D not yet wrapped, got {missed}")
    wrapped = {base: LoRAConv1D(base, r, alpha, dropout) for base in dict.fromkeys(found.values())}
    for name, base in found.items():
        adapters.place(model, name, wrapped[base])
    adapters.freeze_all_but_adapters(model)
    return list(found)
    # END SOLUTION


class LoRAParametrization(nn.Module):
    """W ↦ W + scaling · B A, each time a layer's weight is read; transposed for a Conv1D."""

    scaling: float  # alpha / r
    transposed: bool  # the weight is (in_features, out_features)
    lora_A: nn.Parameter  # (r, in_features), the weight's dtype and device
    lora_B: nn.Parameter  # (out_features, r), the same

    def __init__(self, layer: Base, r: int = 8, alpha: float = 16.0) -> None:
        """It freezes layer, and is then registered on layer.weight. ValueError: r < 1."""
        super().__init__()
        # BEGIN SOLUTION B1
        adapters.check_rank(r)
        self.scaling, self.transposed = alpha / r, is_conv1d(layer)
        self.lora_A, self.lora_B = adapters.factors(layer, r)
        layer.requires_grad_(False)
        # END SOLUTION

    def forward(self, weight: Tensor) -> Tensor:
        """The adapted weight, of the same shape."""
        # BEGIN SOLUTION B2
        update = self.scaling * (self.lora_B @ self.lora_A)
        return weight + (update.T if self.transposed else update)
        # END SOLUTION


def unwrap_merged(model: nn.Module) -> list[str]:
    """Merge every adapter, put its base back in its place, and return the names.

    ValueError: no adapter, or a base's weight is another module's, too (a tied head); as it was.
    """
    # BEGIN SOLUTION C1
    found = adapters_of(model)
    owned = [id(param) for m in model.modules() for param in m.parameters(recurse=False)]
    tied = [name for name, adapter in found.items() if owned.count(id(adapter.base.weight)) > 1]
    if tied or not found:
        raise ValueError(f"model: expected adapters whose weights no other has, got tied {tied}")
    for name, adapter in found.items():
        adapter.merge_()
        adapters.place(model, name, adapter.base)
    return list(found)
    # END SOLUTION


def adapter_files(model: nn.Module, base_name: str | None = None) -> dict[str, bytes]:
    """CONFIG and WEIGHTS of model's adapters, as PEFT reads them; the targets are full names.

    ValueError when there are none, or when one CONFIG cannot tell all: r, alpha, alpha / r.
    """
    # BEGIN SOLUTION D1
    found = adapters_of(model)
    kinds = {(a.r, a.alpha, a.scaling, is_conv1d(a.base)) for a in found.values()}
    if len(kinds) != 1 or any(scaling != alpha / r for r, alpha, scaling, _ in kinds):
        raise ValueError(f"model: expected one (r, alpha, alpha / r) for all, got {kinds}")
    r, alpha, _, flipped = kinds.pop()
    tensors = {
        f"{PREFIX}{name}.{part}.weight": value.detach().clone()
        for name, adapter in found.items()
        for part, value in zip(("lora_A", "lora_B"), (adapter.lora_A, adapter.lora_B), strict=True)
    }
    return to_files(Settings(r, alpha, tuple(sorted(found)), flipped), tensors, base_name)
    # END SOLUTION


def read_adapter(files: Files) -> tuple[Settings, Pairs]:
    """An adapter from its two files; ValueError unless all that they say fits together."""
    # BEGIN SOLUTION D2
    settings, tensors = from_files(files)
    pairs: Pairs = {}
    for key in [k for k in tensors if k.startswith(PREFIX) and k.endswith(".lora_A.weight")]:
        a, b = tensors.pop(key), tensors.pop(key[: -len("A.weight")] + "B.weight", torch.empty(0))
        if not (a.ndim == b.ndim == 2 and len(a) == b.shape[1] == settings.r):
            raise ValueError(f"{key}: expected rank {settings.r}, got {a.shape} and {b.shape}")
        if not (a.isfinite().all() and b.isfinite().all()):
            raise ValueError(f"{key}: expected finite values, got NaN or infinity, or its B has")
        pairs[key.removeprefix(PREFIX).removesuffix(".lora_A.weight")] = a, b
    loose = adapters.unmatched(pairs, settings.targets)
    if loose or tensors or not pairs:
        raise ValueError(f"files: expected A and B for each target, got {[*loose, *tensors]} alone")
    return settings, pairs
    # END SOLUTION


def fill(model: nn.Module, files: Files) -> None:
    """Copy an adapter into the Parameters of model's adapters; ValueError first, if unlike them."""
    # BEGIN SOLUTION D3
    settings, pairs = read_adapter(files)
    own = adapters_of(model)
    if own.keys() != pairs.keys():
        raise ValueError(f"files: expected {sorted(own)}, got {sorted(pairs)}; other targets?")
    for name, adapter in own.items():
        kind = (adapter.r, adapter.alpha, adapter.scaling)
        if kind != (settings.r, settings.alpha, settings.alpha / settings.r):
            raise ValueError(f"{name}: expected (r, alpha, scaling) = {kind}, got {settings}")
        for param, value in zip((adapter.lora_A, adapter.lora_B), pairs[name], strict=True):
            if value.shape != param.shape or not value.to(param.dtype).isfinite().all():
                raise ValueError(f"{name}: expected finite {[*param.shape]}, got {[*value.shape]}")
    with torch.no_grad():
        for name, adapter in own.items():
            adapter.lora_A.copy_(pairs[name][0])
            adapter.lora_B.copy_(pairs[name][1])
    # END SOLUTION


def save_adapter(model: nn.Module, folder: Folder, base_name: str | None = None) -> None:
    """Write model's adapters into folder, whole or not at all; nothing of the base."""
    write_folder(folder, adapter_files(model, base_name))


def load_adapter(model: nn.Module, folder: Folder) -> None:
    """Fill model's adapters from folder; ValueError, and model as it was, if they do not fit."""
    fill(model, read_folder(folder))


def adapted(shelf: Shelf, name: str, x: Tensor, out: Tensor) -> Tensor:
    """out, plus each row's update by its adapter (axis 0); ValueError if chosen has other rows."""
    # BEGIN SOLUTION E1
    chosen = shelf.chosen if isinstance(shelf.chosen, list) else [shelf.chosen] * len(x)
    if len(chosen) != len(x):
        raise ValueError(f"chosen: expected one for each of {len(x)} rows, got {len(chosen)}")
    for adapter, held in shelf.held.items():
        rows = [row for row, wanted in enumerate(chosen) if wanted == adapter]
        if rows and name in held.pairs:
            index, (a, b) = torch.tensor(rows, device=x.device), held.pairs[name]
            out = out.index_add(0, index, held.scaling * F.linear(F.linear(x[index], a), b))
    return out
    # END SOLUTION


def attach(shelf: Shelf, name: str, files: Files) -> None:
    """Put an adapter on the shelf; ValueError if name is taken or it does not fit shelf.model."""
    # BEGIN SOLUTION E2
    settings, pairs = read_adapter(files)
    if name in shelf.held:
        raise ValueError(f"name: expected a new one, got {name!r}; detach the old one first")
    for path, (a, b) in pairs.items():
        base = shelf.bases.get(path)
        if base is None or adapters.sizes(base) != (a.shape[1], b.shape[0]):
            raise ValueError(f"{path}: expected a base of these sizes, got {base}")
        pairs[path] = a.to(base.weight), b.to(base.weight)  # its dtype, its device
    shelf.held[name] = Held(settings.alpha / settings.r, pairs)
    # END SOLUTION


def switch(shelf: Shelf, names: Names) -> None:
    """Choose one adapter, none, or one for each row; ValueError if one is not on the shelf."""
    # BEGIN SOLUTION E3
    asked = list(names) if isinstance(names, list) else [names]
    unknown = {name for name in asked if name is not None} - shelf.held.keys()
    if unknown:
        raise ValueError(f"names: expected some of {sorted(shelf.held)}, got {sorted(unknown)}")
    shelf.chosen = asked if isinstance(names, list) else names
    # END SOLUTION


def detach(shelf: Shelf, name: str) -> None:
    """Take an adapter off the shelf; whoever had it has none now. ValueError if it is not there."""
    # BEGIN SOLUTION E4
    if name not in shelf.held:
        raise ValueError(f"name: expected one of {sorted(shelf.held)}, got {name!r}")
    del shelf.held[name]
    rows = shelf.chosen if isinstance(shelf.chosen, list) else [shelf.chosen]
    left = [None if row == name else row for row in rows]
    shelf.chosen = left if isinstance(shelf.chosen, list) else left[0]
    # END SOLUTION
