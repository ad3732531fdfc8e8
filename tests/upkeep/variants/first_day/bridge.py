"""Somebody's first week: loops, one small step after the other, and few of the given helpers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from minituner.adapters import Adapter, Base, is_adapter
from minituner.folders import Folder, read_folder, write_folder
from minituner.gpt2 import Conv1D, is_conv1d
from minituner.settings import PREFIX, Files, Pairs, Settings, from_files, to_files
from minituner.shelf import Held, Names, Shelf


def all_adapters(model: nn.Module) -> dict[str, Adapter]:
    """Every adapter of the model, by name."""
    result: dict[str, Adapter] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if is_adapter(module):
            result[name] = module
    return result


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """model.<name> = module"""
    parts = name.split(".")
    parent = model
    for part in parts[:-1]:
        parent = parent.get_submodule(part)
    setattr(parent, parts[-1], module)


def hits(name: str, target: str) -> bool:
    """Whether the name's last parts are the target's parts."""
    wanted = target.split(".")
    return name.split(".")[-len(wanted) :] == wanted


def in_and_out(layer: Base) -> tuple[int, int]:
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    return layer.weight.shape[0], layer.weight.shape[1]


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
            raise TypeError("base is not a Conv1D")
        if r < 1:
            raise ValueError("r has to be 1 or more")
        if not (dropout >= 0 and dropout < 1):
            raise ValueError("dropout has to be 0 or more, and less than 1")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        in_features, out_features = in_and_out(base)
        a = torch.zeros(r, in_features, dtype=base.weight.dtype, device=base.weight.device)
        nn.init.kaiming_uniform_(a, a=math.sqrt(5))
        self.lora_A = nn.Parameter(a)
        b = torch.zeros(out_features, r, dtype=base.weight.dtype, device=base.weight.device)
        self.lora_B = nn.Parameter(b)
        self.dropout = nn.Dropout(p=dropout)
        if base.training:
            self.train()
        else:
            self.eval()
        for param in base.parameters():
            param.requires_grad = False

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        base_out: Tensor = self.base(x)
        dropped: Tensor = self.dropout(x)
        small = torch.matmul(dropped, self.lora_A.transpose(0, 1))
        large = torch.matmul(small, self.lora_B.transpose(0, 1))
        return base_out + large * self.scaling

    def merge_(self) -> None:
        """Fold the update into base.weight, then zero A and B; a second call changes nothing."""
        weight = self.base.weight.detach().clone()
        a = self.lora_A.detach().clone()
        b = self.lora_B.detach().clone()
        if weight.dtype != torch.float64:
            weight = weight.float()
            a = a.float()
            b = b.float()
        update = torch.matmul(b, a) * self.scaling
        new_weight = weight + update.transpose(0, 1)
        with torch.no_grad():
            self.base.weight.copy_(new_weight)
            self.lora_A.copy_(torch.zeros_like(self.lora_A))
            self.lora_B.copy_(torch.zeros_like(self.lora_B))


def wrap_gpt2_with_lora(
    model: nn.Module, targets: Sequence[str], r: int = 8, alpha: float = 16.0, dropout: float = 0.0
) -> list[str]:
    """Replace the targeted Conv1Ds by LoRAConv1D, in place; freeze all else; return their names.

    ValueError when a target, or none, matches a Conv1D still to be wrapped; nothing is changed.
    """
    already = []
    for adapter in all_adapters(model).values():
        already.append(adapter.base)
    found: list[tuple[str, Conv1D]] = []
    used: list[str] = []
    for name, module in model.named_modules(remove_duplicate=False):
        if not is_conv1d(module) or any(module is base for base in already):
            continue
        good = [target for target in targets if hits(name, target)]
        if good:
            found.append((name, module))
            used.extend(good)
    for target in targets:
        if target not in used:
            raise ValueError(f"the target {target} matches no Conv1D")
    if not found:
        raise ValueError("there is no target")
    trained_before = []
    for adapter in all_adapters(model).values():
        for param in (adapter.lora_A, adapter.lora_B):
            if param.requires_grad:
                trained_before.append(param)
    made: list[tuple[Conv1D, LoRAConv1D]] = []
    names = []
    for name, module in found:
        new = None
        for base, layer in made:
            if base is module:
                new = layer
        if new is None:
            new = LoRAConv1D(module, r, alpha, dropout)
            made.append((module, new))
        put(model, name, new)
        names.append(name)
    for param in model.parameters():
        param.requires_grad = False
    for param in trained_before:
        param.requires_grad = True
    for _, layer in made:
        layer.lora_A.requires_grad = True
        layer.lora_B.requires_grad = True
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
        if r < 1:
            raise ValueError("r has to be 1 or more")
        in_features, out_features = in_and_out(layer)
        kind = layer.weight.dtype
        where = layer.weight.device
        a = torch.zeros(r, in_features, dtype=kind, device=where)
        nn.init.kaiming_uniform_(a, a=math.sqrt(5))
        self.lora_A = nn.Parameter(a)
        self.lora_B = nn.Parameter(torch.zeros(out_features, r, dtype=kind, device=where))
        self.scaling = alpha / r
        if isinstance(layer, nn.Linear):
            self.transposed = False
        else:
            self.transposed = True
        for param in layer.parameters():
            param.requires_grad = False

    def forward(self, weight: Tensor) -> Tensor:
        """The adapted weight, of the same shape."""
        update = torch.matmul(self.lora_B, self.lora_A)
        if self.transposed:
            update = update.transpose(0, 1)
        return weight + update * self.scaling


def unwrap_merged(model: nn.Module) -> list[str]:
    """Merge every adapter, put its base back in its place, and return the names.

    ValueError: no adapter, or a base's weight is another module's, too (a tied head); as it was.
    """
    found = all_adapters(model)
    if len(found) == 0:
        raise ValueError("the model has no adapters")
    for name, adapter in found.items():
        owners = 0
        for module in model.modules():
            for param in module.parameters(recurse=False):
                if param is adapter.base.weight:
                    owners = owners + 1
        if owners > 1:
            raise ValueError(f"the weight of {name} is another module's, too")
    names = []
    for name, adapter in found.items():
        adapter.merge_()
        put(model, name, adapter.base)
        names.append(name)
    return names


def adapter_files(model: nn.Module, base_name: str | None = None) -> dict[str, bytes]:
    """CONFIG and WEIGHTS of model's adapters, as PEFT reads them; the targets are full names.

    ValueError when there are none, or when one CONFIG cannot tell all: r, alpha, alpha / r.
    """
    found = all_adapters(model)
    names = list(found)
    if len(names) == 0:
        raise ValueError("the model has no adapters")
    first = found[names[0]]
    for name in names:
        adapter = found[name]
        if adapter.r != first.r or adapter.alpha != first.alpha:
            raise ValueError(f"{name} has another r or alpha than {names[0]}")
        if adapter.scaling != adapter.alpha / adapter.r:
            raise ValueError(f"{name} has a scaling that is not alpha / r")
        if is_conv1d(adapter.base) != is_conv1d(first.base):
            raise ValueError(f"{name} has another kind of base than {names[0]}")
    tensors: dict[str, Tensor] = {}
    for name in names:
        key = PREFIX + name
        tensors[key + ".lora_A.weight"] = found[name].lora_A.detach().clone()
        tensors[key + ".lora_B.weight"] = found[name].lora_B.detach().clone()
    settings = Settings(
        r=first.r, alpha=first.alpha, targets=tuple(names), fan_in_fan_out=is_conv1d(first.base)
    )
    return to_files(settings, tensors, base_name)


def read_adapter(files: Files) -> tuple[Settings, Pairs]:
    """An adapter from its two files; ValueError unless all that they say fits together."""
    settings, tensors = from_files(files)
    names = []
    for key in tensors:
        if not key.startswith(PREFIX):
            raise ValueError(f"{key} does not begin with {PREFIX}")
        if key.endswith(".lora_A.weight"):
            names.append(key[len(PREFIX) : len(key) - len(".lora_A.weight")])
        elif not key.endswith(".lora_B.weight"):
            raise ValueError(f"{key} is neither an A nor a B")
    if len(names) == 0:
        raise ValueError("there is no adapter in the file")
    if len(tensors) != 2 * len(names):
        raise ValueError("the file does not have a B for each A")
    pairs: Pairs = {}
    for name in names:
        key_b = PREFIX + name + ".lora_B.weight"
        if key_b not in tensors:
            raise ValueError(f"{key_b} is missing")
        a = tensors[PREFIX + name + ".lora_A.weight"]
        b = tensors[key_b]
        if len(a.shape) != 2 or len(b.shape) != 2:
            raise ValueError(f"{name}: A and B have to be matrices")
        if a.shape[0] != settings.r or b.shape[1] != settings.r:
            raise ValueError(f"{name}: the rank is not {settings.r}")
        if not bool(torch.all(torch.isfinite(a))):
            raise ValueError(f"{name}: A has a value that is not finite")
        if not bool(torch.all(torch.isfinite(b))):
            raise ValueError(f"{name}: B has a value that is not finite")
        pairs[name] = (a, b)
    for target in settings.targets:
        if not any(hits(name, target) for name in names):
            raise ValueError(f"no tensor for the target {target}")
    for name in names:
        if not any(hits(name, target) for target in settings.targets):
            raise ValueError(f"no target for {name}")
    return settings, pairs


def fill(model: nn.Module, files: Files) -> None:
    """Copy an adapter into the Parameters of model's adapters; ValueError first, if unlike them."""
    settings, pairs = read_adapter(files)
    found = all_adapters(model)
    for name in found:
        if name not in pairs:
            raise ValueError(f"the file has nothing for {name}")
    for name in pairs:
        if name not in found:
            raise ValueError(f"the model has no adapter at {name}")
    for name, adapter in found.items():
        if adapter.r != settings.r:
            raise ValueError(f"{name}: r is {adapter.r}, and {settings.r} in the file")
        if adapter.alpha != settings.alpha:
            raise ValueError(f"{name}: alpha is {adapter.alpha}, and {settings.alpha} in the file")
        if adapter.scaling != settings.alpha / settings.r:
            raise ValueError(f"{name}: scaling is {adapter.scaling}")
        a, b = pairs[name]
        if a.shape != adapter.lora_A.shape or b.shape != adapter.lora_B.shape:
            raise ValueError(f"{name}: A or B has another shape")
        if not bool(torch.all(torch.isfinite(a.to(adapter.lora_A.dtype)))):
            raise ValueError(f"{name}: A is not finite here")
        if not bool(torch.all(torch.isfinite(b.to(adapter.lora_B.dtype)))):
            raise ValueError(f"{name}: B is not finite here")
    for name, adapter in found.items():
        a, b = pairs[name]
        with torch.no_grad():
            adapter.lora_A.copy_(a)
            adapter.lora_B.copy_(b)


