"""As few lines as will do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

RANK_TOLERANCE = 1e-6  # a singular value up to this share of the largest counts as zero
SCALING_RULES = ("alpha/r", "alpha/sqrt(r)")


@dataclass(frozen=True)
class LinearShape:
    """A linear that could carry an adapter."""

    name: str  # dotted, as in model.named_modules()
    in_features: int
    out_features: int


@dataclass(frozen=True)
class Plan:
    """What a budget buys on one set of targets."""

    rank: int  # the same for every linear of the set
    linears: int  # how many the set matches
    parameters: int  # trained in all, at most the budget


def as_matrix(name: str, value: Tensor) -> Tensor:
    """The value as a detached float64 matrix; a float64 one shares its memory, so only read it.

    Raises:
        ValueError: not two axes, an empty one, NaN or infinity; the message says name.
    """
    wide = value.detach().to(torch.float64)
    if wide.ndim != 2 or 0 in wide.shape:
        raise ValueError(f"{name}: expected a matrix (out, in), got shape {tuple(wide.shape)}")
    if not wide.isfinite().all():
        raise ValueError(f"{name}: expected finite values, got NaN or infinity")
    return wide


def as_spectrum(value: Tensor) -> Tensor:
    """The value as float64 singular values, largest first.

    Raises:
        ValueError: not one axis, an empty one, NaN, infinity or a negative value.
    """
    wide = value.detach().to(torch.float64)
    if wide.ndim != 1 or not len(wide):
        raise ValueError(f"spectrum: expected one axis of values, got shape {tuple(wide.shape)}")
    if not (wide.isfinite() & (wide >= 0)).all():
        raise ValueError(f"spectrum: expected finite values of at least 0, got {wide.tolist()}")
    return wide.sort(descending=True).values


def weight_update(before: Tensor, after: Tensor) -> Tensor:
    if (a := as_matrix("after", after)).shape != (b := as_matrix("before", before)).shape:
        raise ValueError(f"after: {tuple(a.shape)}, before: {tuple(b.shape)}")
    return a - b


def singular_spectrum(delta: Tensor) -> Tensor:
    return torch.svd(as_matrix("delta", delta)).S


def energy_rank(spectrum: Tensor, share: float = 0.9) -> int:
    if not 0 < share <= 1:
        raise ValueError(f"share: {share}")
    e = as_spectrum(spectrum).square().cumsum(0)
    return next((k for k, x in enumerate([0.0, *e.tolist()]) if x >= share * float(e[-1])), 0)


def entropy_rank(spectrum: Tensor) -> float:
    s = as_spectrum(spectrum)
    return float(torch.special.entr(s / s.sum()).sum().exp()) if s.any() else 0.0


def best_factors(delta: Tensor, r: int, scaling: float = 1.0) -> tuple[Tensor, Tensor]:
    if r < 1 or not 0 < scaling < math.inf:
        raise ValueError(f"r: {r}, scaling: {scaling}")
    U, s, V = torch.svd(F.pad(d := as_matrix("delta", delta), (0, r, 0, r)))  # r zeros at least
    h = (s[:r] / scaling).sqrt()
    return (V[: d.shape[1], :r] * h).T, U[: d.shape[0], :r] * h


def truncation_error(spectrum: Tensor, r: int) -> float:
    if (s := as_spectrum(spectrum)) is None or r < 0:
        raise ValueError(f"r: {r}")
    return math.dist(s[r:].tolist(), [0.0] * len(s[r:]))


def right_directions(A: Tensor) -> Tensor:
    _, s, V = torch.svd(as_matrix("A", A))
    return V.T[s > RANK_TOLERANCE * s[0]]


def subspace_similarity(first: Tensor, second: Tensor, i: int, j: int) -> float:
    if min(i, j) < 1 or i > len(g := similarity_grid(first, second)) or j > g.shape[1]:
        raise ValueError(f"i, j: {i}, {j}")
    return float(g[i - 1, j - 1])


def similarity_grid(first: Tensor, second: Tensor) -> Tensor:
    U, V = map(right_directions, (first, second))
    if U.shape[1] != V.shape[1]:
        raise ValueError(f"second: {V.shape[1]} columns, first: {U.shape[1]}")
    m = torch.ones(len(U), len(V)).cumsum(0).minimum(torch.ones(len(U), len(V)).cumsum(1))
    return (U @ V.T).square().cumsum(1).cumsum(0) / m


def equal_budget_rank(shapes: Sequence[LinearShape], budget: int) -> int:
    if not shapes or (r := budget // sum(s.in_features + s.out_features for s in shapes)) < 1:
        raise ValueError(f"{len(shapes)} shapes, budget: {budget}")
    return r


def rank_plan(
    shapes: Sequence[LinearShape], target_sets: Mapping[str, Sequence[str]], budget: int
) -> dict[str, Plan]:
    plans = {}
    for label, ts in target_sets.items():
        if lost := {t for t in ts if not any(("." + s.name).endswith("." + t) for s in shapes)}:
            raise ValueError(f"{label}: {lost}")
        mine = [s for s in shapes if ("." + s.name).endswith(tuple("." + t for t in ts))]
        r = equal_budget_rank(mine, budget)
        plans[label] = Plan(r, len(mine), r * sum(s.in_features + s.out_features for s in mine))
    return plans


def scaling_factor(alpha: float, r: int, rule: str = "alpha/r") -> float:
    if r < 1 or rule not in SCALING_RULES:
        raise ValueError(f"r: {r}, rule: {rule}")
    return alpha / (r if rule == "alpha/r" else math.sqrt(r))
