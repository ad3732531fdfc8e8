"""One batched product for all rows: factors padded to one rank and gathered by row; zeros for those who have none."""

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


def stacked(shelf: Shelf, name: str) -> dict[str | None, tuple[Tensor, Tensor]]:
    """Each adapter's A and scaled B for one module, of one rank: zeros fill up the smaller ones."""
    here = {who: held for who, held in shelf.held.items() if name in held.pairs}
    most = max((len(held.pairs[name][0]) for held in here.values()), default=0)
    padded: dict[str | None, tuple[Tensor, Tensor]] = {}
    for who, held in here.items():
        a, b = held.pairs[name]
        more = most - len(a)
        padded[who] = F.pad(a, (0, 0, 0, more)), F.pad(held.scaling * b, (0, more))
    return padded


def low_rank(layer: LoRAConv1D, dtype: torch.dtype) -> Tensor:
    """scaling · Aᵀ Bᵀ, as the weight of a Conv1D lies."""
    empty = layer.base.weight.new_zeros(1, 1, dtype=dtype)
    a, b = layer.lora_A.T.to(dtype), layer.lora_B.T.to(dtype)
    return torch.addmm(empty, a, b, beta=0, alpha=layer.scaling)


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
            raise TypeError(f"base: {type(base)}")
        adapters.check_rank(r, dropout)
        self.register_module("base", base.requires_grad_(False))
        for name, factor in zip(("lora_A", "lora_B"), adapters.factors(base, r), strict=True):
            self.register_parameter(name, factor)
        self.r, self.alpha, self.scaling = r, alpha, alpha / r
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        flat: Tensor = self.dropout(x).flatten(0, -2) if x.ndim > 1 else self.dropout(x)[None]
        update = torch.mm(torch.mm(flat, self.lora_A.T), self.lora_B.T)
        out: Tensor = self.base(x)
        return torch.add(out, update.view(out.shape), alpha=self.scaling)

    def merge_(self) -> None:
        """Fold the update into base.weight, then zero A and B; a second call changes nothing."""
        dtype = torch.promote_types(self.base.weight.dtype, torch.float32)
        with torch.no_grad():
            merged = self.base.weight.to(dtype) + low_rank(self, dtype)
            self.base.load_state_dict({"weight": merged.to(self.base.weight), "bias": self.base.bias})
            for factor in (self.lora_A, self.lora_B):
                factor.zero_()


def wrap_gpt2_with_lora(
    model: nn.Module, targets: Sequence[str], r: int = 8, alpha: float = 16.0, dropout: float = 0.0
) -> list[str]:
    """Replace the targeted Conv1Ds by LoRAConv1D, in place; freeze all else; return their names.

    ValueError when a target, or none, matches a Conv1D still to be wrapped; nothing is changed.
    """
    found, missed = adapters.targets_in(model, targets, is_conv1d)
    if missed or not found:
        raise ValueError(f"targets: nothing for {missed or targets}")
    layers = nn.ModuleList(LoRAConv1D(m, r, alpha, dropout) for m in dict.fromkeys(found.values()))
    by_base = {layer.base: layer for layer in layers if isinstance(layer, LoRAConv1D)}
    for name, module in found.items():
        adapters.place(model, name, by_base[module])
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
        adapters.check_rank(r)
        for name, factor in zip(("lora_A", "lora_B"), adapters.factors(layer, r), strict=True):
            self.register_parameter(name, factor)
        self.transposed = is_conv1d(layer)
        self.scaling = alpha / r
        layer.requires_grad_(False)

    def forward(self, weight: Tensor) -> Tensor:
        """The adapted weight, of the same shape."""
        straight = weight.T if self.transposed else weight
        adapted_ = torch.addmm(straight, self.lora_B, self.lora_A, alpha=self.scaling)
        return adapted_.T.contiguous() if self.transposed else adapted_


def unwrap_merged(model: nn.Module) -> list[str]:
    """Merge every adapter, put its base back in its place, and return the names.

    ValueError: no adapter, or a base's weight is another module's, too (a tied head); as it was.
    """
    found = adapters_of(model)
    ids = torch.tensor([id(p) for m in model.modules() for p in m.parameters(recurse=False)])
    shared = ids[(ids[:, None] == ids).sum(1) > 1].tolist()
    if not found or any(id(layer.base.weight) in shared for layer in found.values()):
        raise ValueError("model: no adapters, or tied weights")
    for name, layer in found.items():
        layer.merge_()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.base)
    return list(found)


def adapter_files(model: nn.Module, base_name: str | None = None) -> dict[str, bytes]:
    """CONFIG and WEIGHTS of model's adapters, as PEFT reads them; the targets are full names.

    ValueError when there are none, or when one CONFIG cannot tell all: r, alpha, alpha / r.
    """
    found = adapters_of(model)
    table = torch.tensor(
        [[a.r, a.alpha, a.scaling - a.alpha / a.r, is_conv1d(a.base)] for a in found.values()],
        dtype=torch.float64,
    )
    if not found or (table != table[0]).any() or table[0, 2] != 0:
        raise ValueError(f"model: one config cannot tell {table.tolist()}")
    first = next(iter(found.values()))
    tensors = {
        f"{PREFIX}{name}.{key}.weight": value.detach().clone()
        for name, layer in found.items()
        for key, value in layer.named_parameters(recurse=False)
        if key in ("lora_A", "lora_B")
    }
    settings = Settings(first.r, first.alpha, tuple(found), bool(table[0, 3]))
    return to_files(settings, tensors, base_name)


