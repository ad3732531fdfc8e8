"""A mathematician: ΔW is one matrix, made in one place, and everything is said with it; sets where others loop."""

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


def delta(a: Tensor, b: Tensor, scaling: float, dtype: torch.dtype | None = None) -> Tensor:
    """ΔW = scaling · B A, (out, in)."""
    return scaling * (b.to(dtype or b.dtype) @ a.to(dtype or a.dtype))


def is_sound(a: Tensor, b: Tensor, r: int) -> bool:
    """A in ℝ^(r × in), B in ℝ^(out × r), all entries finite."""
    if a.shape != (r, *a.shape[1:2]) or b.shape != (*b.shape[:1], r) or a.ndim != 2:
        return False
    finite = a.isfinite().all() & b.isfinite().all()
    return bool(finite.item())


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
            raise TypeError(f"base ∉ Conv1D: {type(base).__name__}")
        adapters.check_rank(r, dropout)
        self.base, self.r, self.alpha, self.scaling = base, r, alpha, alpha / r
        self.lora_A, self.lora_B = adapters.factors(base, r)
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)
        self.requires_grad_(False)
        self.lora_A.requires_grad_(True)
        self.lora_B.requires_grad_(True)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        base: Tensor = self.base(x)
        return base + F.linear(self.dropout(x), delta(self.lora_A, self.lora_B, self.scaling))

    def merge_(self) -> None:
        """Fold the update into base.weight, then zero A and B; a second call changes nothing."""
        low = self.base.weight.dtype
        high = torch.promote_types(low, torch.float32)
        with torch.no_grad():
            step = delta(self.lora_A, self.lora_B, self.scaling, high)
            self.base.weight.data = (self.base.weight.data.to(high) + step.T).to(low)
            self.lora_A.data = torch.zeros_like(self.lora_A)
            self.lora_B.data = torch.zeros_like(self.lora_B)


def wrap_gpt2_with_lora(
    model: nn.Module, targets: Sequence[str], r: int = 8, alpha: float = 16.0, dropout: float = 0.0
) -> list[str]:
    """Replace the targeted Conv1Ds by LoRAConv1D, in place; freeze all else; return their names.

    ValueError when a target, or none, matches a Conv1D still to be wrapped; nothing is changed.
    """
    found, missed = adapters.targets_in(model, targets, is_conv1d)
    if {*missed} or not {*targets}:
        raise ValueError(f"targets ∌ Conv1D: {missed}")
    image = {base: LoRAConv1D(base, r, alpha, dropout) for base in {*found.values()}}
    for name in found:
        adapters.place(model, name, image[found[name]])
    adapters.freeze_all_but_adapters(model)
    return [name for name in found]


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
        self.scaling, self.transposed = alpha / r, is_conv1d(layer)
        layer.requires_grad_(False)

    def forward(self, weight: Tensor) -> Tensor:
        """The adapted weight, of the same shape."""
        step = delta(self.lora_A, self.lora_B, self.scaling)
        return weight + step.T if self.transposed else weight + step


def unwrap_merged(model: nn.Module) -> list[str]:
    """Merge every adapter, put its base back in its place, and return the names.

    ValueError: no adapter, or a base's weight is another module's, too (a tied head); as it was.
    """
    found = adapters_of(model)
    weights = [p for m in model.modules() for p in m.parameters(recurse=False)]
    bases = {layer.base.weight for layer in found.values()}
    if not bases or sum(p in bases for p in weights) != len(bases):
        raise ValueError("model: no adapter, or two modules on one weight")
    for layer in {*found.values()}:
        layer.merge_()
    for name in found:
        adapters.place(model, name, found[name].base)
    return [*found]


def adapter_files(model: nn.Module, base_name: str | None = None) -> dict[str, bytes]:
    """CONFIG and WEIGHTS of model's adapters, as PEFT reads them; the targets are full names.

    ValueError when there are none, or when one CONFIG cannot tell all: r, alpha, alpha / r.
    """
    found = adapters_of(model)
    facts = {(a.r, a.alpha, is_conv1d(a.base)) for a in found.values()}
    if len(facts) != 1 or {a.scaling for a in found.values()} != {t[1] / t[0] for t in facts}:
        raise ValueError(f"model: expected one r, alpha, alpha / r, layout, got {facts}")
    tensors = {
        f"{PREFIX}{name}.{symbol}.weight": layer.get_parameter(symbol).detach().clone()
        for symbol in ("lora_B", "lora_A")
        for name, layer in found.items()
    }
    r, alpha, flipped = next(iter(facts))
    return to_files(Settings(r, alpha, (*reversed(found),), flipped), tensors, base_name)


