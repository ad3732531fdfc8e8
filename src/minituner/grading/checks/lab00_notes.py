"""Lab 00, task S3: the values of notes.md, measured anew with the seed that run.py uses.

The judge draws what experiments/28-lora-by-hand/run.py draws and computes each difference itself;
only outputs and gradients come from the worker. Leaves out: the comparison (notes.py).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minituner.grading.checks.asking import gap
from minituner.grading.checks.layers import size
from minituner.grading.expr import Expr, name
from minituner.grading.peer import Peer
from minituner.grading.talk import Talk

SIZE, RANK, ALPHA, SEED = 64, 8, 16.0, 28


def measure(worker: Peer) -> dict[str, str]:
    """Key -> value as run.py writes it; lora_sha256 apart."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        base, x = nn.Linear(SIZE, SIZE), torch.randn(32, SIZE)
        exact, eighths = nn.Linear(SIZE, SIZE), torch.randint(-8, 9, (32, SIZE)) / 8
        with torch.no_grad():
            for param in exact.parameters():
                param.copy_(torch.randint(-8, 9, param.shape) / 8)
        state = torch.get_rng_state()
    w = Talk(worker)
    kit = w.kit
    bases = [w.keep(kit.linear(b.weight.detach(), b.bias.detach())) for b in (exact, base)]
    w.do(w.torch.set_rng_state(state))  # after them: a new nn.Linear draws, too
    fresh = _layer(w, bases[0])
    at_init = gap(w.ask(fresh(eighths)), exact(eighths).detach())

    layer = _layer(w, bases[1])
    out = w.keep(layer(x))
    w.do(w.torch.autograd.backward(out.square().mean()))
    grads = w.ask((kit.slope(layer.lora_A), kit.slope(layer.lora_B)))
    rows = w.ask(kit.params(layer))
    trainable = sum(size(row) for row in rows if row[4])

    w.do(kit.put(layer.lora_B, w.torch.mul(w.torch.randn(SIZE, RANK), 0.02)))
    before = w.tensor(layer(x))
    w.do(layer.merge_())
    merge = gap(w.ask(layer(x)), before)
    largest = [g.abs().max().item() if isinstance(g, Tensor) else float("nan") for g in grads]
    return {
        "initial_output_diff": repr(at_init),
        "grad_A_at_init": repr(largest[0]),
        "grad_B_at_init": f"{largest[1]:.6g}",
        "merge_diff": f"{merge:.6g}",
        "trainable_params": f"{trainable:.6g}",
    }


def _layer(w: Talk, base: Expr) -> Expr:
    return w.keep(name("minituner.lora.LoRALinear")(base, r=RANK, alpha=ALPHA))
