"""What the fork server imports once, so that each contract run starts in milliseconds.

Holds no reference and no secret: children inherit its memory. One thread before the first tensor
operation, or a forked child can hang (RESEARCH: isolation).
"""

from __future__ import annotations

import copy
import gc
import importlib
import io
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import _pytest.assertion.rewrite
import torch

import minituner.grading.behave
import minituner.words
from minituner import minigpt
from minituner.grading.registry import labs

for lab_id in labs():
    importlib.import_module(f"minituner.grading.checks.lab{lab_id}")
torch.set_num_threads(1)
WARM = (_pytest.assertion.rewrite, minigpt, minituner.words)


PRACTICE = 12  # times


def warm() -> None:
    """Go the ways that every contract goes: torch imports late, and Python learns what is common.

    Neutral code only: a model the lab gives, its layers, a backward, a saved state.
    """
    config = minigpt.MiniGPTConfig(13, block_size=6, n_layer=2, n_head=2, d_model=12, d_ff=20)
    for _ in range(PRACTICE):
        model = copy.deepcopy(minigpt.MiniGPT(config).to(torch.float64))
        logits = model(torch.randint(0, 13, (3, 6)))
        torch.autograd.backward(logits.logsumexp(-1).sum())
        torch.optim.AdamW(model.parameters()).step()
        layer = torch.nn.Linear(5, 4)
        torch.nn.init.kaiming_uniform_(layer.weight, a=5**0.5)
        torch.nn.functional.dropout(torch.einsum("or,ri->oi", torch.ones(4, 2), torch.ones(2, 5)))
        copy.deepcopy(layer).to(torch.bfloat16)(torch.ones(2, 5, dtype=torch.bfloat16))
        model.requires_grad_(False).train().eval()
        list(model.named_modules(remove_duplicate=False)), list(model.named_parameters())
        kept = io.BytesIO()
        torch.save(model.state_dict(), kept)
        kept.seek(0)
        model.load_state_dict(torch.load(kept, weights_only=True))


warm()
gc.collect()
gc.freeze()  # what is loaded now stays: children need not look through it again