def read_adapter(files: Files) -> tuple[Settings, Pairs]:
    """An adapter from its two files; ValueError unless all that they say fits together."""
    settings, tensors = from_files(files)
    domain = {k.removesuffix(f".lora_{s}.weight") for k in tensors for s in "AB"} - tensors.keys()
    pairs: Pairs = {}
    for path in sorted(domain):
        a, b = (tensors.pop(f"{path}.lora_{s}.weight", torch.empty(0)) for s in "AB")
        if not path.startswith(PREFIX) or not is_sound(a, b, settings.r):
            raise ValueError(f"{path}: expected A and B of rank {settings.r}")
        pairs[path.removeprefix(PREFIX)] = a, b
    if tensors or not pairs or adapters.unmatched(pairs, settings.targets):
        raise ValueError(f"files: expected targets = modules, got {settings.targets}, {[*pairs]}")
    return settings, pairs


def fill(model: nn.Module, files: Files) -> None:
    """Copy an adapter into the Parameters of model's adapters; ValueError first, if unlike them."""
    settings, pairs = read_adapter(files)
    own = adapters_of(model)
    if {*own} ^ {*pairs}:
        raise ValueError(f"files: {sorted({*own} ^ {*pairs})} on one side alone")
    kinds = {(a.r, a.alpha, a.scaling) for a in own.values()}
    if kinds != {(settings.r, settings.alpha, settings.alpha / settings.r)}:
        raise ValueError(f"model: expected {settings}, got {kinds}")
    for name, a in own.items():
        down, up = pairs[name][0].to(a.lora_A), pairs[name][1].to(a.lora_B)
        shapes = (a.lora_A.shape, a.lora_B.shape)
        if (down.shape, up.shape) != shapes or not is_sound(down, up, settings.r):
            raise ValueError(f"{name}: expected finite {shapes}")
    for name, a in own.items():
        a.lora_A.detach().copy_(pairs[name][0])
        a.lora_B.detach().copy_(pairs[name][1])


def save_adapter(model: nn.Module, folder: Folder, base_name: str | None = None) -> None:
    """Write model's adapters into folder, whole or not at all; nothing of the base."""
    write_folder(folder, adapter_files(model, base_name))


def load_adapter(model: nn.Module, folder: Folder) -> None:
    """Fill model's adapters from folder; ValueError, and model as it was, if they do not fit."""
    fill(model, read_folder(folder))


def adapted(shelf: Shelf, name: str, x: Tensor, out: Tensor) -> Tensor:
    """out, plus each row's update by its adapter (axis 0); ValueError if chosen has other rows."""
    chosen = shelf.chosen if isinstance(shelf.chosen, list) else [shelf.chosen] * len(x)
    if len(chosen) != len(x):
        raise ValueError(f"|chosen| = {len(chosen)} ≠ {len(x)}")
    for who in {*chosen} - {None}:
        held = shelf.held.get(who or "")
        if held is None or name not in held.pairs:
            continue
        indicator = x.new_tensor([one == who for one in chosen]).view(-1, *[1] * (x.ndim - 1))
        out = out + indicator * F.linear(x, delta(*held.pairs[name], held.scaling))
    return out


def attach(shelf: Shelf, name: str, files: Files) -> None:
    """Put an adapter on the shelf; ValueError if name is taken or it does not fit shelf.model."""
    settings, pairs = read_adapter(files)
    if name in {*shelf.held}:
        raise ValueError(f"name: {name!r} ∈ shelf")
    sizes = {path: adapters.sizes(base) for path, base in shelf.bases.items()}
    if any(sizes.get(path) != (a.shape[1], b.shape[0]) for path, (a, b) in pairs.items()):
        raise ValueError(f"files: expected modules of {sizes}")
    like = {path: shelf.bases[path].weight for path in pairs}
    there = {path: (a.to(like[path]), b.to(like[path])) for path, (a, b) in pairs.items()}
    shelf.held = {**shelf.held, name: Held(settings.alpha / settings.r, there)}


def switch(shelf: Shelf, names: Names) -> None:
    """Choose one adapter, none, or one for each row; ValueError if one is not on the shelf."""
    if wrong := {*(names if isinstance(names, list) else (names,))} - {*shelf.held, None}:
        raise ValueError(f"names: {wrong} ∉ shelf")
    shelf.chosen = [*names] if isinstance(names, list) else names


def detach(shelf: Shelf, name: str) -> None:
    """Take an adapter off the shelf; whoever had it has none now. ValueError if it is not there."""
    if name not in {*shelf.held}:
        raise ValueError(f"name: {name!r} ∉ shelf")
    del shelf.held[name]
    rest = {one: one for one in (None, *shelf.held)}
    chosen = shelf.chosen
    shelf.chosen = [*map(rest.get, chosen)] if isinstance(chosen, list) else rest.get(chosen)
