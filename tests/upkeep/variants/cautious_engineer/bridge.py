"""Every argument checked by hand, errors of its own, a kind of TypeError where a type is wrong; work is planned, then done; nothing trusted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from minituner import adapters
from minituner.adapters import Adapter, Base, adapters_of, is_base
from minituner.folders import Folder, read_folder, write_folder
from minituner.gpt2 import Conv1D, is_conv1d
from minituner.settings import CONFIG, PREFIX, WEIGHTS, Files, Pairs, Settings, from_files, to_files
from minituner.shelf import Held, Names, Shelf


SUFFIX_A: Final = ".lora_A.weight"
SUFFIX_B: Final = ".lora_B.weight"


class Unfit(ValueError):
    """A value that does not do."""


class Untyped(TypeError):
    """A thing of another type."""


@dataclass(frozen=True)
class Write:
    """One copy that is still to be made."""

    into: nn.Parameter
    value: Tensor

    def check(self, name: str) -> None:
        if self.into.shape != self.value.shape:
            raise Unfit(f"{name}: expected {self.into.shape}, got {self.value.shape}")
        if not torch.isfinite(self.value.to(self.into.dtype)).all():
            raise Unfit(f"{name}: expected values that {self.into.dtype} can hold")

    @torch.no_grad()
    def do(self) -> None:
        self.into.copy_(self.value)


def check_rank(r: object) -> int:
    if not isinstance(r, int) or isinstance(r, bool):
        raise Untyped(f"r: expected a count, got {r!r}")
    if r < 1:
        raise Unfit(f"r: expected at least 1, got {r}")
    return r


def check_number(name: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise Untyped(f"{name}: expected a number, got {value!r}")
    if not math.isfinite(value):
        raise Unfit(f"{name}: expected a finite number, got {value}")
    return float(value)


def check_files(files: Files) -> None:
    for name in (CONFIG, WEIGHTS):
        if name not in files:
            raise Unfit(f"files: expected {name}, got {sorted(files)}")
        if not isinstance(files[name], bytes):
            raise Untyped(f"{name}: expected bytes, got {type(files[name]).__name__}")


def keep(module: nn.Module, names: list[str]) -> Callable[[], None]:
    """A way back: puts what stands at the names now there again."""
    now = {name: module.get_submodule(name) for name in names}

    def back() -> None:
        for name, there in now.items():
            adapters.place(module, name, there)

    return back


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
            raise Untyped(f"base: expected a Conv1D, got {type(base).__name__}")
        if base.weight.ndim != 2:
            raise Untyped(f"base: expected a matrix as weight, got {tuple(base.weight.shape)}")
        check_rank(r)
        check_number("alpha", alpha)
        if not 0.0 <= check_number("dropout", dropout) < 1.0:
            raise Unfit(f"dropout: expected a probability in [0, 1), got {dropout}")
        self.base, self.r, self.alpha = base, r, alpha
        self.scaling = float(alpha) / r
        self.lora_A, self.lora_B = adapters.factors(base, r)
        self.dropout = nn.Dropout(dropout)
        for module in self.modules():
            module.training = base.training
        base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        if x.shape[-1] != self.lora_A.shape[1]:
            raise Unfit(f"x: expected {self.lora_A.shape[1]} features, got {tuple(x.shape)}")
        from_base: Tensor = self.base(x)
        thin: Tensor = self.dropout(x) @ self.lora_A.transpose(-1, -2)
        update = thin @ self.lora_B.transpose(-1, -2)
        return from_base + update.mul(self.scaling)

    def merge_(self) -> None:
        """Fold the update into base.weight, then zero A and B; a second call changes nothing."""
        if not (self.lora_A.any() and self.lora_B.any()):  # nothing to add; zero both all the same
            with torch.no_grad():
                self.lora_A.zero_()
                self.lora_B.zero_()
            return
        weight = self.base.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        with torch.no_grad():
            update = (self.lora_B.to(wide) @ self.lora_A.to(wide)).mul(self.scaling)
            total = weight.to(wide).add(update.transpose(0, 1)).to(weight.dtype)
            if total.shape != weight.shape:
                raise RuntimeError(f"merge_: expected {weight.shape}, got {total.shape}")
            weight.copy_(total)
            self.lora_A.zero_()
            self.lora_B.zero_()


def wrap_gpt2_with_lora(
    model: nn.Module, targets: Sequence[str], r: int = 8, alpha: float = 16.0, dropout: float = 0.0
) -> list[str]:
    """Replace the targeted Conv1Ds by LoRAConv1D, in place; freeze all else; return their names.

    ValueError when a target, or none, matches a Conv1D still to be wrapped; nothing is changed.
    """
    if isinstance(targets, str):
        raise Untyped("targets: expected a list of names, got one string")
    check_rank(r)
    found, missed = adapters.targets_in(model, targets, is_conv1d)
    if missed:
        raise Unfit(f"targets: expected each to match a Conv1D to be wrapped, got {missed}")
    if not found:
        raise Unfit("targets: expected at least one")
    back = keep(model, list(found))
    try:
        made: dict[int, LoRAConv1D] = {}
        for name, base in found.items():
            if id(base) not in made:
                made[id(base)] = LoRAConv1D(base, r, alpha, dropout)
            adapters.place(model, name, made[id(base)])
    except Exception:
        back()
        raise
    adapters.freeze_all_but_adapters(model)
    return list(found)


class LoRAParametrization(nn.Module):
    """W ↦ W + scaling · B A, each time a layer's weight is read; transposed for a Conv1D."""

    scaling: float  # alpha / r
    transposed: bool  # the weight is (in_features, out_features)
    lora_A: nn.Parameter  # (r, in_features), the weight's dtype and device
    lora_B: nn.Parameter  # (out_features, r), the same

    def __init__(self, layer: Base, r: int = 8, alpha: float = 16.0) -> None:
        """It freezes layer, and is then registered on layer.weight. ValueError: r < 1."""
        super().__init__()
        if not is_base(layer):
            raise Untyped(f"layer: expected a linear or a Conv1D, got {type(layer).__name__}")
        self.scaling = check_number("alpha", alpha) / check_rank(r)
        self.transposed = is_conv1d(layer)
        self.lora_A, self.lora_B = adapters.factors(layer, r)
        for param in (layer.weight, layer.bias):
            if param is not None:
                param.requires_grad_(False)

    def forward(self, weight: Tensor) -> Tensor:
        """The adapted weight, of the same shape."""
        update = self.lora_B @ self.lora_A * self.scaling
        update = update.transpose(0, 1) if self.transposed else update
        if update.shape != weight.shape:
            raise Unfit(f"weight: expected {tuple(update.shape)}, got {tuple(weight.shape)}")
        return torch.add(weight, update)


