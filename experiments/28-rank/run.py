"""Measures an update and two adapters with your rank.py; with --full, finds where rank lives.

    python experiments/28-rank/run.py             print the values
    python experiments/28-rank/run.py --write     also put them into notes.md
    python experiments/28-rank/run.py --smoke     every ablation, two steps each, in seconds
    python experiments/28-rank/run.py --full      all of them, about 25 minutes on one core, and the
                                                  figures; begun again, it goes on where it was
    python experiments/28-rank/run.py --figures   draw the figures anew from their JSON

Source: lab/03-where-rank-lives.md. The values of the notes need rank.py alone. The ablations train
with lora.py and adapt.py, too: the reference's, unless --impl says student. Leaves out: a verdict.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from minituner.measuring import parser, report
from minituner.minigpt import MiniGPT, MiniGPTConfig
from minituner.plots import redraw_all
from minituner.words import say

HERE = Path(__file__).resolve().parent
SEED, R, ALPHA, BUDGET = 28, 8, 16.0, 36_864
SETS = {"qv": ("q_proj", "v_proj"), "mlp": ("mlp.fc1", "mlp.fc2")}


def measure(rank: ModuleType) -> dict[str, float | str]:
    """The values of notes.md, of what stands in sample.pt (sample.py says what that is).

    The update is that of one fine-tuned weight, (256, 64); the noise has its shape. The adapters
    are two of r = 8 from two seeds, the noise beside them two random A. The budget is what r = 8 on
    all linears of the default MiniGPT trains.
    """
    held: dict[str, Tensor] = torch.load(HERE / "sample.pt", weights_only=True)
    delta = rank.weight_update(held["before"], held["after"])
    spectrum = rank.singular_spectrum(delta)
    generator = torch.Generator().manual_seed(SEED)
    noise, one, two = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in (delta.shape, held["A0"].shape, held["A1"].shape)
    )
    A, B = rank.best_factors(delta, R, scaling=ALPHA / R)
    shapes = [
        rank.LinearShape(name, linear.in_features, linear.out_features)
        for name, linear in MiniGPT(MiniGPTConfig()).named_modules()
        if isinstance(linear, nn.Linear)
    ]
    plans = rank.rank_plan(shapes, SETS, BUDGET)
    alone = rank.singular_spectrum(noise)
    return {
        "energy_rank": rank.energy_rank(spectrum),
        "energy_rank_noise": rank.energy_rank(alone),
        "entropy_rank": rank.entropy_rank(spectrum),
        "entropy_rank_noise": rank.entropy_rank(alone),
        "lost_r8": rank.truncation_error(spectrum, R) / rank.truncation_error(spectrum, 0),
        "distance_r8": ((delta - ALPHA / R * B @ A).norm() / delta.norm()).item(),
        "phi_1_1": rank.subspace_similarity(held["A0"], held["A1"], 1, 1),
        "phi_8_8": rank.subspace_similarity(held["A0"], held["A1"], R, R),
        "phi_8_8_noise": rank.subspace_similarity(one, two, R, R),
        "rank_qv": plans["qv"].rank,
        "rank_mlp": plans["mlp"].rank,
        "root_over_plain_r64": rank.scaling_factor(ALPHA, 64, "alpha/sqrt(r)")
        / rank.scaling_factor(ALPHA, 64),
    }


def main() -> int:
    options = parser(__doc__)
    options.set_defaults(impl=None)  # the notes are of your file, the ablations of the reference
    options.add_argument("--full", action="store_true", help="run the ablations and draw figures/")
    options.add_argument("--smoke", action="store_true", help="the same in miniature, in results/")
    options.add_argument("--figures", action="store_true", help="draw figures/ from their JSON")
    options.add_argument("--device", default="cpu", help="where the models are trained")
    options.add_argument("--seed", type=int, default=0, help="the first of the ablations' seeds")
    options.add_argument("--out", type=Path, default=HERE, help="where results/ and figures/ are")
    chosen = options.parse_args()
    if chosen.figures or chosen.full or chosen.smoke:
        return ablate(chosen)
    chosen.impl = chosen.impl or "student"
    return report("03", chosen, measure)


def ablate(chosen: argparse.Namespace) -> int:
    """The ablations and their figures; what they need is imported here, the notes do without."""
    import drawing
    import study

    if chosen.figures:
        return redraw_all(chosen.out / "figures", drawing.FIGURES)
    impl = chosen.impl or "reference"
    if impl not in ("student", "reference") and not Path(impl).exists():
        said = say(
            "--impl: expected student, reference or a {star}, got {got}", star="rank.py", got=impl
        )
        print(said)
        return 2
    try:
        return study.study(chosen.out, impl, chosen.smoke, chosen.seed, chosen.device)
    except NotImplementedError as todo:
        print(say("nothing to measure yet: {todo}", todo=todo))
        return 1
    except ModuleNotFoundError as missing:  # matplotlib: its message says how to get it
        print(missing)
        return 2


if __name__ == "__main__":
    sys.exit(main())
