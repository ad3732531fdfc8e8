"""Lab 03, task S3: the values of notes.md, measured anew as experiments/28-rank/run.py does.

The judge reads the same sample.pt, draws the same noise, and multiplies B A itself.
Leaves out: the comparison (notes.py).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from minituner.grading.checks.asking import plain
from minituner.grading.checks.lab03_asking import product
from minituner.grading.expr import name
from minituner.grading.peer import Peer
from minituner.grading.registry import ROOT
from minituner.grading.talk import Talk
from minituner.minigpt import MiniGPT, MiniGPTConfig

SEED, R, ALPHA, BUDGET = 28, 8, 16.0, 36_864
SETS = {"qv": ("q_proj", "v_proj"), "mlp": ("mlp.fc1", "mlp.fc2")}


def measure(worker: Peer) -> dict[str, str]:
    """Key -> value as run.py writes it; rank_sha256 apart."""
    held: dict[str, Tensor] = torch.load(ROOT / "experiments/28-rank/sample.pt", weights_only=True)
    generator = torch.Generator().manual_seed(SEED)
    noise, one, two = (
        torch.randn(held[like].shape, generator=generator, dtype=torch.float64)
        for like in ("before", "A0", "A1")
    )
    w, star = Talk(worker), name("minituner.rank")
    delta = w.keep(star.weight_update(held["before"], held["after"]))
    spectrum, alone = (w.keep(star.singular_spectrum(each)) for each in (delta, noise))
    pair = w.keep(star.best_factors(delta, R, scaling=ALPHA / R))
    shapes = w.keep(
        [
            star.LinearShape(label, linear.in_features, linear.out_features)
            for label, linear in MiniGPT(MiniGPTConfig()).named_modules()
            if isinstance(linear, nn.Linear)
        ]
    )
    plans = w.keep(star.rank_plan(shapes, SETS, BUDGET))
    asked = {
        "energy_rank": star.energy_rank(spectrum),
        "energy_rank_noise": star.energy_rank(alone),
        "entropy_rank": star.entropy_rank(spectrum),
        "entropy_rank_noise": star.entropy_rank(alone),
        "lost_r8": (star.truncation_error(spectrum, R), star.truncation_error(spectrum, 0)),
        "distance_r8": (delta, pair[0], pair[1]),
        "phi_1_1": star.subspace_similarity(held["A0"], held["A1"], 1, 1),
        "phi_8_8": star.subspace_similarity(held["A0"], held["A1"], R, R),
        "phi_8_8_noise": star.subspace_similarity(one, two, R, R),
        "rank_qv": plans["qv"].rank,
        "rank_mlp": plans["mlp"].rank,
        "root_over_plain_r64": (
            star.scaling_factor(ALPHA, 64, "alpha/sqrt(r)"),
            star.scaling_factor(ALPHA, 64),
        ),
    }
    values: dict[str, Any] = dict(zip(asked, plain(w.ask(list(asked.values()))), strict=True))
    update, *factors = values["distance_r8"]
    values["distance_r8"] = _missed(update, product(factors, held["before"].shape))
    for key in ("lost_r8", "root_over_plain_r64"):
        above, below = values[key]
        values[key] = above / below
    return {key: _shown(value) for key, value in values.items()}


def _missed(delta: Tensor, product: Tensor | None) -> float:
    """‖delta - s B A‖ / ‖delta‖."""
    if product is None:
        return math.nan
    return float((delta - ALPHA / R * product).norm() / delta.norm())


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"