def unwrap_merged(model: nn.Module) -> list[str]:
    """Merge every adapter, put its base back in its place, and return the names.

    ValueError: no adapter, or a base's weight is another module's, too (a tied head); as it was.
    """
    found = adapters_of(model)
    if not found:
        raise Unfit("model: expected adapters, got none; is it unwrapped already?")
    for name, adapter in found.items():
        weight = adapter.base.weight
        owners = [m for m in model.modules() if any(p is weight for p in m._parameters.values())]
        if owners != [adapter.base]:
            raise Unfit(f"{name}: expected a weight of its own, got one of {len(owners)} modules")
    for name, adapter in found.items():
        adapter.merge_()
        adapters.place(model, name, adapter.base)
    if adapters_of(model):
        raise RuntimeError("model: expected no adapter to be left")
    return list(found)


def adapter_files(model: nn.Module, base_name: str | None = None) -> dict[str, bytes]:
    """CONFIG and WEIGHTS of model's adapters, as PEFT reads them; the targets are full names.

    ValueError when there are none, or when one CONFIG cannot tell all: r, alpha, alpha / r.
    """
    found = adapters_of(model)
    if not found:
        raise Unfit("model: expected adapters, got none")
    ranks = {adapter.r for adapter in found.values()}
    alphas = {adapter.alpha for adapter in found.values()}
    layouts = {is_conv1d(adapter.base) for adapter in found.values()}
    for what, values in (("r", ranks), ("alpha", alphas), ("layout", layouts)):
        if len(values) > 1:
            raise Unfit(f"{what}: expected one for all, got {values}")
    r, alpha, layout = ranks.pop(), alphas.pop(), layouts.pop()
    tensors: dict[str, Tensor] = {}
    for name, adapter in found.items():
        if not math.isclose(adapter.scaling, alpha / r, rel_tol=1e-12):
            raise Unfit(f"{name}: expected scaling {alpha / r}, got {adapter.scaling}")
        if len(adapter.lora_A) != r or adapter.lora_B.shape[1] != r:
            raise Unfit(f"{name}: expected factors of rank {r}")
        tensors[f"{PREFIX}{name}{SUFFIX_A}"] = adapter.lora_A.detach().clone()
        tensors[f"{PREFIX}{name}{SUFFIX_B}"] = adapter.lora_B.detach().clone()
    files = to_files(Settings(r, alpha, tuple(sorted(found)), layout), tensors, base_name)
    if read_adapter(files)[1].keys() != found.keys():  # what is written can be read
        raise RuntimeError("adapter_files: expected to read what was written")
    return files


