"""Adapts the base to the irregular verbs, carelessly and with care, by your adapt.py and lora.py.

    python experiments/28-irregular-verbs/run.py             the story: one seed, under two minutes
    python experiments/28-irregular-verbs/run.py --write     only the notes' values, into notes.md
    python experiments/28-irregular-verbs/run.py --full      the tables over seeds and ranks
    python experiments/28-irregular-verbs/run.py --figures   draw the figures anew from their JSON

Source: lab/02-adapt-without-forgetting.md. Leaves out: the verdict; the grader measures again and
compares. The pictures of --full need the extra `plots`.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import drawing
import tables
import torch
from rich.console import Console
from rich.table import Table
from story import (
    CAREFUL,
    MAY_FORGET,
    NAIVE,
    Outcome,
    begin,
    for_rank,
    losses_of,
    score,
    sets,
    shorter,
    tell,
)
from torch import nn

from minituner import verbs
from minituner.bar import bar
from minituner.borrowed import is_borrowed
from minituner.corpora import LETTERS, verb_ids
from minituner.curve import spark
from minituner.grading.registry import lab
from minituner.measuring import load, parser, report
from minituner.minigpt import MiniGPT
from minituner.plots import redraw_all
from minituner.recipe import Recipe
from minituner.verbbase import conjugate, load_base
from minituner.words import say

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
ASKED = ("go", "take", "sing", "bring", "teach", "walk", "stop", "mend", "carry", "explain")


def norms_only() -> MiniGPT:
    """The base with its LayerNorms alone to train: 640 adapters that need no lora.py."""
    model = load_base().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.requires_grad_(True)
    return model


def measure(adapt: ModuleType) -> dict[str, float | str]:
    """The values of notes.md: the base, then 40 steps on its norms, without and with rehearsal.

    Always on the cpu in float32, from seed 28; a few seconds. Rehearsed are the taught verbs alone.
    """
    parts = verbs.split()
    irregular, control, taught = (
        verb_ids(pairs) for pairs in (verbs.irregular(), parts.control, parts.taught)
    )
    base = norms_only()
    values: dict[str, float | str] = {
        "base_irregular_match": score(adapt, base, irregular),
        "base_control_match": score(adapt, base, control),
        "base_irregular_loss": losses_of(adapt, base, irregular),
    }
    for name, share in (("naive", 0.0), ("rehearsed", 0.5)):
        model = norms_only()
        recipe = Recipe(40, LETTERS.pad_id, 32, share, peak=0.02, warmup=5, every=40)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(28)
            run = begin(adapt, model, 28, recipe.peak)
            adapt.adapt(run, irregular, taught, recipe, lambda _: (0.0, 0.0))
        values[f"{name}_irregular_loss"] = losses_of(adapt, model, irregular)
        values[f"{name}_control_loss"] = losses_of(adapt, model, control)
    return values


def told(
    console: Console, adapt: ModuleType, recipe: Recipe, options: Namespace
) -> tuple[MiniGPT, Outcome]:
    """One adaptation behind a progress bar, then its loss curve and its accuracies."""
    with bar(console) as show:
        model, outcome = tell(
            adapt,
            recipe,
            options.rank,
            options.seed,
            lambda step, learned, watched: show(step, recipe.steps, 0),
            options.device,
        )
    console.print(
        say("loss {curve} {last}", curve=spark(outcome.losses), last=f"{outcome.losses[-1]:.3f}")
    )
    return model, outcome


def story(console: Console, adapt: ModuleType, options: Namespace) -> None:
    """The naive run and the careful one, what they learned and forgot, and what they say now."""
    if is_borrowed():
        console.print(say("lora.py is not written yet: the reference's is used"))
    cut = shorter if options.smoke else (lambda recipe: recipe)
    base = load_base()
    start = score(adapt, base, sets().watched)
    hasty, careful = (
        cut(for_rank(options.rank, recipe))
        for recipe in (NAIVE, replace(CAREFUL, lowest=start - MAY_FORGET))
    )
    console.print(say("without rehearsal: {steps} steps on the irregular verbs", steps=hasty.steps))
    naive_model, naive = told(console, adapt, hasty, options)
    console.print(say("with rehearsal, and with an eye on the watched verbs"))
    careful_model, kept = told(console, adapt, careful, options)

    shown = Table(say("exact match"), say("irregular"), say("control"), say("trainable"))
    control = score(adapt, base, sets().control)
    learned = score(adapt, base, sets().irregular)
    shown.add_row(say("base"), f"{learned:.1%}", f"{control:.1%}", "0")
    for label, outcome in ((say("without rehearsal"), naive), (say("with rehearsal"), kept)):
        count = f"{outcome.trainable:,}".replace(",", " ")
        shown.add_row(label, f"{outcome.learned:.1%}", f"{outcome.control:.1%}", count)
    console.print(shown)

    samples = Table("", say("base"), say("without rehearsal"), say("with rehearsal"))
    said = [conjugate(model, ASKED) for model in (base, naive_model, careful_model)]
    for verb in ASKED:
        samples.add_row(verb, *(answers[verb] for answers in said))
    console.print(samples)

    RESULTS.mkdir(exist_ok=True)
    kept_in = RESULTS / f"seed-{options.seed}.json"
    both = {"naive": vars(naive), "careful": vars(kept)}
    kept_in.write_text(json.dumps(both, indent=1) + "\n", encoding="utf-8")
    console.print(say("written into {path}", path=kept_in), soft_wrap=True)


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--seed", type=int, default=1, help="of the adapters and the batches")
    options.add_argument("--rank", type=int, default=8, help="of the adapters; 0 trains the base")
    options.add_argument("--device", default="cpu", help="cpu, cuda or mps")
    options.add_argument("--smoke", action="store_true", help="a few steps: does it run at all?")
    options.add_argument(
        "--full", action="store_true", help="tables and figures; 45 minutes at most"
    )
    options.add_argument("--figures", action="store_true", help="draw figures/ from their JSON")
    chosen = options.parse_args()
    if chosen.figures:
        return redraw_all(HERE / "figures", drawing.FIGURES)
    console = Console()
    if not (chosen.json or chosen.write):
        try:
            adapt = load(lab("02"), chosen.impl)
            if chosen.full:
                tables.full(console, adapt, HERE, chosen.smoke)
            else:
                story(console, adapt, chosen)
        except NotImplementedError as raised:
            console.print(
                say("nothing to measure yet: {todo}", todo=lab("02").todo(str(raised))),
                soft_wrap=True,
            )
            return 1
        except ModuleNotFoundError as missing:  # matplotlib: its message says how to get it
            console.print(str(missing), soft_wrap=True, markup=False)
            return 2
    return report("02", chosen, measure)


if __name__ == "__main__":
    sys.exit(main())
