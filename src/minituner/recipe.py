"""How to train, what changes while training, and a checkpoint of it. Given for lab 02: read it.

Source: this project. Leaves out: any work; adapt.py does that. A checkpoint is a plain dict,
because torch.load(weights_only=True) takes no class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypedDict

import torch
from torch import Tensor, nn

IGNORE = -100  # a target that does not count

Pair = tuple[Sequence[int], Sequence[int]]  # the tokens of a prompt, those of its answer
Batch = tuple[Tensor, Tensor]  # inputs and targets, both (batch, seq), int64


@dataclass(frozen=True)
class Recipe:
    """How to train. `steps` and `warmup` count steps of the optimiser, `every` too."""

    steps: int
    pad_id: int
    size: int = 32  # pairs a batch
    share: float = 0.5  # of each batch that is rehearsal
    peak: float = 2e-3  # the highest learning rate
    warmup: int = 20
    floor: float = 0.0  # the last learning rate
    max_norm: float = 1.0  # of the gradient, all parameters together
    every: int = 25  # from one evaluation to the next
    patience: int = 8  # evaluations in a row that may be no better
    lowest: float = -math.inf  # the control below which no adapters are kept


@dataclass
class Run:
    """All that changes while training, and so all that a checkpoint has to hold."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    generator: torch.Generator  # the batches are drawn with it
    step: int = 0  # steps done
    best: tuple[float, float] = (-math.inf, -math.inf)  # learned and control of what is kept
    since: int = 0  # evaluations since the last that was better
    kept: dict[str, Tensor] = field(default_factory=dict)  # the best adapters; empty before


class Checkpoint(TypedDict):
    """A Run's values at one moment, without its objects."""

    step: int
    best: tuple[float, float]
    since: int
    kept: dict[str, Tensor]
    adapters: dict[str, Tensor]
    optimizer: dict[str, object]
    batch_rng: Tensor  # the state of the run's generator
    torch_rng: Tensor  # that of torch's global generator, which dropout draws from
