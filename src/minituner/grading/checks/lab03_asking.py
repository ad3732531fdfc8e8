"""What the checks of lab 03 share: matrices of known singular values, and how replies are read.

Leaves out: the claims themselves (lab03_spectrum.py, lab03_factors.py, lab03_subspaces.py,
lab03_budgets.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from minituner.grading.checks.asking import Asking, Wrong, gap, plain, shown
from minituner.grading.expr import Expr
from minituner.messages import NUMBER, tells

KINDS = ("ValueError", "TypeError")
Refused = Sequence[tuple[str, Expr, tuple[str, ...]]]

# --- matrices -------------------------------------------------------------------------------------


def sizes(ask: Asking) -> list[tuple[int, int]]:
    """(out, in), one tall and one wide."""
    short = ask.rng.randint(4, 6)
    long = short + ask.rng.randint(1, 3)
    return [(long, short), (short, long)]


def orthonormal(ask: Asking, size: int, count: int) -> Tensor:
    """(size, count) with orthonormal columns."""
    columns: Tensor = torch.linalg.qr(ask.randn(size, count)).Q
    return columns


def stairs(ask: Asking, count: int) -> Tensor:
    """Distinct values from large to small; each gap, and the last one, exceeds a 20th of σ₁."""
    drawn = torch.rand(count, generator=ask.torch_rng, dtype=torch.float64) * 0.3
    return (torch.arange(count, 0, -1) + drawn) * ask.rng.choice((0.02, 1.0, 30.0))


def built(sigma: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Σ σᵢ uᵢ vᵢᵀ, of the columns of left (out, k) and right (in, k)."""
    return left @ (sigma[:, None] * right.T)


def drawn(
    ask: Asking, out: int, inside: int, sigma: Sequence[float] | Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A matrix with the singular values sigma, and the singular vectors it was built from."""
    values = torch.as_tensor(sigma, dtype=torch.float64)
    left, right = orthonormal(ask, out, len(values)), orthonormal(ask, inside, len(values))
    return built(values, left, right), left, right


def adapter(ask: Asking, directions: Tensor) -> Tensor:
    """An A (r, in) whose strongest directions are the columns of directions (in, r), in order."""
    count = directions.shape[1]
    return built(stairs(ask, count), orthonormal(ask, count, count), directions)


def leaning(ask: Asking, cosines: Sequence[float], inside: int) -> tuple[Tensor, Tensor]:
    """Two lists of directions (in, k): the k-th of the one has cosines[k] with that of the other
    and none with the rest."""
    k, cos = len(cosines), torch.tensor(cosines, dtype=torch.float64)
    basis = orthonormal(ask, inside, 2 * k)
    return basis[:, :k], basis[:, :k] * cos + basis[:, k:] * (1 - cos.square()).sqrt()


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# --- what is refused ------------------------------------------------------------------------------


def no_matrix(ask: Asking) -> dict[str, Tensor]:
    """What as_matrix refuses."""
    rows, columns = ask.rng.randint(2, 4), ask.rng.randint(2, 4)
    nan, infinite = ask.randn(rows, columns), ask.randn(columns, rows)
    nan[ask.rng.randrange(rows), ask.rng.randrange(columns)] = math.nan
    infinite[ask.rng.randrange(columns), ask.rng.randrange(rows)] = math.inf
    return {
        "one axis": ask.randn(rows),
        "three axes": ask.randn(rows, columns, 3),
        "NaN": nan,
        "infinity": infinite,
    }


def no_spectrum(ask: Asking) -> dict[str, Tensor]:
    """What as_spectrum refuses."""
    large, small = ask.rng.uniform(2, 9), ask.rng.uniform(0.5, 2)
    return {
        "two axes": ask.randn(2, 2).abs(),
        "no value": torch.zeros(0),
        "negative": vector(large, -small),
        "NaN": vector(large, math.nan),
    }


def refused(ask: Asking, things: Refused) -> None:
    """Each raises ValueError or TypeError, with each of its words as a word of its own.

    "before|after" is either word.
    """
    told = ask.w.refusals([thing for _, thing, _ in things], *KINDS)
    for (what, _, words), said in zip(things, told, strict=True):
        if said is None or not all(_says(said, word) for word in words):
            raise Wrong(f"{what} -> {said!r}", f"ValueError: … {' … '.join(words)}", 0)


def _says(said: str, word: str) -> bool:
    """Whether it stands there by itself; a number however it is written, also in 4x3 or [4,3]."""
    if NUMBER.fullmatch(word):
        return tells(said, float(word))
    either = "|".join(re.escape(one) for one in word.split("|"))
    return bool(re.search(rf"(?<!\w)(?:{either})(?!\w)", said))


# --- replies --------------------------------------------------------------------------------------


def close(ask: Asking, what: str, got: Any, want: Sequence[float], rel: float) -> None:
    """Numbers within a relative distance, within the same absolute one where 0 is wanted."""
    got = plain(got)
    right = (
        isinstance(got, list)
        and len(got) == len(want)
        and all(_near(one, other, rel) for one, other in zip(got, want, strict=True))
    )
    ask.hold(right, f"{what} = {shown(got)}", shown(list(want)))


def _near(got: Any, want: float, rel: float) -> bool:
    return type(got) in (int, float) and abs(got - want) <= rel * (abs(want) or 1.0)


def doubles(ask: Asking, what: str, *got: object) -> None:
    """Each is a tensor in float64."""
    kinds = [one.dtype if isinstance(one, Tensor) else type(one).__name__ for one in got]
    ask.see(f"dtype of {what}", [str(kind) for kind in kinds], ["torch.float64"] * len(got))


def product(pair: Sequence[object], size: Sequence[int]) -> Tensor | None:
    """B A of (A, B), if they are matrices that fit and it is of this size (out, in).

    A reply's sizes are looked at first: a column times a row of a million would fill the memory.
    """
    A, B = pair
    if not (isinstance(A, Tensor) and isinstance(B, Tensor)) or A.ndim != 2 or B.ndim != 2:
        return None
    if B.shape[1] != A.shape[0] or [B.shape[0], A.shape[1]] != list(size):
        return None
    return B.double() @ A.double()


def shape(value: object) -> list[int] | None:
    return list(value.shape) if isinstance(value, Tensor) else None


def worst(pairs: Sequence[tuple[object, Tensor, float]]) -> float:
    """The largest max|got - want| / size of several."""
    return max(gap(got, want) / size for got, want, size in pairs)
