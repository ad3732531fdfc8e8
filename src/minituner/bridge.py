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
        raise NotImplementedError(
            "A1: take a Conv1D for the base and give it two factors; see lab/04-real-models.md"
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        raise NotImplementedError(
            "A2: add the branch to what the base gives; see lab/04-real-models.md"
        )

    def merge_(self) -> None:
        """Fold the update into base.weight, then zero A and B; a second call changes nothing."""
        raise NotImplementedError(
            "A3: fold the update into the weight, the right way round; see lab/04-real-models.md"
        )


def wrap_gpt2_with_lora(
    model: nn.Module, targets: Sequence[str], r: int = 8, alpha: float = 16.0, dropout: float = 0.0
) -> list[str]:
    """Replace the targeted Conv1Ds by LoRAConv1D, in place; freeze all else; return their names.

    ValueError when a target, or none, matches a Conv1D still to be wrapped; nothing is changed.
    """
    raise NotImplementedError(
        "A4: wrap GPT-2, and refuse a target that matches nothing; see lab/04-real-models.md"
    )


class LoRAParametrization(nn.Module):
    """W ↦ W + scaling · B A, each time a layer's weight is read; transposed for a Conv1D."""

    scaling: float  # alpha / r
    transposed: bool  # the weight is (in_features, out_features)
    lora_A: nn.Parameter  # (r, in_features), the weight's dtype and device
    lora_B: nn.Parameter  # (out_features, r), the same

    def __init__(self, layer: Base, r: int = 8, alpha: float = 16.0) -> None:
        """It freezes layer, and is then registered on layer.weight. ValueError: r < 1."""
        super().__init__()
        raise NotImplementedError(
            "B1: make the factors for a layer that will read its weight through you; "
            "see lab/04-real-models.md"
        )

    def forward(self, weight: Tensor) -> Tensor:
        """The adapted weight, of the same shape."""
        raise NotImplementedError(
            "B2: give the adapted weight each time it is read; see lab/04-real-models.md"
        )


def unwrap_merged(model: nn.Module) -> list[str]:
    """Merge every adapter, put its base back in its place, and return the names.

    ValueError: no adapter, or a base's weight is another module's, too (a tied head); as it was.
    """
    raise NotImplementedError("C1: merge, then put the plain bases back; see lab/04-real-models.md")


def adapter_files(model: nn.Module, base_name: str | None = None) -> dict[str, bytes]:
    """CONFIG and WEIGHTS of model's adapters, as PEFT reads them; the targets are full names.

    ValueError when there are none, or when one CONFIG cannot tell all: r, alpha, alpha / r.
    """
    raise NotImplementedError(
        "D1: put the adapters into PEFT's two files; see lab/04-real-models.md"
    )


def read_adapter(files: Files) -> tuple[Settings, Pairs]:
    """An adapter from its two files; ValueError unless all that they say fits together."""
    raise NotImplementedError("D2: read the two files strictly; see lab/04-real-models.md")


def fill(model: nn.Module, files: Files) -> None:
    """Copy an adapter into the Parameters of model's adapters; ValueError first, if unlike them."""
    raise NotImplementedError(
        "D3: look at everything, then fill the Parameters; see lab/04-real-models.md"
    )


def save_adapter(model: nn.Module, folder: Folder, base_name: str | None = None) -> None:
    """Write model's adapters into folder, whole or not at all; nothing of the base."""
    write_folder(folder, adapter_files(model, base_name))


def load_adapter(model: nn.Module, folder: Folder) -> None:
    """Fill model's adapters from folder; ValueError, and model as it was, if they do not fit."""
    fill(model, read_folder(folder))


def adapted(shelf: Shelf, name: str, x: Tensor, out: Tensor) -> Tensor:
    """out, plus each row's update by its adapter (axis 0); ValueError if chosen has other rows."""
    raise NotImplementedError(
        "E1: add to each row its own adapter's update; see lab/04-real-models.md"
    )


def attach(shelf: Shelf, name: str, files: Files) -> None:
    """Put an adapter on the shelf; ValueError if name is taken or it does not fit shelf.model."""
    raise NotImplementedError(
        "E2: put an adapter on the shelf, if it fits the model; see lab/04-real-models.md"
    )


def switch(shelf: Shelf, names: Names) -> None:
    """Choose one adapter, none, or one for each row; ValueError if one is not on the shelf."""
    raise NotImplementedError(
        "E3: switch: one adapter for all rows, none, or one a row; see lab/04-real-models.md"
    )


def detach(shelf: Shelf, name: str) -> None:
    """Take an adapter off the shelf; whoever had it has none now. ValueError if it is not there."""
    raise NotImplementedError("E4: detach without a trace; see lab/04-real-models.md")
