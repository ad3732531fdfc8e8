"""A small model of names: taught those from A to M, then adapted to those from N to Z.

The loop is adapt.py's, the adapters lora.py's, whoever's they are. The idea of the two halves is
an old one for tiny LoRA demonstrations; the names are corpora.py's. Leaves out: tables, pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from hashlib import sha256
from types import ModuleType

import torch
from torch import nn

from minituner.borrowed import lora
from minituner.corpora import END, LETTERS, name_ids
from minituner.corpora import halves as by_first_letter
from minituner.devices import on
from minituner.minigpt import MiniGPT, MiniGPTConfig
from minituner.recipe import Recipe, Run

CONFIG = MiniGPTConfig(
    vocab_size=LETTERS.size, block_size=20, n_layer=2, n_head=4, d_model=64, d_ff=256
)
HELD_OUT = 5  # every fifth name, by a hash, is never trained on
MOST = 1000  # held-out names of a half that are scored: enough for three digits
Show = Callable[[int, int, int], None]  # steps done, steps in all, errors (none)


@dataclass(frozen=True)
class Half:
    """The names of one half of the alphabet; no name is in both."""

    trained: list[str]
    held_out: list[str]


def parted(names: Sequence[str]) -> Half:
    """Held out or not by a hash of the name, so the same name always falls on the same side."""
    held = {name for name in names if int(sha256(name.encode()).hexdigest(), 16) % HELD_OUT == 0}
    return Half([n for n in names if n not in held], sorted(held)[:: max(1, len(held) // MOST)])


@dataclass(frozen=True)
class Way:
    """One way to adapt: the rank of the adapters (0 trains everything), and the rehearsal."""

    name: str
    rank: int
    share: float
    peak: float


WAYS = (
    Way("LoRA, r = 8", 8, 0.0, 5e-3),
    Way("LoRA, r = 8, with rehearsal", 8, 0.5, 5e-3),
    Way("full fine-tuning", 0, 0.0, 1e-3),
)


@dataclass
class Outcome:
    """Mean loss a letter on held-out names, in nats: the two columns of the table."""

    early: float  # A to M
    late: float  # N to Z
    trainable: int
    losses: list[float] = field(default_factory=list)


def pretrain_recipe(names: int, smoke: bool) -> Recipe:
    """Few names are learned by heart soon: fewer steps, and the best weights are kept."""
    steps = 20 if smoke else 300 if names < 2000 else 1500
    return Recipe(steps, LETTERS.pad_id, 64, 0.0, peak=3e-3, warmup=20, every=25, patience=6)


def adapt_recipe(names: int, smoke: bool) -> Recipe:
    """As above, and shorter: the alphabet is known already."""
    steps = 10 if smoke else 150 if names < 2000 else 500
    return Recipe(steps, LETTERS.pad_id, 64, 0.0, peak=5e-3, warmup=20, every=25, patience=6)


def loss_of(adapt: ModuleType, model: nn.Module, names: Sequence[str]) -> float:
    """The learner's evaluate on these names, in batches of 100."""
    ids = name_ids(names)
    batches = [adapt.padded(ids[i : i + 100], LETTERS.pad_id) for i in range(0, len(ids), 100)]
    return float(adapt.evaluate(model, batches))


@dataclass(frozen=True)
class World:
    """A model that knows one half, and both halves."""

    base: MiniGPT
    early: Half
    late: Half
    before: Outcome


def trained(
    adapt: ModuleType, model: nn.Module, recipe: Recipe, seed: int, new: Half, old: Half, show: Show
) -> list[float]:
    """Run adapt() on whatever requires grad; what is best on new's held-out names is kept."""
    parameters = adapt.adapter_parameters(model)
    optimizer = torch.optim.AdamW(parameters, lr=recipe.peak, weight_decay=0.0)
    run = Run(model, optimizer, torch.Generator().manual_seed(seed))

    def measure(present: nn.Module) -> tuple[float, float]:
        show(run.step, recipe.steps, 0)
        return -loss_of(adapt, present, new.held_out[:200]), 0.0

    fresh, known = name_ids(new.trained), name_ids(old.trained)
    losses: list[float] = adapt.adapt(run, fresh, known, recipe, measure)
    adapt.load_adapters(model, run.kept)
    if run.step < recipe.steps:  # patience ended it
        show(recipe.steps, recipe.steps, 0)
    return losses


def outcome(
    adapt: ModuleType, model: nn.Module, early: Half, late: Half, losses: list[float]
) -> Outcome:
    """A trained model's losses on the held-out names of both halves."""
    return Outcome(
        early=loss_of(adapt, model, early.held_out),
        late=loss_of(adapt, model, late.held_out),
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        losses=losses,
    )


def taught(
    adapt: ModuleType, names: Sequence[str], seed: int, show: Show, smoke: bool, device: str
) -> World:
    """A fresh model that has learned A to M."""
    early, late = (parted(half) for half in by_first_letter(names))
    torch.manual_seed(seed)
    model = MiniGPT(CONFIG)
    there = on(device, model)
    losses = trained(adapt, there, pretrain_recipe(len(names), smoke), seed, early, early, show)
    return World(model, early, late, outcome(adapt, there, early, late, losses))


def adapted(
    adapt: ModuleType, world: World, way: Way, seed: int, show: Show, smoke: bool, device: str
) -> tuple[MiniGPT, Outcome]:
    """A copy of the world's base, adapted to N to Z in this way."""
    model = deepcopy(world.base).cpu()
    torch.manual_seed(seed)
    if way.rank:
        lora().wrap_minigpt_with_lora(model, r=way.rank, alpha=2.0 * way.rank, dropout=0.0)
    there = on(device, model)
    size = len(world.early.trained) + len(world.late.trained)
    recipe = replace(adapt_recipe(size, smoke), share=way.share, peak=way.peak)
    losses = trained(adapt, there, recipe, seed, world.late, world.early, show)
    return model, outcome(adapt, there, world.early, world.late, losses)


def sampled(model: MiniGPT, count: int, seed: int) -> list[str]:
    """Names that the model makes up, at temperature 0.8."""
    model = deepcopy(model).cpu()
    start = torch.full((count, 1), LETTERS.encode(END)[0])
    generator = torch.Generator().manual_seed(seed)
    rows = model.generate(start, CONFIG.block_size - 1, temperature=0.8, generator=generator)
    return [LETTERS.upto_end(row[1:]) for row in rows.tolist()]
