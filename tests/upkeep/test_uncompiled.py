"""The stand-in for torch's compiler: optimisers and meta draws do without it, others get it."""

from __future__ import annotations

import subprocess
import sys

import pytest

SMALL = """
import sys
import torch
from minituner.grading.box import uncompiled

def optimised():
    trained = torch.nn.Parameter(torch.arange(3.0))
    optimiser = torch.optim.AdamW([trained], lr=0.1, weight_decay=0.5)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 0.5**step)
    for _ in range(3):
        optimiser.zero_grad()
        torch.autograd.backward((trained**3).sum())
        optimiser.step()
        schedule.step()
    return trained.tolist(), torch.nn.init.normal_(torch.empty(2, 3, device="meta")).shape

def loaded():
    return "torch._dynamo.eval_frame" in sys.modules

uncompiled.stand_in()
stood, kept = optimised(), torch._dynamo
assert not loaded()
assert not hasattr(kept, "__wrapped__") and not loaded()
"""
MORE = {
    "a module in it": "import torch._dynamo.config\nassert kept.config is torch._dynamo.config",
    "what torch does with it": """
from torch.utils.checkpoint import checkpoint
checkpoint(torch.tanh, torch.ones(2, requires_grad=True), use_reentrant=False)
torch.compile(torch.tanh, backend="eager")(torch.ones(2))
""",
}


@pytest.mark.parametrize("more", MORE.values(), ids=MORE)
def test_nothing_is_loaded_until_it_is_asked_for(more: str) -> None:
    """Steps to the bit as with the compiler there, which then is the real one."""
    after = "assert loaded() and torch._dynamo is not kept\nassert optimised() == stood\n"
    words = [sys.executable, "-W", "error", "-c", f"{SMALL}{more}\n{after}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
