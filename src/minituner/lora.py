"""LoRA for nn.Linear, by hand: y = W x + b + (α/r) B A x, with W and b frozen.

Source: Hu et al. 2021, arXiv:2106.09685 §4.1. The contract is BLUEPRINT.md beside this file.
Leaves out: convolutions and embeddings, rsLoRA and DoRA, quantised bases.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class LoRALinear(nn.Module):
    """A frozen nn.Linear with a trainable low-rank branch beside it.

    Args:
        base: the layer to adapt; kept as it is, not copied.
        r: rank of the update, at least 1.
        alpha: numerator of the scale.
        dropout: probability in [0, 1) of dropping an entry of the branch's input while training.
        freeze_base: False leaves base's requires_grad flags as found.

    Raises:
        TypeError: base is not an nn.Linear.
        ValueError: r < 1, or dropout outside [0, 1).
    """

    base: nn.Linear
    r: int
    alpha: float
    scaling: float  # alpha / r, dimensionless; a plain float, so it never enters the state
    lora_A: nn.Parameter  # (r, in_features), base's dtype and device
    lora_B: nn.Parameter  # (out_features, r), base's dtype and device
    dropout: nn.Dropout

    def __init__(
        self,
        base: nn.Linear,
        r: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        freeze_base: bool = True,
    ) -> None:
        super().__init__()
        raise NotImplementedError(
            "A1: check the arguments and store the fields; see lab/00-lora-by-hand.md"
        )
        raise NotImplementedError(
            "A2: allocate lora_A (r, in_features) and lora_B (out_features, r); "
            "see lab/00-lora-by-hand.md"
        )
        raise NotImplementedError(
            "A3: initialise A with kaiming_uniform_(a=√5) and B with zeros; "
            "see lab/00-lora-by-hand.md"
        )
        raise NotImplementedError(
            "A4: put dropout on the branch's input and follow base's mode; "
            "see lab/00-lora-by-hand.md"
        )
        raise NotImplementedError(
            "A6: freeze base's weight and bias, unless freeze_base=False; "
            "see lab/00-lora-by-hand.md"
        )

    def forward(self, x: Tensor) -> Tensor:
        """base(x) + scaling · B A dropout(x): (..., in_features) -> (..., out_features)."""
        raise NotImplementedError(
            "A5: write forward: base(x) + (α/r) B A dropout(x); see lab/00-lora-by-hand.md"
        )

    def merge_(self) -> None:
        """Fold the update into base.weight, W + (α/r) B A, then zero A and B.

        A second call adds zero, so it changes nothing. Both gradients are zero afterwards: give A
        new values before training this adapter again.
        """
        raise NotImplementedError(
            "D1: fold (α/r) B A into base.weight, then zero A and B; see lab/00-lora-by-hand.md"
        )


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    """Replace the targeted linears of model by LoRALinear, in place; freeze everything else.

    Args:
        target_modules: a linear matches t when its dotted name is t or ends with "." + t.

    Returns:
        The dotted names that were wrapped.

    Raises:
        ValueError: a target matches no linear that is still to be wrapped; nothing is changed.
    """
    raise NotImplementedError(
        "B1: find the linears to wrap; refuse a target that matches nothing; "
        "see lab/00-lora-by-hand.md"
    )
    raise NotImplementedError(
        "B2: replace each of them in place, a shared one once; see lab/00-lora-by-hand.md"
    )
    raise NotImplementedError(
        "B3: freeze every parameter that is no adapter; return the names; "
        "see lab/00-lora-by-hand.md"
    )


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Every adapter's A and B under its full dotted name, as detached copies."""
    raise NotImplementedError(
        "C1: return every A and B by its full name, as detached copies; see lab/00-lora-by-hand.md"
    )


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy saved adapters into the Parameters that model already has.

    Args:
        state: as lora_state_dict returns it, for a model wrapped the same way.

    Raises:
        KeyError: an entry is missing or unexpected; model is unchanged.
        ValueError: an entry has the wrong shape or is not finite; model is unchanged.
    """
    raise NotImplementedError(
        "C2: check every name, shape and value, then copy into the Parameters; "
        "see lab/00-lora-by-hand.md"
    )
