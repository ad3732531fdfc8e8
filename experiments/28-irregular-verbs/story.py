"""One adaptation of the base to the irregular verbs: what is trained, how, and what comes out.

The loop is adapt.py's, the adapters lora.py's, whoever's they are. Source of the question, learned
against forgotten: Biderman et al. 2024, arXiv:2405.09673. Leaves out: tables and pictures.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from types import ModuleType

import torch
from torch import nn

from minituner import verbs
from minituner.borrowed import lora
from minituner.corpora import LETTERS, Ids, verb_ids
from minituner.devices import on
from minituner.minigpt import MiniGPT
from minituner.recipe import Recipe, Run
from minituner.verbbase import load_base

ALPHA_PER_RANK = 2.0  # scaling = alpha / r = 2 at every rank
INVENTED, LOOKALIKES = 12_000, 6_000  # made-up verbs to rehearse with
OFTEN = 10  # times that each taught verb stands among them
MAY_FORGET = 0.03  # of the watched verbs; adapters that forgot more are not kept

NAIVE = Recipe(
    300, LETTERS.pad_id, size=64, share=0.0, peak=1e-2, warmup=20, every=50, patience=10**6
)
# No patience either: the watched verbs fall first, and come back as the learning rate decays.
CAREFUL = replace(NAIVE, steps=1500, size=96, share=0.85)
FULL_PEAK = 0.2  # full fine-tuning takes this share of an adapter's learning rate


def shorter(recipe: Recipe) -> Recipe:
    """The same in a few small steps, to see that it runs."""
    return replace(recipe, steps=4, every=2, size=8, warmup=1)


def for_rank(rank: int, recipe: Recipe) -> Recipe:
    """The recipe with the learning rate that suits full fine-tuning where rank is 0."""
    return recipe if rank else replace(recipe, peak=recipe.peak * FULL_PEAK)


@dataclass(frozen=True)
class Sets:
    """What is learned, what is rehearsed, and the two sets that tell what was forgotten."""

    irregular: list[Ids]
    rehearsal: list[Ids]
    taught: list[Ids]  # rehearsal without a made-up verb
    watched: list[Ids]
    control: list[Ids]


@cache
def sets() -> Sets:
    """The same for everybody; nothing in rehearsal is watched or in the control."""
    parts = verbs.split()
    rng = random.Random(28)
    invented = verbs.made_up(INVENTED, rng) + verbs.lookalikes(LOOKALIKES, rng)
    return Sets(
        verb_ids(verbs.irregular()),
        verb_ids(parts.taught) * OFTEN + verb_ids(invented),
        verb_ids(parts.taught),
        verb_ids(parts.watched),
        verb_ids(parts.control),
    )


@dataclass
class Outcome:
    """Accuracies in [0, 1]: of the adapters that were kept, and how they changed on the way."""

    trainable: int
    steps: int  # done
    seconds: float
    learned: float  # exact match on the irregular verbs, which were trained on
    watched: float
    control: float  # exact match on regular verbs that nothing ever looked at
    kept: bool  # False: no adapters met the bound, so the last ones are measured
    curve: list[tuple[int, float, float]] = field(default_factory=list)  # step, learned, watched
    losses: list[float] = field(default_factory=list)


def wrapped(rank: int, seed: int) -> MiniGPT:
    """The base with adapters of this rank on every linear; 0 is full fine-tuning, no adapters."""
    torch.manual_seed(seed)
    model = load_base()
    if rank:
        lora().wrap_minigpt_with_lora(model, r=rank, alpha=ALPHA_PER_RANK * rank, dropout=0.0)
    return model


def score(adapt: ModuleType, model: nn.Module, pairs: list[Ids]) -> float:
    """The learner's exact_match on these pairs."""
    return float(adapt.exact_match(model, pairs, LETTERS.pad_id))


def losses_of(adapt: ModuleType, model: nn.Module, pairs: list[Ids]) -> float:
    """The learner's evaluate on these pairs, in batches of 50, the last one smaller."""
    parts = [pairs[i : i + 50] for i in range(0, len(pairs), 50)]
    return float(adapt.evaluate(model, [adapt.padded(part, LETTERS.pad_id) for part in parts]))


def begin(adapt: ModuleType, model: nn.Module, seed: int, peak: float) -> Run:
    """A run at step 0: AdamW on what trains, and a generator of its own for the batches."""
    trained = adapt.adapter_parameters(model)
    optimizer = torch.optim.AdamW(trained, lr=peak, weight_decay=0.0)
    return Run(model, optimizer, torch.Generator().manual_seed(seed))


def tell(
    adapt: ModuleType,
    recipe: Recipe,
    rank: int,
    seed: int,
    show: Callable[[int, float, float], None] = lambda step, learned, watched: None,
    device: str = "cpu",
    few: bool = False,
) -> tuple[MiniGPT, Outcome]:
    """Adapt the base by a recipe; the model as kept, and what came of it.

    Args:
        few: rehearse the taught verbs alone.
        show: called after each evaluation with (steps done, learned, watched).
    """
    model, data = wrapped(rank, seed), sets()
    there = on(device, model)
    run = begin(adapt, there, seed, recipe.peak)
    curve: list[tuple[int, float, float]] = []

    def measure(present: nn.Module) -> tuple[float, float]:
        learned = score(adapt, present, data.irregular)
        watched = score(adapt, present, data.watched)
        curve.append((run.step, learned, watched))
        show(run.step, learned, watched)
        return learned, watched

    began = time.monotonic()
    old = data.taught if few else data.rehearsal
    losses = adapt.adapt(run, data.irregular, old, recipe, measure)
    seconds = time.monotonic() - began
    if run.kept:
        adapt.load_adapters(there, run.kept)
    outcome = Outcome(
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        steps=run.step,
        seconds=seconds,
        learned=score(adapt, there, data.irregular),
        watched=score(adapt, there, data.watched),
        control=score(adapt, there, data.control),
        kept=bool(run.kept),
        curve=curve,
        losses=losses,
    )
    return model, outcome
