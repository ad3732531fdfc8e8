"""What the fork server imports once, so that each contract run starts in milliseconds.

Holds no reference and no secret: children inherit its memory. One thread before the first tensor
operation, or a forked child can hang (RESEARCH: isolation).
"""

from __future__ import annotations

import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import _pytest.assertion.rewrite
import torch

import minituner.grading.behave
import minituner.grading.checks.lab00
import minituner.minigpt
import minituner.words

torch.set_num_threads(1)
WARM = (_pytest.assertion.rewrite, minituner.minigpt, minituner.words)


def warm() -> None:
    """Pull in what torch imports lazily: backward, an optimiser, a state dict."""
    layer = torch.nn.Linear(2, 2)
    optimiser = torch.optim.AdamW(layer.parameters())
    torch.autograd.backward(layer(torch.ones(1, 2)).sum())
    optimiser.step()
    layer.state_dict()


warm()
gc.collect()
gc.freeze()  # what is loaded now stays: children need not look through it again
