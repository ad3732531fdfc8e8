"""match wherever there is a case to tell; NamedTuples for the parts; recursion over the children."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minituner import adapters
from minituner.adapters import Adapter, Base, adapters_of, is_adapter
from minituner.folders import Folder, read_folder, write_folder
from minituner.gpt2 import Conv1D, is_conv1d
from minituner.settings import PREFIX, Files, Pairs, Settings, from_files, to_files
from minituner.shelf import Held, Names, Shelf


class Spot(NamedTuple):
    """A Conv1D, and every name it has."""

    conv1d: Conv1D
    names: list[str]


class Factors(NamedTuple):
    """What is learned of one module."""

    A: Tensor
    B: Tensor


class Kind(NamedTuple):
    """What one CONFIG says of all adapters."""

    r: int
    alpha: float
    scaling: float
    conv1d: bool


def walk(module: nn.Module, path: tuple[str, ...] = ()) -> Iterator[tuple[str, nn.Module]]:
    """Modules under all of their names, but nothing inside an adapter."""
    yield ".".join(path), module
    match module:
        case _ if is_adapter(module):
            return
        case _:
            for child, below in module._modules.items():
                if below is not None:
                    yield from walk(below, (*path, child))


def key_of(name: str, part: str) -> str:
    return f"{PREFIX}{name}.lora_{part}.weight"


def rows_of(names: Names, count: int) -> list[str | None]:
    match names:
        case list():
            return names
        case _:
            return [names for _ in range(count)]


class LoRAConv1D(Adapter):
    """A frozen Conv1D with a trainable low-rank branch: y = x W + b + scaling · x Aᵀ Bᵀ."""

    base: Conv1D
    dropout: nn.Dropout  # of the branch's input, while training

    def __init__(
        self, base: nn.Module, r: int = 8, alpha: float = 16.0, dropout: float = 0.0
    ) -> None:
        """TypeError: base is not a Conv1D. ValueError: r < 1, or dropout outside [0, 1)."""
        super().__init__()
        match base:
            case _ if is_conv1d(base):
                adapters.check_rank(r, dropout)
                self.base = base.requires_grad_(False)
            case other:
                raise TypeError(f"base: expected a Conv1D, got {type(other).__name__}")
        self.r, self.alpha, self.scaling = r, alpha, alpha / r
        self.lora_A, self.lora_B = adapters.factors(self.base, r)
        self.dropout = nn.Dropout(dropout)
        self.train(mode=self.base.training)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        base: Tensor = self.base(x)
        match self.training, self.dropout.p:
            case True, p if p > 0:
                x = F.dropout(x, p, training=True)
            case _:
                pass
        return base.add((x @ self.lora_A.mT) @ self.lora_B.mT, alpha=self.scaling)

    def merge_(self) -> None:
        """Fold the update into base.weight, then zero A and B; a second call changes nothing."""
        match self.base.weight.dtype:
            case torch.float64:
                wide = torch.float64
            case _:
                wide = torch.float32
        with torch.no_grad():
            a, b = self.lora_A.to(wide), self.lora_B.to(wide)
            total = self.base.weight.to(wide) + self.scaling * (a.mT @ b.mT)
            self.base.weight.copy_(total)
            for factor in (self.lora_A, self.lora_B):
                factor.fill_(0)


def wrap_gpt2_with_lora(
    model: nn.Module, targets: Sequence[str], r: int = 8, alpha: float = 16.0, dropout: float = 0.0
) -> list[str]:
    """Replace the targeted Conv1Ds by LoRAConv1D, in place; freeze all else; return their names.

    ValueError when a target, or none, matches a Conv1D still to be wrapped; nothing is changed.
    """
    spots: dict[int, Spot] = {}
    names = []
    for name, module in walk(model):
        if is_conv1d(module) and any(adapters.matches(name, target) for target in targets):
            names.append(name)
            spots.setdefault(id(module), Spot(module, [])).names.append(name)
    match [t for t in targets if not any(adapters.matches(name, t) for name in names)], names:
        case [], [_, *_]:
            pass
        case missed, _:
            raise ValueError(f"targets: expected Conv1Ds for all, got none for {missed}")
    for spot in spots.values():
        layer = LoRAConv1D(spot.conv1d, r, alpha, dropout)
        for name in spot.names:
            adapters.place(model, name, layer)
    adapters.freeze_all_but_adapters(model)
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
        adapters.check_rank(r)
        self.lora_A, self.lora_B = adapters.factors(layer, r)
        match layer:
            case nn.Linear():
                self.transposed = False
            case _:
                self.transposed = True
        self.scaling = alpha / r
        layer.requires_grad_(False)

    def forward(self, weight: Tensor) -> Tensor:
        """The adapted weight, of the same shape."""
        match self.transposed:
            case True:
                return torch.addmm(weight, self.lora_A.mT, self.lora_B.mT, alpha=self.scaling)
            case False:
                return torch.addmm(weight, self.lora_B, self.lora_A, alpha=self.scaling)


def unwrap_merged(model: nn.Module) -> list[str]:
    """Merge every adapter, put its base back in its place, and return the names.

    ValueError: no adapter, or a base's weight is another module's, too (a tied head); as it was.
    """
    found = [(name, layer) for name, layer in walk(model) if is_adapter(layer)]
    held = [id(p) for module in model.modules() for p in module._parameters.values()]
    match [name for name, layer in found if held.count(id(layer.base.weight)) > 1], found:
        case [], []:
            raise ValueError("model: expected adapters, got none")
        case [], _:
            pass
        case tied, _:
            raise ValueError(f"model: expected a weight of its own for each, got tied {tied}")
    for name, layer in found:
        layer.merge_()
        adapters.place(model, name, layer.base)
    return [name for name, _ in found]


def adapter_files(model: nn.Module, base_name: str | None = None) -> dict[str, bytes]:
    """CONFIG and WEIGHTS of model's adapters, as PEFT reads them; the targets are full names.

    ValueError when there are none, or when one CONFIG cannot tell all: r, alpha, alpha / r.
    """
    found = adapters_of(model)
    match [*{Kind(a.r, a.alpha, a.scaling, is_conv1d(a.base)) for a in found.values()}]:
        case []:
            raise ValueError("model: expected adapters, got none")
        case [Kind(r, alpha, scaling, conv1d)] if scaling == alpha / r:
            parts = [(n, *p) for n, a in found.items() for p in (("A", a.lora_A), ("B", a.lora_B))]
            tensors = {key_of(n, part): value.detach().clone() for n, part, value in parts}
            return to_files(Settings(r, alpha, tuple(found), conv1d), tensors, base_name)
        case kinds:
            raise ValueError(f"model: expected one (r, alpha, alpha / r) and layout, got {kinds}")


def read_adapter(files: Files) -> tuple[Settings, Pairs]:
    """An adapter from its two files; ValueError unless all that they say fits together."""
    settings, tensors = from_files(files)
    pairs: Pairs = {}
    for key in sorted(tensors):
        match key.removeprefix(PREFIX).rsplit(".", 2):
            case [name, "lora_A", "weight"] if key.startswith(PREFIX):
                pair = tensors[key], tensors.get(key_of(name, "B"))
            case [name, "lora_B", "weight"] if key_of(name, "A") in tensors:
                continue
            case _:
                raise ValueError(f"{key}: expected the A or the B of a module")
        match pair:
            case (a, Tensor() as b) if (a.ndim, b.ndim) == (2, 2):
                pairs[name] = Factors(a, b)
            case _:
                raise ValueError(f"{name}: expected two matrices")
        if {a.shape[0], b.shape[1]} != {settings.r}:
            raise ValueError(f"{name}: expected rank {settings.r}, got {a.shape}, {b.shape}")
        if not torch.cat([a.flatten(), b.flatten()]).isfinite().all():
            raise ValueError(f"{name}: expected finite values")
    match adapters.unmatched(pairs, settings.targets), len(pairs):
        case [], count if count > 0:
            return settings, pairs
        case loose, _:
            raise ValueError(f"files: expected targets and tensors to fit, got {loose} alone")


def fill(model: nn.Module, files: Files) -> None:
    """Copy an adapter into the Parameters of model's adapters; ValueError first, if unlike them."""
    settings, pairs = read_adapter(files)
    own = adapters_of(model)
    want = Kind(settings.r, settings.alpha, settings.alpha / settings.r, conv1d=False)
    match sorted(own), sorted(pairs):
        case mine, theirs if mine != theirs:
            raise ValueError(f"files: expected {mine}, got {theirs}")
    for name, layer in own.items():
        match Kind(layer.r, layer.alpha, layer.scaling, conv1d=False):
            case kind if kind != want:
                raise ValueError(f"{name}: expected {kind}, got {want}")
        for param, value in zip((layer.lora_A, layer.lora_B), pairs[name], strict=True):
            match param.shape == value.shape, bool(value.to(param.dtype).isfinite().all()):
                case True, True:
                    pass
                case False, _:
                    raise ValueError(f"{name}: expected {param.shape}, got {value.shape}")
                case _:
                    raise ValueError(f"{name}: expected values that {param.dtype} can hold")
    for name, layer in own.items():
        with torch.no_grad():
            layer.lora_A.copy_(pairs[name][0])
            layer.lora_B.copy_(pairs[name][1])


