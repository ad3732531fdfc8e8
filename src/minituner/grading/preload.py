"""What the fork server imports once, so that each contract run starts in milliseconds.

Holds no reference and no secret: children inherit its memory. One thread before the first tensor
operation, or a forked child can hang (RESEARCH: isolation).
Leaves out: what only pays where many runs are to come (rehearse.py).
"""

from __future__ import annotations

import gc
import importlib
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import _pytest.assertion.rewrite
import torch

import minituner.grading.behave
import minituner.words
from minituner import minigpt
from minituner.grading.box import uncompiled
from minituner.grading.registry import labs

uncompiled.stand_in()
for lab_id in labs():
    importlib.import_module(f"minituner.grading.checks.lab{lab_id}")
torch.set_num_threads(1)
WARM = (_pytest.assertion.rewrite, minigpt, minituner.words)

gc.collect()
gc.freeze()  # what is loaded now stays: children need not look through it again