def read_adapter(files: Files) -> tuple[Settings, Pairs]:
    """An adapter from its two files; ValueError unless all that they say fits together."""
    check_files(files)
    settings, tensors = from_files(files)
    strange = [k for k in tensors if not (k.startswith(PREFIX) and k.endswith((SUFFIX_A, SUFFIX_B)))]
    if strange:
        raise Unfit(f"files: expected the A and the B of modules, got {strange}")
    names = sorted({key.removeprefix(PREFIX)[: -len(SUFFIX_A)] for key in tensors})
    if not names or not all(names):
        raise Unfit("files: expected at least one module, and each with a name")
    pairs: Pairs = {}
    for name in names:
        pair = [tensors.get(f"{PREFIX}{name}{end}") for end in (SUFFIX_A, SUFFIX_B)]
        a, b = pair
        if a is None or b is None:
            raise Unfit(f"{name}: expected an A and a B, got one of them")
        if a.ndim != 2 or b.ndim != 2 or (a.shape[0], b.shape[1]) != (settings.r, settings.r):
            raise Unfit(f"{name}: expected rank {settings.r}, got {a.shape} and {b.shape}")
        if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
            raise Unfit(f"{name}: expected finite values")
        pairs[name] = a, b
    idle = [t for t in settings.targets if not any(adapters.matches(n, t) for n in names)]
    extra = [n for n in names if not any(adapters.matches(n, t) for t in settings.targets)]
    if idle or extra:
        raise Unfit(f"target_modules: {idle} match no tensor, {extra} match no target")
    return settings, pairs


def fill(model: nn.Module, files: Files) -> None:
    """Copy an adapter into the Parameters of model's adapters; ValueError first, if unlike them."""
    settings, pairs = read_adapter(files)
    own = adapters_of(model)
    missing, extra = sorted(own.keys() - pairs.keys()), sorted(pairs.keys() - own.keys())
    if missing or extra:
        raise Unfit(f"files: {missing} are missing, {extra} have no adapter in the model")
    todo: list[Write] = []
    for name, adapter in own.items():
        if (adapter.r, adapter.alpha) != (settings.r, settings.alpha):
            raise Unfit(f"{name}: expected r, alpha = {adapter.r}, {adapter.alpha}")
        if not math.isclose(adapter.scaling, settings.alpha / settings.r, rel_tol=1e-12):
            raise Unfit(f"{name}: expected scaling {adapter.scaling}, got another")
        for param, value in zip((adapter.lora_A, adapter.lora_B), pairs[name], strict=True):
            todo.append(Write(param, value))
            todo[-1].check(name)
    for write in todo:
        write.do()


