"""numpy habits: einsum, broadcasting, no loop where an axis will do."""

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


def weight_update(before: Tensor, after: Tensor) -> Tensor:
    pair = [as_matrix("before", before), as_matrix("after", after)]
    if pair[0].shape != pair[1].shape:
        raise ValueError(f"shapes of before and after: {pair[0].shape} != {pair[1].shape}")
    return torch.einsum("s,soi->oi", torch.tensor([-1.0, 1.0]).double(), torch.stack(pair))


def singular_spectrum(delta: Tensor) -> Tensor:
    values: Tensor = torch.linalg.svd(as_matrix("delta", delta), full_matrices=False).S
    return values


def energy_rank(spectrum: Tensor, share: float = 0.9) -> int:
    if not (share > 0.0) or share > 1.0:
        raise ValueError(f"share = {share}, expected (0, 1]")
    energy = as_spectrum(spectrum).square()
    size = len(energy)
    reached = torch.tril(torch.ones(size, size).double()) @ energy
    return int(torch.count_nonzero(reached < share * reached[-1])) + int(reached[-1] > 0)


def entropy_rank(spectrum: Tensor) -> float:
    values = as_spectrum(spectrum)
    p = values / values.sum().clamp(min=torch.finfo(torch.float64).tiny)
    entropy = torch.special.entr(p).sum()
    return float(entropy.exp() * (values[0] > 0))


def best_factors(delta: Tensor, r: int, scaling: float = 1.0) -> tuple[Tensor, Tensor]:
    if r < 1:
        raise ValueError(f"r = {r}, expected 1 or more")
    if not 0.0 < scaling < float("inf"):
        raise ValueError(f"scaling = {scaling}, expected a positive finite number")
    U, s, Vh = torch.linalg.svd(as_matrix("delta", delta), full_matrices=False)
    pick = torch.eye(len(s), r).double()  # (k, r)
    half = torch.sqrt(s / scaling)
    return torch.einsum("kr,k,ki->ri", pick, half, Vh), torch.einsum("ok,k,kr->or", U, half, pick)


def truncation_error(spectrum: Tensor, r: int) -> float:
    if r < 0:
        raise ValueError(f"r = {r}, expected 0 or more")
    values = as_spectrum(spectrum)
    tail = values * (torch.arange(len(values)) >= r)
    return float(torch.einsum("k,k->", tail, tail).sqrt())


def right_directions(A: Tensor) -> Tensor:
    _, s, Vh = torch.linalg.svd(as_matrix("A", A), full_matrices=False)
    return torch.as_tensor(Vh[s > RANK_TOLERANCE * s.max()])


def _squares(first: Tensor, second: Tensor) -> Tensor:
    U, V = right_directions(first), right_directions(second)
    if U.shape[-1] != V.shape[-1]:
        raise ValueError(f"first and second are {U.shape[-1]} and {V.shape[-1]} wide")
    return torch.einsum("ad,bd->ab", U, V) ** 2


def subspace_similarity(first: Tensor, second: Tensor, i: int, j: int) -> float:
    squares = _squares(first, second)
    for letter, index, size in zip("ij", (i, j), squares.shape, strict=True):
        if index not in range(1, size + 1):
            raise ValueError(f"{letter} = {index}, expected 1 to {size}")
    return float(torch.einsum("ab->", squares[:i, :j])) / min(i, j)


def similarity_grid(first: Tensor, second: Tensor) -> Tensor:
    squares = _squares(first, second)
    rows, columns = squares.shape
    below, right = torch.ones(rows, rows).double().tril(), torch.ones(columns, columns).double()
    corners = torch.einsum("ia,ab,jb->ij", below, squares, right.tril())
    i, j = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return corners / (1 + torch.minimum(i, j))


def equal_budget_rank(shapes: Sequence[LinearShape], budget: int) -> int:
    if not len(shapes):
        raise ValueError("shapes: expected some, got none")
    sizes = torch.tensor([[each.in_features, each.out_features] for each in shapes])
    price = int(sizes.sum())
    if price > budget:
        raise ValueError(f"budget = {budget}, expected at least {price}")
    return int(torch.div(torch.tensor(budget), price, rounding_mode="floor"))


def rank_plan(
    shapes: Sequence[LinearShape], target_sets: Mapping[str, Sequence[str]], budget: int
) -> dict[str, Plan]:
    names = [f".{each.name}" for each in shapes]
    prices = torch.tensor([each.in_features + each.out_features for each in shapes])
    plans = {}
    for label, targets in target_sets.items():
        hits = torch.tensor([[name.endswith(f".{t}") for name in names] for t in targets])
        for target, row in zip(targets, hits, strict=True):
            if not row.any():
                raise ValueError(f"target_sets: {target} matches nothing")
        chosen = hits.any(0)
        mine = [each for each, is_in in zip(shapes, chosen.tolist(), strict=True) if is_in]
        rank = equal_budget_rank(mine, budget)
        plans[label] = Plan(rank, int(chosen.sum()), rank * int(prices[chosen].sum()))
    return plans


def scaling_factor(alpha: float, r: int, rule: str = "alpha/r") -> float:
    if r < 1 or rule not in SCALING_RULES:
        raise ValueError(f"r = {r}, rule = {rule}: expected r of at least 1, one of {SCALING_RULES}")
    return alpha / math.exp((1.0, 0.5)[SCALING_RULES.index(rule)] * math.log(r))