def save_adapter(model: nn.Module, folder: Folder, base_name: str | None = None) -> None:
    """Write model's adapters into folder, whole or not at all; nothing of the base."""
    write_folder(folder, adapter_files(model, base_name))


def load_adapter(model: nn.Module, folder: Folder) -> None:
    """Fill model's adapters from folder; ValueError, and model as it was, if they do not fit."""
    fill(model, read_folder(folder))


def adapted(shelf: Shelf, name: str, x: Tensor, out: Tensor) -> Tensor:
    """out, plus each row's update by its adapter (axis 0); ValueError if chosen has other rows."""
    rows = rows_of(shelf.chosen, len(x))
    match len(rows) - len(x):
        case 0:
            groups: dict[str, list[int]] = {}
        case apart:
            raise ValueError(f"chosen: expected {len(x)} names, got {apart:+} more")
    for row, wanted in enumerate(rows):
        match wanted:
            case str() if name in shelf.held[wanted].pairs:
                groups.setdefault(wanted, []).append(row)
            case _:
                pass
    for wanted, group in groups.items():
        held = shelf.held[wanted]
        a, b = held.pairs[name]
        update = torch.zeros_like(out)
        update[group] = held.scaling * (x[group] @ a.mT @ b.mT)
        out = out + update
    return out


