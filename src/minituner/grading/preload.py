"""What the fork server imports once, so that each contract run starts in milliseconds.

Holds no reference and no secret: children inherit its memory. One thread before the first tensor
operation, or a forked child can hang (RESEARCH: isolation).
Leaves out: what only pays where many runs are to come (rehearse.py).
"""

from __future__ import annotations

import gc
import os
from importlib import import_module

from minituner.grading.registry import labs

NAMES = ["_pytest.assertion.rewrite", "minituner.minigpt", "minituner.words"]
NAMES += ["minituner.grading.behave", "minituner.grading.box.uncompiled"]


def load() -> None:
    """torch, pytest and what every run uses."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch, *_, uncompiled = map(import_module, ["torch", *NAMES])
    uncompiled.stand_in()
    for lab_id in labs():
        import_module(f"minituner.grading.checks.lab{lab_id}")
    torch.set_num_threads(1)


# What is loaded stays, and a child ends before looking for garbage would pay: to look takes the
# server an eighth of its time, and a contract run a twelfth.
gc.disable()
load()
gc.freeze()  # should a child look all the same, it need not look through this
