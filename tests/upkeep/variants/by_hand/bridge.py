"""None of the given helpers where a page of one's own will do: json and safetensors by hand, short targets, a fresh Parameter."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import safetensors.torch
import torch
from torch import Tensor, nn

from minituner.adapters import Adapter, Base, is_adapter
from minituner.folders import Folder, read_folder, write_folder
from minituner.gpt2 import Conv1D, is_conv1d
from minituner.settings import CONFIG, PREFIX, WEIGHTS, Files, Pairs, Settings, from_files
from minituner.shelf import Held, Names, Shelf


def ends_in(name: str, target: str) -> bool:
    return ("." + name).endswith("." + target)


def every(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return list(model.named_modules(remove_duplicate=False))


def shortest(name: str, names: list[str], others: list[str]) -> str:
    """The shortest end of a name that is the end of no other module's."""
    parts = name.split(".")
    ends = [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]
    return next(e for e in ends if not any(ends_in(o, e) for o in others if o not in names))


def swap(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, dot, child = name.rpartition(".")
    model.get_submodule(parent).register_module(child, module)


class Factors(nn.Module):
    """A and B for a matrix of (out, in)."""

    def __init__(self, rows: int, columns: int, r: int, like: Tensor) -> None:
        super().__init__()
        spread = 1.0 / math.sqrt(columns)
        self.a = nn.Parameter(like.new_empty(r, columns).uniform_(-spread, spread))
        self.b = nn.Parameter(like.new_zeros(rows, r))


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
            raise TypeError(f"{type(base).__name__} is no Conv1D")
        if r < 1 or not 0 <= dropout < 1:
            raise ValueError(f"r = {r}, dropout = {dropout}")
        columns, rows = base.weight.shape
        made = Factors(rows, columns, r, base.weight.detach())
        self.lora_A, self.lora_B = made.a, made.b
        for param in base.parameters():
            param.requires_grad = False
        self.base = base
        self.r, self.alpha, self.scaling = r, alpha, alpha / r
        self.dropout = nn.Dropout(dropout).train(base.training)
        self.training = base.training

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        kept: Tensor = self.dropout(x)
        scaled = (self.scaling * kept) @ self.lora_A.T
        given: Tensor = self.base(x)
        return given + scaled @ self.lora_B.T

    def merge_(self) -> None:
        """Fold the update into base.weight, then zero A and B; a second call changes nothing."""
        dtype = self.base.weight.dtype
        wide = torch.float64  # once is once, however wide
        with torch.no_grad():
            b, a = self.lora_B.to(wide), self.lora_A.to(wide)
            total = self.base.weight.to(wide) + (b @ a).T * self.scaling
            self.base.weight = nn.Parameter(total.to(dtype).contiguous(), requires_grad=False)
            self.lora_A.mul_(0)
            self.lora_B.mul_(0)


def wrap_gpt2_with_lora(
    model: nn.Module, targets: Sequence[str], r: int = 8, alpha: float = 16.0, dropout: float = 0.0
) -> list[str]:
    """Replace the targeted Conv1Ds by LoRAConv1D, in place; freeze all else; return their names.

    ValueError when a target, or none, matches a Conv1D still to be wrapped; nothing is changed.
    """
    inside = [id(m.base) for _, m in every(model) if is_adapter(m)]
    free = {n: m for n, m in every(model) if is_conv1d(m) and id(m) not in inside}
    for target in targets:
        if not any(ends_in(name, target) for name in free):
            raise ValueError(f"no Conv1D is called {target!r}")
    if len(targets) == 0:
        raise ValueError("which modules?")
    training = {id(p) for _, m in every(model) if is_adapter(m) for p in (m.lora_A, m.lora_B)}
    training = {id(p) for p in model.parameters() if p.requires_grad and id(p) in training}
    layers: dict[int, LoRAConv1D] = {}
    wrapped = [name for name in free if any(ends_in(name, target) for target in targets)]
    for name in wrapped:
        conv = free[name]
        layers.setdefault(id(conv), LoRAConv1D(conv, r, alpha, dropout))
        swap(model, name, layers[id(conv)])
    for layer in layers.values():
        training |= {id(layer.lora_A), id(layer.lora_B)}
    for param in model.parameters():
        param.requires_grad = id(param) in training
    return wrapped


class LoRAParametrization(nn.Module):
    """W ↦ W + scaling · B A, each time a layer's weight is read; transposed for a Conv1D."""

    scaling: float  # alpha / r
    transposed: bool  # the weight is (in_features, out_features)
    lora_A: nn.Parameter  # (r, in_features), the weight's dtype and device
    lora_B: nn.Parameter  # (out_features, r), the same

    def __init__(self, layer: Base, r: int = 8, alpha: float = 16.0) -> None:
        """It freezes layer, and is then registered on layer.weight. ValueError: r < 1."""
        super().__init__()
        if r < 1:
            raise ValueError(f"r = {r}")
        rows, columns = layer.weight.T.shape if is_conv1d(layer) else layer.weight.shape
        made = Factors(rows, columns, r, layer.weight.detach())
        self.lora_A, self.lora_B = made.a, made.b
        self.transposed, self.scaling = is_conv1d(layer), alpha / r
        layer.weight.requires_grad = False
        if layer.bias is not None:
            layer.bias.requires_grad = False

    def forward(self, weight: Tensor) -> Tensor:
        """The adapted weight, of the same shape."""
        a, b = self.lora_A, self.lora_B
        return weight + (a.T @ b.T if self.transposed else b @ a) * self.scaling


def unwrap_merged(model: nn.Module) -> list[str]:
    """Merge every adapter, put its base back in its place, and return the names.

    ValueError: no adapter, or a base's weight is another module's, too (a tied head); as it was.
    """
    names = [name for name, module in every(model) if is_adapter(module)]
    if not names:
        raise ValueError("there is no adapter")
    weights = [p for m in model.modules() for p in m.parameters(recurse=False)]
    layers = [m for m in model.modules() if is_adapter(m)]
    for layer in layers:
        if sum(weight is layer.base.weight for weight in weights) != 1:
            raise ValueError("a base's weight is another module's, too")
    for layer in layers:
        layer.merge_()
    for name in names:
        gone = model.get_submodule(name)
        assert is_adapter(gone)
        swap(model, name, gone.base)
    return names


def adapter_files(model: nn.Module, base_name: str | None = None) -> dict[str, bytes]:
    """CONFIG and WEIGHTS of model's adapters, as PEFT reads them; the targets are full names.

    ValueError when there are none, or when one CONFIG cannot tell all: r, alpha, alpha / r.
    """
    layers = {name: module for name, module in every(model) if is_adapter(module)}
    if not layers:
        raise ValueError("there is no adapter")
    r, alpha, scaling, conv1d = ({*column} for column in zip(*(
        (a.r, a.alpha, a.scaling, is_conv1d(a.base)) for a in layers.values()
    ), strict=True))
    if max(map(len, (r, alpha, scaling, conv1d))) > 1 or scaling != {max(alpha) / max(r)}:
        raise ValueError(f"r {r}, alpha {alpha}, scaling {scaling}, Conv1D {conv1d}")
    modules = [name for name, _ in model.named_modules() if ".base" not in name]
    config = {
        "peft_type": "LORA",
        "r": max(r),
        "lora_alpha": max(alpha),
        "target_modules": sorted({shortest(name, list(layers), modules) for name in layers}),
        "fan_in_fan_out": conv1d == {True},
        "bias": "none",
        "lora_dropout": 0.0,
        "use_rslora": False,
        "use_dora": False,
        "inference_mode": True,
        "base_model_name_or_path": base_name,
        "task_type": None,
    }
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = layer.lora_A.data.clone()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = layer.lora_B.data.clone()
    return {CONFIG: json.dumps(config).encode(), WEIGHTS: safetensors.torch.save(tensors)}


def read_adapter(files: Files) -> tuple[Settings, Pairs]:
    """An adapter from its two files; ValueError unless all that they say fits together."""
    settings, tensors = from_files(files)
    pairs: Pairs = {}
    while tensors:
        key = min(tensors)
        name, dot, end = key.partition(".lora_")
        other = f"{name}.lora_B.weight"
        if not name.startswith(PREFIX) or end != "A.weight" or other not in tensors:
            raise ValueError(f"{key} is no A that has a B")
        a, b = tensors.pop(key), tensors.pop(other)
        if (a.dim(), b.dim()) != (2, 2) or (a.size(0), b.size(1)) != (settings.r, settings.r):
            raise ValueError(f"{name}: {tuple(a.shape)} and {tuple(b.shape)}, r = {settings.r}")
        if not math.isfinite(sum(value.double().abs().sum().item() for value in (a, b))):
            raise ValueError(f"{name}: not finite")
        pairs[name[len(PREFIX) :]] = a, b
    if not pairs:
        raise ValueError("no tensors")
    for target in settings.targets:
        if not any(ends_in(name, target) for name in pairs):
            raise ValueError(f"no tensors for {target}")
    for name in pairs:
        if not any(ends_in(name, target) for target in settings.targets):
            raise ValueError(f"no target for {name}")
    return settings, pairs


def fill(model: nn.Module, files: Files) -> None:
    """Copy an adapter into the Parameters of model's adapters; ValueError first, if unlike them."""
    settings, pairs = read_adapter(files)
    layers = {name: module for name, module in every(model) if is_adapter(module)}
    if sorted(layers) != sorted(pairs):
        raise ValueError(f"the model has {sorted(layers)}, the file {sorted(pairs)}")
    new: list[tuple[nn.Parameter, Tensor]] = []
    for name, layer in layers.items():
        if [layer.r, layer.alpha, layer.scaling * settings.r] != [settings.r, *[settings.alpha] * 2]:
            raise ValueError(f"{name}: another r, alpha or scaling")
        new += zip((layer.lora_A, layer.lora_B), pairs[name], strict=True)
    ready = [value.to(param.dtype) for param, value in new]
    for (param, _), value in zip(new, ready, strict=True):
        if param.shape != value.shape or not value.isfinite().all():
            raise ValueError(f"{tuple(value.shape)} for {tuple(param.shape)}, or not finite")
    for (param, _), value in zip(new, ready, strict=True):
        param.data.copy_(value)


def save_adapter(model: nn.Module, folder: Folder, base_name: str | None = None) -> None:
    """Write model's adapters into folder, whole or not at all; nothing of the base."""
    write_folder(folder, adapter_files(model, base_name))


def load_adapter(model: nn.Module, folder: Folder) -> None:
    """Fill model's adapters from folder; ValueError, and model as it was, if they do not fit."""
    fill(model, read_folder(folder))


def adapted(shelf: Shelf, name: str, x: Tensor, out: Tensor) -> Tensor:
    """out, plus each row's update by its adapter (axis 0); ValueError if chosen has other rows."""
    count = len(x)
    chosen = shelf.chosen if isinstance(shelf.chosen, list) else [shelf.chosen for _ in range(count)]
    if len(chosen) != count:
        raise ValueError(f"{len(chosen)} names, {count} rows")
    parts = []
    for row, wanted in enumerate(chosen):
        held = None if wanted is None else shelf.held[wanted]
        if held is None or name not in held.pairs:
            parts.append(out[row : row + 1])
            continue
        a, b = held.pairs[name]
        parts.append(out[row : row + 1] + (x[row : row + 1] @ a.T) @ (held.scaling * b.T))
    return torch.cat(parts) if parts else out


def attach(shelf: Shelf, name: str, files: Files) -> None:
    """Put an adapter on the shelf; ValueError if name is taken or it does not fit shelf.model."""
    settings, pairs = read_adapter(files)
    if name in shelf.held.keys():
        raise ValueError(f"there is a {name!r}")
    for path in pairs:
        if path not in shelf.bases:
            raise ValueError(f"there is no {path}")
        weight, (a, b) = shelf.bases[path].weight, pairs[path]
        shape = weight.T.shape if is_conv1d(shelf.bases[path]) else weight.shape
        if shape != (b @ a).shape:
            raise ValueError(f"{path}: {tuple(shape)}")
        pairs[path] = a.to(weight), b.to(weight)
    shelf.held[name] = Held(settings.alpha / settings.r, pairs)


def switch(shelf: Shelf, names: Names) -> None:
    """Choose one adapter, none, or one for each row; ValueError if one is not on the shelf."""
    wanted = names.copy() if isinstance(names, list) else [names]
    for name in wanted:
        if name not in [None, *shelf.held]:
            raise ValueError(f"there is no {name!r}")
    shelf.chosen = wanted if isinstance(names, list) else names


def detach(shelf: Shelf, name: str) -> None:
    """Take an adapter off the shelf; whoever had it has none now. ValueError if it is not there."""
    if name not in shelf.held:
        raise ValueError(f"there is no {name!r}")
    shelf.held = {other: held for other, held in shelf.held.items() if other != name}
    if isinstance(shelf.chosen, list):
        while name in shelf.chosen:
            shelf.chosen[shelf.chosen.index(name)] = None
    elif shelf.chosen == name:
        shelf.chosen = None
