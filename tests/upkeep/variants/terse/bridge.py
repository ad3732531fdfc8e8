"""As few lines as will do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from minituner import adapters as ad
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
        if not is_conv1d(base):
            raise TypeError("base: no Conv1D")
        ad.check_rank(r, dropout)
        self.base, self.r, self.alpha, self.scaling = base.requires_grad_(False), r, alpha, alpha / r
        (self.lora_A, self.lora_B), self.dropout = ad.factors(base, r), nn.Dropout(dropout)
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        out: Tensor = self.base(x) + self.dropout(x) @ self.lora_A.T @ self.lora_B.T * self.scaling
        return out

    def merge_(self) -> None:
        """Fold the update into base.weight, then zero A and B; a second call changes nothing."""
        a, b, w = self.lora_A.data, self.lora_B.data, self.base.weight.data
        wide = torch.float64 if w.dtype == torch.float64 else torch.float32
        w.copy_(w.to(wide) + (b.to(wide) @ a.to(wide)).T * self.scaling)
        a.zero_()
        b.zero_()


def wrap_gpt2_with_lora(
    model: nn.Module, targets: Sequence[str], r: int = 8, alpha: float = 16.0, dropout: float = 0.0
) -> list[str]:
    """Replace the targeted Conv1Ds by LoRAConv1D, in place; freeze all else; return their names.

    ValueError when a target, or none, matches a Conv1D still to be wrapped; nothing is changed.
    """
    found, missed = ad.targets_in(model, targets, is_conv1d)
    if missed or not found:
        raise ValueError(f"no Conv1D for {missed}")
    new = {m: LoRAConv1D(m, r, alpha, dropout) for m in dict.fromkeys(found.values())}
    for name, m in found.items():
        ad.place(model, name, new[m])
    ad.freeze_all_but_adapters(model)
    return [*found]


class LoRAParametrization(nn.Module):
    """W ↦ W + scaling · B A, each time a layer's weight is read; transposed for a Conv1D."""

    scaling: float  # alpha / r
    transposed: bool  # the weight is (in_features, out_features)
    lora_A: nn.Parameter  # (r, in_features), the weight's dtype and device
    lora_B: nn.Parameter  # (out_features, r), the same

    def __init__(self, layer: Base, r: int = 8, alpha: float = 16.0) -> None:
        """It freezes layer, and is then registered on layer.weight. ValueError: r < 1."""
        super().__init__()
        ad.check_rank(r)
        self.scaling, self.transposed = alpha / r, is_conv1d(layer.requires_grad_(False))
        self.lora_A, self.lora_B = ad.factors(layer, r)

    def forward(self, weight: Tensor) -> Tensor:
        """The adapted weight, of the same shape."""
        a, b = (self.lora_B.T, self.lora_A.T) if self.transposed else (self.lora_A, self.lora_B)
        return weight + self.scaling * (b @ a)


def unwrap_merged(model: nn.Module) -> list[str]:
    """Merge every adapter, put its base back in its place, and return the names.

    ValueError: no adapter, or a base's weight is another module's, too (a tied head); as it was.
    """
    found = adapters_of(model)
    own = [p for m in model.modules() for p in m.parameters(recurse=False)]
    if not found or any(sum(p is a.base.weight for p in own) > 1 for a in found.values()):
        raise ValueError("no adapter, or a tied weight")
    for name, a in found.items():
        a.merge_()
        ad.place(model, name, a.base)
    return [*found]


def adapter_files(model: nn.Module, base_name: str | None = None) -> dict[str, bytes]:
    """CONFIG and WEIGHTS of model's adapters, as PEFT reads them; the targets are full names.

    ValueError when there are none, or when one CONFIG cannot tell all: r, alpha, alpha / r.
    """
    found = adapters_of(model)
    (kind,) = {(a.r, a.alpha, a.alpha / a.r == a.scaling, is_conv1d(a.base)) for a in found.values()}
    if not kind[2]:
        raise ValueError("scaling is not alpha / r")
    both = {f"{n}.lora_A": a.lora_A for n, a in found.items()}
    both |= {f"{n}.lora_B": a.lora_B for n, a in found.items()}
    tensors = {f"{PREFIX}{key}.weight": value.data.clone() for key, value in both.items()}
    return to_files(Settings(kind[0], kind[1], tuple(found), kind[3]), tensors, base_name)


