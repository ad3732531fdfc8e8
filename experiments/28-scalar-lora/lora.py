"""LoRA on scalars: freeze the model, then put scaling · B A beside the linears that are named.

Source: Hu et al. 2021, arXiv:2106.09685 §4.1; A on the input side is random and B zero.
Leaves out: merging, saving; lab 00 has both. Imports the standard library only.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from engine import Value
from model import GPT, Adapter


def ends(name: str, target: str) -> bool:
    """Whether name ends with target at a dot: xq_proj is not q_proj."""
    return f".{name}".endswith(f".{target}")


def add_adapters(
    model: GPT, r: int, alpha: float, targets: Sequence[str], rng: random.Random
) -> list[str]:
    """Freeze every weight of model and give each targeted linear an adapter, in place.

    Args:
        r: rank of the update, at least 1.
        alpha: numerator of the scale.
        targets: ends of dotted names, each at a dot: "q_proj", "mlp.fc1".
        rng: where A is drawn from, uniform within ±1/√in_features; B is zero.

    Returns:
        The dotted names of the adapted linears.

    Raises:
        ValueError: r < 1, or a target that no linear has.
    """
    if r < 1:
        raise ValueError(f"r: expected at least 1, got {r}; 2 is plenty here")
    linears = model.linears()
    for target in targets:
        if not any(ends(name, target) for name in linears):
            raise ValueError(f"targets: expected an end of one of {linears}, got {target!r}")
    for value in model.base():
        value.needs_grad = False
    chosen = [name for name in linears if any(ends(name, target) for target in targets)]
    for name in chosen:
        rows = model.weights[f"{name}.weight"]
        bound = 1.0 / math.sqrt(len(rows[0]))
        model.adapters[name] = Adapter(
            A=[[Value(rng.uniform(-bound, bound), True) for _ in rows[0]] for _ in range(r)],
            B=[[Value(0.0, True) for _ in range(r)] for _ in rows],
            scaling=alpha / r,
        )
    return chosen
