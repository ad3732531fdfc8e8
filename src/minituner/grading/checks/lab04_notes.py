"""Lab 04, task S3: the values of notes.md, measured anew as experiments/28-real-model/run.py does.

The judge counts what trains and measures the file itself. Leaves out: the comparison (notes.py).
"""

from __future__ import annotations

import torch

from minituner.grading.checks.lab04_asking import KIT
from minituner.grading.checks.lab04_bytes import WEIGHTS, content
from minituner.grading.checks.layers import size
from minituner.grading.expr import Expr, name, tried
from minituner.grading.peer import Peer, Raised
from minituner.grading.talk import Talk

R, TOKENS, ROWS, COLUMNS = 4, 256, 768, 2304
STAR, GIVEN = name("minituner.bridge"), name("minituner")
SETS = {
    "gpt2_unmatched": ["q_proj"],
    "gpt2_c_attn": ["c_attn"],
    "gpt2_attention": ["c_attn", "attn.c_proj"],
    "gpt2_careless": ["c_attn", "c_proj"],
}


def measure(worker: Peer) -> dict[str, str]:
    """Key -> value as run.py writes it; bridge_sha256 apart."""
    w, values = Talk(worker), dict[str, int]()
    models = {key: w.keep(GIVEN.gpt2.hollow_gpt2()) for key in SETS}
    for key, targets in SETS.items():
        raised = w.ask(tried(STAR.wrap_gpt2_with_lora(models[key], targets, r=R)))
        if isinstance(raised, Raised) and (
            targets != ["q_proj"] or "ValueError" not in raised.kinds
        ):
            raise raised
        values[key] = _trainable(w, models[key])
    wrapped = w.keep(STAR.LoRAConv1D(_conv1d(), r=R))
    other = w.keep(_conv1d())
    how = w.torch.nn.utils.parametrize.register_parametrization
    w.do(how(other, "weight", STAR.LoRAParametrization(other, r=R)))
    for key, layer in (("wrapped", wrapped), ("parametrized", other)):
        values[f"{key}_saved_bytes"] = w.ask(KIT.kept_bytes(layer, torch.ones(TOKENS, ROWS)))
    told = w.ask(KIT.raw(STAR.adapter_files(models["gpt2_c_attn"])))
    values["adapter_bytes"] = len(content(told, WEIGHTS))
    return {key: str(value) for key, value in values.items()}


def _conv1d() -> Expr:
    made: Expr = GIVEN.gpt2.Conv1D(COLUMNS, ROWS)
    return made


def _trainable(w: Talk, model: Expr) -> int:
    rows = w.ask(w.kit.params(model))
    return sum(size(row) for row in rows if row[4] and row[0] == row[6])