def read_adapter(files: Files) -> tuple[Settings, Pairs]:
    """An adapter from its two files; ValueError unless all that they say fits together."""
    settings, tensors = from_files(files)
    a_of = {k[len(PREFIX) : -14]: v for k, v in tensors.items() if k.endswith(".lora_A.weight")}
    b_of = {k[len(PREFIX) : -14]: v for k, v in tensors.items() if k.endswith(".lora_B.weight")}
    known = {f"{PREFIX}{name}.lora_{part}.weight" for name in a_of for part in "AB"}
    if not tensors or tensors.keys() != known or a_of.keys() != b_of.keys():
        raise ValueError(f"files: expected pairs, got {sorted(tensors)}")
    for name in a_of:
        if (a_of[name].shape[:1], b_of[name].shape[1:]) != ((settings.r,), (settings.r,)):
            raise ValueError(f"{name}: expected rank {settings.r}")
        if a_of[name].ndim + b_of[name].ndim != 4:
            raise ValueError(f"{name}: expected matrices")
    if not torch.cat([value.double().flatten() for value in tensors.values()]).isfinite().all():
        raise ValueError("files: expected finite values")
    if loose := adapters.unmatched(a_of, settings.targets):
        raise ValueError(f"files: {loose} alone")
    return settings, {name: (a_of[name], b_of[name]) for name in a_of}


def fill(model: nn.Module, files: Files) -> None:
    """Copy an adapter into the Parameters of model's adapters; ValueError first, if unlike them."""
    settings, pairs = read_adapter(files)
    own = adapters_of(model)
    if own.keys() != pairs.keys():
        raise ValueError(f"files: expected {sorted(own)}, got {sorted(pairs)}")
    for name, layer in own.items():
        if (layer.r, layer.alpha) != (settings.r, settings.alpha):
            raise ValueError(f"{name}: another r or alpha")
        if layer.scaling != layer.alpha / layer.r:
            raise ValueError(f"{name}: another scaling")
        for param, value in zip((layer.lora_A, layer.lora_B), pairs[name], strict=True):
            if param.shape != value.shape or not value.to(param).isfinite().all():
                raise ValueError(f"{name}: another shape, or not finite")
    state = {f"{name}.lora_A": a for name, (a, _) in pairs.items()}
    state |= {f"{name}.lora_B": b for name, (_, b) in pairs.items()}
    if model.load_state_dict(state, strict=False).unexpected_keys:
        raise RuntimeError("fill: checked, and yet there is no such key")


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
        raise ValueError(f"chosen: {len(chosen)} for {len(x)} rows")
    factors = stacked(shelf, name)
    rows = [row for row, who in enumerate(chosen) if who in factors]
    if not rows:
        return out
    a = torch.stack([factors[chosen[row]][0] for row in rows])
    b = torch.stack([factors[chosen[row]][1] for row in rows])
    flat = x[rows].flatten(1, -2) if x.ndim > 2 else x[rows][:, None]
    update = torch.bmm(torch.bmm(flat, a.mT), b.mT)
    return out.index_add(0, torch.tensor(rows, device=x.device), update.view_as(out[rows]))


def attach(shelf: Shelf, name: str, files: Files) -> None:
    """Put an adapter on the shelf; ValueError if name is taken or it does not fit shelf.model."""
    settings, pairs = read_adapter(files)
    if name in shelf.held:
        raise ValueError(f"name: {name!r} is taken")
    wanted = {path: (a.shape[1], b.shape[0]) for path, (a, b) in pairs.items()}
    if not wanted.items() <= {path: adapters.sizes(m) for path, m in shelf.bases.items()}.items():
        raise ValueError(f"files: the model has no modules {wanted}")
    moved = {
        path: (a.to(shelf.bases[path].weight), b.to(shelf.bases[path].weight))
        for path, (a, b) in pairs.items()
    }
    shelf.held[name] = Held(settings.alpha / settings.r, moved)


def switch(shelf: Shelf, names: Names) -> None:
    """Choose one adapter, none, or one for each row; ValueError if one is not on the shelf."""
    asked = set(names) if isinstance(names, list) else {names}
    if not asked <= {None, *shelf.held}:
        raise ValueError(f"names: {asked - {None, *shelf.held}} are not on the shelf")
    shelf.chosen = list(names) if isinstance(names, list) else names


def detach(shelf: Shelf, name: str) -> None:
    """Take an adapter off the shelf; whoever had it has none now. ValueError if it is not there."""
    if shelf.held.pop(name, None) is None:
        raise ValueError(f"name: {name!r} is not on the shelf")
    if isinstance(shelf.chosen, list):
        shelf.chosen = [who if who in shelf.held else None for who in shelf.chosen]
    elif shelf.chosen not in shelf.held:
        shelf.chosen = None
