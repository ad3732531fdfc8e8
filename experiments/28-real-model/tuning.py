"""Fine-tunes a wrapped model on a text by lab 02's loop; after a kill it goes on as if none came.

Batches, mask, clipping, warm-up, the step and the checkpoint are adapt.py's, whoever wrote it.
Leaves out: which adapters, and what is made of the result.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any  # what torch.load gives

import torch
from torch import Tensor, nn

from minituner.recipe import Batch, Recipe, Run

Block = tuple[list[int], list[int]]  # a first token, and those that are to be predicted from it
# Steps done, steps in all, last loss, tokens a second, seconds left.
Show = Callable[[int, int, float, float, float], None]


@dataclass(frozen=True)
class Plan:
    """All that decides what is trained; a checkpoint of another plan is not gone on with."""

    targets: tuple[str, ...]
    rank: int = 8
    scale: float = 2.0  # alpha / r
    steps: int = 300
    blocks: int = 4  # a batch
    tokens: int = 128  # to be predicted in a block
    peak: float = 1e-3
    warmup: int = 20
    every: int = 50  # steps from one look at the held-out text to the next
    kept: int = 10  # steps from one checkpoint to the next
    scored: int = 64  # blocks of a text that are scored, spread over all of it
    sampled: int = 64  # tokens of a sample
    dropout: float = 0.0
    half: bool = False  # compute in bfloat16
    seed: int = 1

    def recipe(self, pad_id: int) -> Recipe:
        """The same for lab 02's loop: no rehearsal; the last adapters are the result, not the best.

        To choose by the held-out text would make its loss look better than it is.
        """
        return Recipe(
            self.steps, pad_id, self.blocks, 0.0, self.peak, self.warmup, floor=0.1 * self.peak
        )


@dataclass
class Course:
    """What a run has seen: losses of the batches, and (step, held-out loss) now and then."""

    losses: list[float] = field(default_factory=list)
    held_out: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0  # in steps alone


class Logits(nn.Module):
    """A transformers model that gives logits (batch, seq, vocab_size) in float32, and no more.

    With half, products are taken in bfloat16; weights and adapters stay what they are.
    """

    def __init__(self, inside: nn.Module, half: bool = False) -> None:
        super().__init__()
        self.inside, self.narrow = inside, half

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids (batch, seq) -> (batch, seq, vocab_size)."""
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=self.narrow):
            out = self.inside(tokens, use_cache=False)
        logits: Tensor = out.logits
        return logits.float()


def blocks_of(ids: Sequence[int], tokens: int) -> list[Block]:
    """Every id but the first is predicted once; the last block may be shorter than the others."""
    starts = range(0, len(ids) - 1, tokens)
    return [([ids[at]], list(ids[at + 1 : at + tokens + 1])) for at in starts]


def batches_of(
    adapt: ModuleType, blocks: Sequence[Block], size: int, pad_id: int, device: str
) -> list[Batch]:
    """Blocks in batches; what a shorter block lacks is padding, and no target."""
    groups = [blocks[at : at + size] for at in range(0, len(blocks), size)]
    return [moved(adapt.padded(group, pad_id), device) for group in groups]


def moved(batch: Batch, device: str) -> Batch:
    return batch[0].to(device), batch[1].to(device)


def tune(
    adapt: ModuleType,
    model: Logits,
    plan: Plan,
    blocks: Sequence[Block],
    watched: Sequence[Batch],
    pad_id: int,
    place: Path,
    stamp: str,
    show: Show,
    until: int | None = None,
) -> Course:
    """Train what requires grad for plan.steps steps, or up to `until`.

    Args:
        watched: held-out batches, looked at every plan.every steps.
        place: of the checkpoint, written every plan.kept steps and when the run is interrupted.
        stamp: of all that the run depends on beside the plan: text, model, code.
    """
    device = str(next(model.parameters()).device)
    torch.manual_seed(plan.seed)  # dropout draws from it
    optimizer = torch.optim.AdamW(adapt.adapter_parameters(model), lr=plan.peak, weight_decay=0.0)
    run = Run(model, optimizer, torch.Generator().manual_seed(plan.seed))
    course, recipe = begun(adapt, run, plan, place, stamp), plan.recipe(pad_id)
    if not course.held_out:
        course.held_out.append((0, adapt.evaluate(model, watched)))
    saved = run.step
    try:
        while run.step < min(until or plan.steps, plan.steps):
            began = time.monotonic()
            pairs = adapt.rehearsed(blocks, blocks, recipe.size, recipe.share, run.generator)
            batch = moved(adapt.padded(pairs, pad_id), device)
            course.losses.append(adapt.train_step(run, batch, recipe))
            course.seconds += time.monotonic() - began
            a_step = course.seconds / run.step
            speed, left = plan.blocks * plan.tokens / a_step, a_step * (plan.steps - run.step)
            show(run.step, plan.steps, course.losses[-1], speed, left)
            if run.step % plan.every == 0 or run.step == plan.steps:
                course.held_out.append((run.step, adapt.evaluate(model, watched)))
            if run.step % plan.kept == 0 or run.step == plan.steps:
                save(adapt, run, plan, place, stamp, course)
                saved = run.step
    finally:
        if len(course.losses) == run.step > saved:  # Ctrl-C between two steps, or until
            save(adapt, run, plan, place, stamp, course)
    return course


def save(adapt: ModuleType, run: Run, plan: Plan, place: Path, stamp: str, course: Course) -> None:
    """Everything that the run needs to go on, whole or not at all."""
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_suffix(".part")
    state = {"plan": asdict(plan), "stamp": stamp, "course": asdict(course)}
    torch.save(state | {"run": adapt.checkpoint(run)}, part)
    os.replace(part, place)


def begun(adapt: ModuleType, run: Run, plan: Plan, place: Path, stamp: str) -> Course:
    """What a checkpoint of this plan knows, put into run; an empty course where there is none."""
    if not place.is_file():
        return Course()
    state: dict[str, Any] = torch.load(place, weights_only=True)
    if (state["plan"], state["stamp"]) != (asdict(plan), stamp):
        return Course()
    adapt.restore(run, state["run"])
    return Course(**state["course"])
