"""Adapt a model without making it forget: data, loop, evaluation, resume.

Source: rehearsal, Robins 1995, doi:10.1080/09540099550039318; warm-up and cosine decay, Loshchilov
and Hutter 2017, arXiv:1608.03983 §3. The contract is BLUEPRINT-02.md beside this file.
Leaves out: gradient accumulation, mixed precision, the random state of a GPU, LoRA itself.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minituner.recipe import IGNORE, Batch, Checkpoint, Pair, Recipe, Run


def padded(pairs: Sequence[Pair], pad_id: int) -> Batch:
    """Prompt and answer in one row; a target is the next token where that is the answer's.

    ValueError when there are no pairs, or a prompt or an answer is empty.
    """
    raise NotImplementedError(
        "A1: lay prompt and answer in one row; only the answer's tokens count as targets; "
        "see lab/02-adapt-without-forgetting.md"
    )


def masked_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over the targets that count; ValueError when none does."""
    raise NotImplementedError(
        "A2: average the loss over the targets that count; see lab/02-adapt-without-forgetting.md"
    )


def rehearsed(
    new: Sequence[Pair], old: Sequence[Pair], size: int, share: float, generator: torch.Generator
) -> list[Pair]:
    """size random pairs: round(share · size) from old, the rest from new; share is in [0, 1)."""
    raise NotImplementedError(
        "A3: draw a batch that mixes new pairs with old ones; "
        "see lab/02-adapt-without-forgetting.md"
    )


def adapter_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that require grad, each once; ValueError when there are none."""
    raise NotImplementedError(
        "B1: list the parameters that train; refuse a model with none; "
        "see lab/02-adapt-without-forgetting.md"
    )


def learning_rate(step: int, recipe: Recipe) -> float:
    """peak · (step + 1) / warmup below warmup, then half a cosine, down to floor at steps."""
    raise NotImplementedError(
        "B2: warm the learning rate up in a line, then let it fall along a cosine; "
        "see lab/02-adapt-without-forgetting.md"
    )


def clip_(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Scale all gradients by one factor, to a common norm of at most max_norm; return the old one.

    ValueError when that is not finite; no gradient is changed.
    """
    raise NotImplementedError(
        "B3: clip the gradient by its global norm and return that norm; "
        "see lab/02-adapt-without-forgetting.md"
    )


def train_step(run: Run, batch: Batch, recipe: Recipe) -> float:
    """One step in train mode, counted in run.step; returns the loss before it."""
    raise NotImplementedError(
        "B4: take one training step, in the right order; see lab/02-adapt-without-forgetting.md"
    )


def predict(model: nn.Module, inputs: Tensor) -> Tensor:
    """The logits in eval mode, without gradients; afterwards every module's mode is as found."""
    raise NotImplementedError(
        "C1: predict in eval mode without gradients, then put every mode back; "
        "see lab/02-adapt-without-forgetting.md"
    )


def evaluate(model: nn.Module, batches: Sequence[Batch]) -> float:
    """The mean loss over the tokens that count, of all batches together."""
    raise NotImplementedError(
        "C2: average the loss over tokens, not over batches; see lab/02-adapt-without-forgetting.md"
    )


def exact_match(model: nn.Module, pairs: Sequence[Pair], pad_id: int) -> float:
    """The share of pairs whose whole answer greedy decoding gives."""
    raise NotImplementedError(
        "C3: count the answers that greedy decoding gets wholly right; "
        "see lab/02-adapt-without-forgetting.md"
    )


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter that requires grad, by its full name, as a detached copy."""
    raise NotImplementedError(
        "C4: return what trains, by its full name, as detached copies; "
        "see lab/02-adapt-without-forgetting.md"
    )


def keep(run: Run, learned: float, control: float, lowest: float) -> bool:
    """Keep the adapters if control is at least lowest and (learned, control) beats run.best."""
    raise NotImplementedError(
        "C5: keep the best adapters among those whose control holds; "
        "see lab/02-adapt-without-forgetting.md"
    )


def check_adapters(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """ValueError that names every entry which model lacks, wants, or has in another shape."""
    raise NotImplementedError(
        "D1: name every entry that does not fit the model; see lab/02-adapt-without-forgetting.md"
    )


def load_adapters(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy a checked state into the Parameters that model already has."""
    raise NotImplementedError(
        "D2: copy a checked state into the Parameters; see lab/02-adapt-without-forgetting.md"
    )


def checkpoint(run: Run) -> Checkpoint:
    """All that run needs to go on later as if nothing had happened, in copies."""
    raise NotImplementedError(
        "D3: put all that a run needs to go on into one dict of copies; "
        "see lab/02-adapt-without-forgetting.md"
    )


def restore(run: Run, state: Checkpoint) -> None:
    """Put a checkpoint's values into a run that was built the same way.

    ValueError when the adapters or the optimiser are others; run is then as it was.
    """
    raise NotImplementedError(
        "D4: put a checkpoint back, all of it or nothing; see lab/02-adapt-without-forgetting.md"
    )


def adapt(
    run: Run,
    new: Sequence[Pair],
    old: Sequence[Pair],
    recipe: Recipe,
    measure: Callable[[nn.Module], tuple[float, float]],
    until: int | None = None,
) -> list[float]:
    """Train up to a step or the recipe's end, or till patience runs out; returns the losses.

    measure gives (learned, control), more is better: every `every` steps, and after the last.
    """
    raise NotImplementedError(
        "D5: train on from wherever the run stands; see lab/02-adapt-without-forgetting.md"
    )