def read_adapter(files: Files) -> tuple[Settings, Pairs]:
    """An adapter from its two files; ValueError unless all that they say fits together."""
    s, left = from_files(files)
    cut = len(PREFIX), -len(".lora_A.weight")
    names = {k[slice(*cut)] for k in left}
    key = "{}{}.lora_{}.weight"
    pairs = {n: (left[key.format(PREFIX, n, "A")], left[key.format(PREFIX, n, "B")]) for n in names}
    fits = (a.ndim == b.ndim == 2 and s.r == len(a) == b.shape[1] for a, b in pairs.values())
    if not all(fits) or len(left) != 2 * len(pairs) or not pairs or ad.unmatched(pairs, s.targets):
        raise ValueError("names, shapes or targets do not fit")
    if not all(v.isfinite().all() for v in left.values()):
        raise ValueError("not finite")
    return s, pairs


def fill(model: nn.Module, files: Files) -> None:
    """Copy an adapter into the Parameters of model's adapters; ValueError first, if unlike them."""
    (s, pairs), own = read_adapter(files), adapters_of(model)
    if own.keys() != pairs.keys():
        raise ValueError("other modules")
    if any((a.r, a.alpha, a.scaling) != (s.r, s.alpha, s.alpha / s.r) for a in own.values()):
        raise ValueError("another scale")
    todo = [pair for n, a in own.items() for pair in zip((a.lora_A, a.lora_B), pairs[n], strict=True)]
    if any(p.shape != v.shape or not v.to(p.dtype).isfinite().all() for p, v in todo):
        raise ValueError("other sizes, or not finite")
    for p, v in todo:
        p.data.copy_(v)


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
        raise ValueError(f"{len(chosen)} names for {len(x)} rows")
    pick = [None if n is None else shelf.held.get(n) for n in chosen]
    rows = [
        o + h.scaling * (i @ h.pairs[name][0].T @ h.pairs[name][1].T) if h and name in h.pairs else o
        for i, o, h in zip(x, out, pick, strict=True)
    ]
    return torch.stack(rows)


def attach(shelf: Shelf, name: str, files: Files) -> None:
    """Put an adapter on the shelf; ValueError if name is taken or it does not fit shelf.model."""
    s, pairs = read_adapter(files)
    want = {p: ad.sizes(m) for p, m in shelf.bases.items()}
    if name in shelf.held or any(want.get(p) != (a.shape[1], len(b)) for p, (a, b) in pairs.items()):
        raise ValueError(f"{name!r} is taken or does not fit")
    to = {p: shelf.bases[p].weight for p in pairs}
    held = {p: (a.to(to[p]), b.to(to[p])) for p, (a, b) in pairs.items()}
    shelf.held[name] = Held(s.alpha / s.r, held)


def switch(shelf: Shelf, names: Names) -> None:
    """Choose one adapter, none, or one for each row; ValueError if one is not on the shelf."""
    if new := {*(names if isinstance(names, list) else [names])} - {None, *shelf.held}:
        raise ValueError(f"not there: {new}")
    shelf.chosen = [*names] if isinstance(names, list) else names


def detach(shelf: Shelf, name: str) -> None:
    """Take an adapter off the shelf; whoever had it has none now. ValueError if it is not there."""
    del shelf.held[name]
    c = shelf.chosen
    shelf.chosen = [n if n in shelf.held else None for n in c] if isinstance(c, list) else c
    shelf.chosen = None if c == name else shelf.chosen
