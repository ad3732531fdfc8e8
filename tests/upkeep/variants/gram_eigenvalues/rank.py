"""Eigenvalues of a Gram matrix instead of an SVD, as in the tutorials on PCA."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
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


def _eigen(wide: Tensor) -> tuple[Tensor, Tensor]:
    """σ, clamped at zero, and the right singular vectors as columns, largest first."""
    squares, vectors = torch.linalg.eigh(wide.T @ wide)
    order = squares.argsort(descending=True)
    return squares[order].clamp(min=0).sqrt(), vectors[:, order]


def weight_update(before: Tensor, after: Tensor) -> Tensor:
    start, end = as_matrix("before", before), as_matrix("after", after)
    if start.size() != end.size():
        raise ValueError(f"before and after differ: {tuple(start.size())}, {tuple(end.size())}")
    return end.sub(start)


def singular_spectrum(delta: Tensor) -> Tensor:
    wide = as_matrix("delta", delta)
    small = wide if wide.shape[0] >= wide.shape[1] else wide.T
    return _eigen(small)[0]


def energy_rank(spectrum: Tensor, share: float = 0.9) -> int:
    energies = as_spectrum(spectrum) ** 2
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], got {share!r}")
    if not energies.any():
        return 0
    reached = torch.cumsum(energies, 0) >= share * torch.cumsum(energies, 0)[-1]
    return int(reached.int().argmax()) + 1


def entropy_rank(spectrum: Tensor) -> float:
    values = as_spectrum(spectrum)
    if not values.any():
        return 0.0
    p = values[values > 0] / values.sum()
    return float((-(p * p.log()).sum()).exp())


def best_factors(delta: Tensor, r: int, scaling: float = 1.0) -> tuple[Tensor, Tensor]:
    wide = as_matrix("delta", delta)
    if r < 1:
        raise ValueError(f"r must be at least 1, got {r}")
    if not (math.isfinite(scaling) and scaling > 0):
        raise ValueError(f"scaling must be positive and finite, got {scaling}")
    count = min(r, *wide.shape)
    sigma, right = _eigen(wide)
    right = right[:, :count]
    image = wide @ right  # σ u, one a column
    sigma = image.norm(dim=0)  # more digits than the root of an eigenvalue
    left = image / torch.where(sigma > 0, sigma, torch.ones_like(sigma))
    root = (sigma / scaling).sqrt()
    A, B = torch.zeros(r, wide.shape[1]).double(), torch.zeros(wide.shape[0], r).double()
    A[:count] = (right * root).T
    B[:, :count] = left * root
    return A, B


def truncation_error(spectrum: Tensor, r: int) -> float:
    values = as_spectrum(spectrum)
    if r < 0:
        raise ValueError(f"r must not be negative, got {r}")
    return float(torch.linalg.vector_norm(values[r:])) if r < len(values) else 0.0


def right_directions(A: Tensor) -> Tensor:
    sigma, vectors = _eigen(as_matrix("A", A))
    return vectors[:, sigma > RANK_TOLERANCE * sigma[0]].T


def _both(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    one, two = right_directions(first), right_directions(second)
    if one.shape[1] != two.shape[1]:
        raise ValueError(f"first and second differ in width: {one.shape[1]}, {two.shape[1]}")
    return one, two


def subspace_similarity(first: Tensor, second: Tensor, i: int, j: int) -> float:
    one, two = _both(first, second)
    if not 0 < i <= len(one):
        raise ValueError(f"i must be 1 to {len(one)}, got {i}")
    if not 0 < j <= len(two):
        raise ValueError(f"j must be 1 to {len(two)}, got {j}")
    shared = torch.linalg.matrix_norm(one[:i] @ two[:j].T)
    return float(shared) ** 2 / min(i, j)


def similarity_grid(first: Tensor, second: Tensor) -> Tensor:
    one, two = _both(first, second)
    grid = torch.empty(len(one), len(two), dtype=torch.float64)
    squares = (one @ two.T) ** 2
    for i in range(len(one)):
        for j in range(len(two)):
            grid[i, j] = squares[: i + 1, : j + 1].sum() / (min(i, j) + 1)
    return grid


def equal_budget_rank(shapes: Sequence[LinearShape], budget: int) -> int:
    if not shapes:
        raise ValueError("shapes: none")
    price = sum(each.in_features + each.out_features for each in shapes)
    rank, _ = divmod(budget, price)
    if rank < 1:
        raise ValueError(f"budget: rank 1 costs {price}, there are only {budget}")
    return rank


def rank_plan(
    shapes: Sequence[LinearShape], target_sets: Mapping[str, Sequence[str]], budget: int
) -> dict[str, Plan]:
    return {label: _plan(shapes, targets, budget) for label, targets in target_sets.items()}


def _plan(shapes: Sequence[LinearShape], targets: Sequence[str], budget: int) -> Plan:
    for target in targets:
        if not any(_matches(shape, target) for shape in shapes):
            raise ValueError(f"target {target} matches no linear")
    mine = [s for s in shapes if any(_matches(s, target) for target in targets)]
    rank = equal_budget_rank(mine, budget)
    return Plan(rank, len(mine), sum(rank * (s.in_features + s.out_features) for s in mine))


def _matches(shape: LinearShape, target: str) -> bool:
    return shape.name == target or shape.name.endswith(f".{target}")


def scaling_factor(alpha: float, r: int, rule: str = "alpha/r") -> float:
    powers = {"alpha/r": 1.0, "alpha/sqrt(r)": 0.5}
    if rule not in powers:
        raise ValueError(f"rule must be one of {list(powers)}, got {rule!r}")
    if r < 1:
        raise ValueError(f"r must be at least 1, got {r}")
    return float(alpha / r ** powers[rule])