def attach(shelf: Shelf, name: str, files: Files) -> None:
    """Put an adapter on the shelf; ValueError if name is taken or it does not fit shelf.model."""
    settings, pairs = read_adapter(files)
    match name in shelf.held:
        case True:
            raise ValueError(f"name: {name!r} is taken")
    ready: Pairs = {}
    for path, (a, b) in pairs.items():
        match shelf.bases.get(path):
            case None:
                raise ValueError(f"{path}: the model has no such module")
            case base if adapters.sizes(base) == (a.shape[1], b.shape[0]):
                ready[path] = a.type_as(base.weight), b.type_as(base.weight)
            case base:
                raise ValueError(f"{path}: expected {adapters.sizes(base)}")
    shelf.held |= {name: Held(settings.alpha / settings.r, ready)}


def switch(shelf: Shelf, names: Names) -> None:
    """Choose one adapter, none, or one for each row; ValueError if one is not on the shelf."""
    match names:
        case None:
            shelf.chosen = None
        case list():
            for name in names:
                match name:
                    case str() if name not in shelf.held:
                        raise ValueError(f"names: {name!r} is not on the shelf")
            shelf.chosen = list(names)
        case name if name in shelf.held:
            shelf.chosen = name
        case name:
            raise ValueError(f"names: {name!r} is not on the shelf")


def detach(shelf: Shelf, name: str) -> None:
    """Take an adapter off the shelf; whoever had it has none now. ValueError if it is not there."""
    match shelf.held.pop(name, None), shelf.chosen:
        case None, _:
            raise ValueError(f"name: {name!r} is not on the shelf")
        case _, list(rows):
            shelf.chosen = [None if row == name else row for row in rows]
        case _, only if only == name:
            shelf.chosen = None