def save_adapter(model: nn.Module, folder: Folder, base_name: str | None = None) -> None:
    """Write model's adapters into folder, whole or not at all; nothing of the base."""
    write_folder(folder, adapter_files(model, base_name))


def load_adapter(model: nn.Module, folder: Folder) -> None:
    """Fill model's adapters from folder; ValueError, and model as it was, if they do not fit."""
    fill(model, read_folder(folder))


def adapted(shelf: Shelf, name: str, x: Tensor, out: Tensor) -> Tensor:
    """out, plus each row's update by its adapter (axis 0); ValueError if chosen has other rows."""
    number = x.shape[0]
    chosen: list[str | None] = []
    if isinstance(shelf.chosen, list):
        chosen = shelf.chosen
    else:
        for _ in range(number):
            chosen.append(shelf.chosen)
    if len(chosen) != number:
        raise ValueError(f"there are {number} rows and {len(chosen)} names")
    result = out.clone()
    for row in range(number):
        wanted = chosen[row]
        if wanted is None:
            continue
        held = shelf.held[wanted]
        if name not in held.pairs:
            continue
        a, b = held.pairs[name]
        small = torch.matmul(x[row], a.transpose(0, 1))
        update = torch.matmul(small, b.transpose(0, 1)) * held.scaling
        result[row] = result[row] + update
    return result


