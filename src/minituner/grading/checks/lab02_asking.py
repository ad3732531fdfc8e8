"""What the checks of lab 02 share: runs there with their values here, batches, and closed forms.

The oracles are softmax, its gradient and the schedule in float64, from the judge's own numbers.
Leaves out: the claims themselves (lab02_data.py, lab02_loop.py, …).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from minituner.grading.checks.asking import Asking, gap, plain, shown
from minituner.grading.expr import Expr, name
from minituner.recipe import IGNORE, Batch, Recipe

KIT = name("kit_02")
REFUSED = ("ValueError", "TypeError")
STATE = (*REFUSED, "KeyError")  # a state that does not fit may be any of these
VOCAB = 7
LONGEST = 10_000  # a generator's state has 5056 bytes
Pairs = list[tuple[list[int], list[int]]]


@dataclass(frozen=True)
class Loop:
    """A Run there on a Table whose adapter is `shift`, and its values here."""

    it: Expr
    model: Expr
    optimizer: Expr
    generator: Expr
    table: Tensor
    start: Tensor  # shift at first
    seed: int  # of the generator

    @property
    def shift(self) -> Expr:
        return self.model.part.shift

    @property
    def weights(self) -> Tensor:
        """The table that the model is at first."""
        return self.table + self.start

    def now(self, ask: Asking) -> Expr:
        """What shift is there when this is reached."""
        return ask.w.keep(ask.kit.values(self.model)["part.shift"])


def loop(
    ask: Asking, *, dropout: float = 0.0, mu: float = 0.0, like: Loop | None = None, at: int = 0
) -> Loop:
    """A run as in the middle of training.

    Args:
        like: another with the same values and the same generator's seed.
        at: its step.
    """
    table = ask.randn(VOCAB, VOCAB) if like is None else like.table
    start = ask.randn(VOCAB, VOCAB) if like is None else like.start
    seed = ask.rng.randrange(2**31) if like is None else like.seed
    model = ask.w.keep(KIT.Table(table, start, dropout))
    optimizer = ask.w.keep(KIT.Momentum([model.part.shift], mu))
    generator = ask.w.keep(ask.torch.Generator().manual_seed(seed))
    it = ask.w.keep(ask.given("recipe.Run")(model, optimizer, generator, at))
    return Loop(it, model, optimizer, generator, table, start, seed)


def recipe(ask: Asking, chosen: Recipe) -> Expr:
    """The same Recipe there."""
    return ask.w.keep(ask.given("recipe.Recipe")(**asdict(chosen)))


def tokens(ask: Asking, count: int, vocab: int = VOCAB) -> list[int]:
    return [ask.rng.randrange(vocab) for _ in range(count)]


def pairs(ask: Asking, count: int, vocab: int = VOCAB) -> Pairs:
    sizes = [(ask.rng.randint(1, 4), ask.rng.randint(1, 4)) for _ in range(count)]
    return [(tokens(ask, p, vocab), tokens(ask, a, vocab)) for p, a in sizes]


def batch(ask: Asking, rows: int = 3, seq: int = 5, hidden_share: float = 0.5) -> Batch:
    """Inputs and targets of which about half are hidden, and at least one counts."""
    drawn = [torch.randint(VOCAB, (rows, seq), generator=ask.torch_rng) for _ in range(2)]
    hidden = torch.rand(rows, seq, generator=ask.torch_rng) < hidden_share
    hidden[ask.rng.randrange(rows), ask.rng.randrange(seq)] = False
    return drawn[0], drawn[1].masked_fill(hidden, IGNORE)


# --- closed forms ---------------------------------------------------------------------------------


def loss(logits: Tensor, targets: Tensor) -> float:
    """The mean of logsumexp(z) - z[target] over the targets that count."""
    counts = targets != IGNORE
    z, wanted = logits[counts], targets[counts]
    return (z.logsumexp(-1) - z[torch.arange(len(z)), wanted]).mean().item()


def slope(logits: Tensor, targets: Tensor) -> Tensor:
    """d loss / d logits: (softmax - onehot) / n where a target counts."""
    counts = targets != IGNORE
    rows, wanted = logits[counts].softmax(-1), targets[counts]
    rows[torch.arange(len(rows)), wanted] -= 1.0
    found = torch.zeros_like(logits)
    found[counts] = rows / len(rows)
    return found


def gradient(weights: Tensor, given: Batch) -> Tensor:
    """The same by a Table's weights: added up at the inputs' rows."""
    inputs, targets = given
    rows = slope(weights[inputs], targets)
    return torch.zeros_like(weights).index_add_(0, inputs.flatten(), rows.flatten(0, 1))


def rate(step: int, chosen: Recipe) -> float:
    """The schedule of BLUEPRINT-02.md."""
    if step < chosen.warmup:
        return chosen.peak * (step + 1) / chosen.warmup
    t = min(1.0, (step - chosen.warmup) / (chosen.steps - chosen.warmup))
    return chosen.floor + (chosen.peak - chosen.floor) * (1.0 + math.cos(math.pi * t)) / 2.0


# --- replies --------------------------------------------------------------------------------------


def off(got: Any, want: Sequence[float]) -> float:
    """max|got - want| of as many plain numbers; infinite for anything else."""
    got = plain(got)
    if type(got) is not list or len(got) != len(want):
        return float("inf")
    if not all(type(one) in (int, float) for one in got):
        return float("inf")
    return gap(torch.tensor(got, dtype=torch.float64), torch.tensor(want, dtype=torch.float64))


def close(ask: Asking, what: str, got: Any, want: Sequence[float], most: float) -> None:
    """Plain numbers, each this near."""
    claim = off(got, want) <= most
    ask.hold(claim, f"{what} = {shown(plain(got))}", f"{shown(list(want))} within {most:g}")


def listed(values: Any) -> Any:
    """What tensors hold, as lists; anything else as it is.

    Raises:
        ValueError: a tensor is longer than any that is asked for.
    """
    if isinstance(values, list | tuple):
        return [listed(value) for value in values]
    if isinstance(values, Tensor) and max(values.shape, default=0) > LONGEST:
        raise ValueError(f"a tensor of {tuple(values.shape)}")
    return values.tolist() if isinstance(values, Tensor) else values


def wrong(ask: Asking, what: str, facts: dict[str, bool]) -> None:
    """Each of these holds; the message names those that do not."""
    ask.see(what, [fact for fact, holds in facts.items() if not holds], [])


def differ(got: Any, want: dict[str, Any]) -> list[str]:
    """The keys of a checkpoint that are not there, or not what they should be."""
    if not isinstance(got, dict):
        return ["no dict"]
    found = sorted(set(map(str, got)) ^ set(want))
    return found + [key for key in want if key in got and not _alike(got[key], want[key])]


def _alike(got: Any, want: Any) -> bool:
    """Equal to the bit, tensors inside included; a list will do for a tuple."""
    if isinstance(want, Tensor):
        return gap(got, want) == 0.0
    if isinstance(want, dict):
        same = isinstance(got, dict) and got.keys() == want.keys()
        return same and all(_alike(got[key], value) for key, value in want.items())
    if isinstance(want, list | tuple):
        return (
            isinstance(got, list | tuple) and len(got) == len(want) and all(map(_alike, got, want))
        )
    return type(plain(got)) in (int, float) and bool(plain(got) == want)
