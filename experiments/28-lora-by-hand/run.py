"""Measures your lora.py: difference at init, gradient flow, merge difference, trainable count.

    python experiments/28-lora-by-hand/run.py            print the values
    python experiments/28-lora-by-hand/run.py --write    also put them into notes.md

Source: the stop conditions of lab/00-lora-by-hand.md. Leaves out: the verdict; the grader measures
again and compares.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from minituner.measuring import main_of

if TYPE_CHECKING:  # which file this is at run time is the caller's choice
    from minituner.lora import LoRALinear

SIZE, RANK, ALPHA, SEED = 64, 8, 16.0, 28


def measure(lora: ModuleType) -> dict[str, float | str]:
    """The values of notes.md, float32 on the cpu, from one fixed seed.

    The layer is Linear(64, 64) with r = 8 and alpha = 16; the input has 32 rows.
    """
    layer_class: type[LoRALinear] = lora.LoRALinear
    torch.manual_seed(SEED)
    base = nn.Linear(SIZE, SIZE)
    x = torch.randn(32, SIZE)
    exact = nn.Linear(SIZE, SIZE)
    eighths = torch.randint(-8, 9, (32, SIZE)) / 8
    with torch.no_grad():  # multiples of 1/8 sum without rounding, in any order
        for param in exact.parameters():
            param.copy_(torch.randint(-8, 9, param.shape) / 8)

    fresh = layer_class(exact, r=RANK, alpha=ALPHA)
    at_init = (fresh(eighths) - exact(eighths)).abs().max().item()

    layer = layer_class(base, r=RANK, alpha=ALPHA)
    torch.autograd.backward(layer(x).square().mean())
    grad_a, grad_b = _largest(layer.lora_A.grad), _largest(layer.lora_B.grad)
    trainable = sum(p.numel() for p in layer.parameters() if p.requires_grad)

    with torch.no_grad():
        layer.lora_B.copy_(torch.randn(SIZE, RANK) * 0.02)  # about what training leaves there
    before = layer(x).detach()
    layer.merge_()
    return {
        "initial_output_diff": repr(at_init),  # exactly 0.0, or not
        "grad_A_at_init": repr(grad_a),  # likewise
        "grad_B_at_init": grad_b,
        "merge_diff": (layer(x) - before).abs().max().item(),
        "trainable_params": trainable,
    }


def _largest(grad: Tensor | None) -> float:
    return float("nan") if grad is None else grad.abs().max().item()


if __name__ == "__main__":
    sys.exit(main_of("00", measure, __doc__))