def attach(shelf: Shelf, name: str, files: Files) -> None:
    """Put an adapter on the shelf; ValueError if name is taken or it does not fit shelf.model."""
    if name in shelf.held:
        raise ValueError(f"there is an adapter called {name} already")
    settings, pairs = read_adapter(files)
    ready: Pairs = {}
    for path, pair in pairs.items():
        a, b = pair
        if path not in shelf.bases:
            raise ValueError(f"the model has no {path}")
        base = shelf.bases[path]
        in_features, out_features = in_and_out(base)
        if a.shape[1] != in_features or b.shape[0] != out_features:
            raise ValueError(f"{path}: the sizes do not fit")
        kind = base.weight.dtype
        where = base.weight.device
        ready[path] = (a.to(device=where, dtype=kind), b.to(device=where, dtype=kind))
    shelf.held[name] = Held(scaling=settings.alpha / settings.r, pairs=ready)


def switch(shelf: Shelf, names: Names) -> None:
    """Choose one adapter, none, or one for each row; ValueError if one is not on the shelf."""
    if isinstance(names, list):
        for name in names:
            if name is not None and name not in shelf.held:
                raise ValueError(f"there is no adapter called {name}")
        shelf.chosen = []
        for name in names:
            shelf.chosen.append(name)
    elif names is None:
        shelf.chosen = None
    else:
        if names not in shelf.held:
            raise ValueError(f"there is no adapter called {names}")
        shelf.chosen = names


def detach(shelf: Shelf, name: str) -> None:
    """Take an adapter off the shelf; whoever had it has none now. ValueError if it is not there."""
    if name not in shelf.held:
        raise ValueError(f"there is no adapter called {name}")
    new = {}
    for other in shelf.held:
        if other != name:
            new[other] = shelf.held[other]
    shelf.held = new
    if isinstance(shelf.chosen, list):
        for row in range(len(shelf.chosen)):
            if shelf.chosen[row] == name:
                shelf.chosen[row] = None
    else:
        if shelf.chosen == name:
            shelf.chosen = None
