"""Adam and the loop that uses it: pretraining and LoRA differ in what needs a gradient, no more.

Source: Kingma and Ba 2015, arXiv:1412.6980, algorithm 1, with torch.optim.Adam's defaults.
Leaves out: weight decay, clipping; lab 02 has them. Imports the standard library only.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

from engine import Value, frozen, total
from model import GPT

Tokens = Sequence[int]
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


class Adam:
    """One step size a parameter, from running means of its gradient and of the square.

    Raises:
        ValueError: there is nothing to train, or a parameter is frozen.
    """

    parameters: list[Value]
    means: list[float]  # of the gradient
    squares: list[float]  # of its square
    steps: int

    def __init__(self, parameters: Sequence[Value]) -> None:
        if not parameters or not all(value.needs_grad for value in parameters):
            raise ValueError("parameters: expected some, all of which need a gradient")
        self.parameters = list(parameters)
        self.means = [0.0] * len(parameters)
        self.squares = [0.0] * len(parameters)
        self.steps = 0

    def step(self, rate: float) -> None:
        """Move every parameter once, then clear the gradients."""
        self.steps += 1
        size = rate / (1.0 - BETA1**self.steps)  # the means start at zero: make up for it
        root = math.sqrt(1.0 - BETA2**self.steps)
        means, squares = self.means, self.squares
        for i, value in enumerate(self.parameters):
            grad = value.grad
            means[i] = mean = BETA1 * means[i] + (1.0 - BETA1) * grad
            squares[i] = square = BETA2 * squares[i] + (1.0 - BETA2) * grad * grad
            value.data -= size * mean / (math.sqrt(square) / root + EPS)
            value.grad = 0.0


def train_step(model: GPT, optimizer: Adam, batch: Sequence[Tokens], rate: float) -> float:
    """Forward, backward, update; the mean loss of the batch's tokens, before the update."""
    losses = [loss for tokens in batch for loss in model.losses(tokens)]
    mean = total(losses) * (1.0 / len(losses))
    mean.backward()
    optimizer.step(rate)
    return mean.data


def train(
    model: GPT,
    names: Sequence[Tokens],
    *,
    steps: int,
    batch: int,
    rate: float,
    rng: random.Random,
    report: Callable[[int, float], None],
) -> None:
    """Train what needs a gradient on names, the rate falling in a straight line towards zero.

    Args:
        batch: names a step; every name is seen once before any is seen again.
        report: called with the steps done and the loss, after each step.
    """
    optimizer = Adam(model.trainable())
    waiting: list[Tokens] = []
    for step in range(steps):
        while len(waiting) < batch:
            waiting += rng.sample(names, len(names))
        taken, waiting = waiting[:batch], waiting[batch:]
        loss = train_step(model, optimizer, taken, rate * (1.0 - step / steps))
        report(step + 1, loss)


def evaluate(model: GPT, names: Sequence[Tokens]) -> float:
    """The mean loss of all the names' tokens, in nats; no graph is built."""
    with frozen(model.trainable()):
        losses = [loss.data for tokens in names for loss in model.losses(tokens)]
    return sum(losses) / len(losses)