def save_adapter(model: nn.Module, folder: Folder, base_name: str | None = None) -> None:
    """Write model's adapters into folder, whole or not at all; nothing of the base."""
    write_folder(folder, adapter_files(model, base_name))


def load_adapter(model: nn.Module, folder: Folder) -> None:
    """Fill model's adapters from folder; ValueError, and model as it was, if they do not fit."""
    fill(model, read_folder(folder))


def adapted(shelf: Shelf, name: str, x: Tensor, out: Tensor) -> Tensor:
    """out, plus each row's update by its adapter (axis 0); ValueError if chosen has other rows."""
    chosen = list(shelf.chosen) if isinstance(shelf.chosen, list) else [shelf.chosen] * len(x)
    if len(chosen) != x.shape[0]:
        raise Unfit(f"chosen: expected one for each of {len(x)} rows, got {len(chosen)}")
    unknown = {name for name in chosen if name is not None} - shelf.held.keys()
    if unknown:
        raise Unfit(f"chosen: expected adapters on the shelf, got {sorted(unknown)}")
    if not any(wanted and name in shelf.held[wanted].pairs for wanted in chosen):
        return out
    result = out.clone()
    for row, wanted in enumerate(chosen):
        if wanted is not None and name in shelf.held[wanted].pairs:
            a, b = shelf.held[wanted].pairs[name]
            result[row] += x[row] @ a.transpose(0, 1) @ b.transpose(0, 1) * shelf.held[wanted].scaling
    return result


def attach(shelf: Shelf, name: str, files: Files) -> None:
    """Put an adapter on the shelf; ValueError if name is taken or it does not fit shelf.model."""
    if not isinstance(name, str) or not name:
        raise Untyped(f"name: expected a name, got {name!r}")
    if name in shelf.held:
        raise Unfit(f"name: {name!r} is taken")
    settings, pairs = read_adapter(files)
    moved: Pairs = {}
    for path, (a, b) in pairs.items():
        if path not in shelf.bases:
            raise Unfit(f"{path}: expected one of {sorted(shelf.bases)}")
        base = shelf.bases[path]
        if adapters.sizes(base) != (a.shape[1], b.shape[0]):
            raise Unfit(f"{path}: expected {adapters.sizes(base)}, got {a.shape[1], b.shape[0]}")
        there = (base.weight.device, base.weight.dtype)
        moved[path] = a.to(*there), b.to(*there)
        if not all(value.isfinite().all() for value in moved[path]):
            raise Unfit(f"{path}: expected values that {base.weight.dtype} can hold")
    shelf.held[name] = Held(settings.alpha / settings.r, moved)


def switch(shelf: Shelf, names: Names) -> None:
    """Choose one adapter, none, or one for each row; ValueError if one is not on the shelf."""
    asked = tuple(names) if isinstance(names, list) else (names,)
    for one in asked:
        if one is not None and not isinstance(one, str):
            raise Untyped(f"names: expected a name or None, got {one!r}")
        if one is not None and one not in shelf.held:
            raise Unfit(f"names: expected some of {sorted(shelf.held)}, got {one!r}")
    shelf.chosen = list(asked) if isinstance(names, list) else asked[0]


def detach(shelf: Shelf, name: str) -> None:
    """Take an adapter off the shelf; whoever had it has none now. ValueError if it is not there."""
    if name not in shelf.held:
        raise KeyError(f"name: expected one of {sorted(shelf.held)}, got {name!r}")
    chosen = shelf.chosen
    if isinstance(chosen, list):
        shelf.chosen = [None if one == name else one for one in chosen]
    elif chosen == name:
        shelf.chosen = None
    del shelf.held[name]
