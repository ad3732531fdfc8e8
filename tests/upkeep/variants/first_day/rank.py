"""Somebody's first week: loops, one small step after the other, no helper is used twice."""

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
    before = as_matrix("before", before)
    after = as_matrix("after", after)
    if list(before.shape) != list(after.shape):
        raise ValueError(f"after has shape {list(after.shape)} but before {list(before.shape)}")
    rows, columns = before.shape
    delta = torch.zeros(rows, columns, dtype=torch.float64)
    for i in range(rows):
        for j in range(columns):
            delta[i, j] = after[i, j] - before[i, j]
    return delta


def singular_spectrum(delta: Tensor) -> Tensor:
    delta = as_matrix("delta", delta)
    U, S, Vh = torch.linalg.svd(delta)
    result = torch.zeros(min(delta.shape), dtype=torch.float64)
    for k in range(len(result)):
        result[k] = S[k]
    return result


def energy_rank(spectrum: Tensor, share: float = 0.9) -> int:
    values = as_spectrum(spectrum).tolist()
    if share <= 0 or share > 1 or math.isnan(share):
        raise ValueError("share should be between 0 and 1, it is " + str(share))
    total = 0.0
    for value in values:
        total = total + value * value
    if total == 0:
        return 0
    k = 0
    so_far = 0.0
    while so_far < share * total:
        so_far = so_far + values[k] * values[k]
        k = k + 1
    return k


def entropy_rank(spectrum: Tensor) -> float:
    values = as_spectrum(spectrum).tolist()
    total = sum(values)
    if total == 0:
        return 0.0
    entropy = 0.0
    for value in values:
        p = value / total
        if p > 0:
            entropy = entropy - p * math.log(p)
    return math.exp(entropy)


def best_factors(delta: Tensor, r: int, scaling: float = 1.0) -> tuple[Tensor, Tensor]:
    delta = as_matrix("delta", delta)
    if r <= 0:
        raise ValueError("r should be 1 or more, it is " + str(r))
    if math.isnan(scaling) or math.isinf(scaling) or scaling <= 0:
        raise ValueError("scaling should be more than 0, it is " + str(scaling))
    out, inside = delta.shape
    U, S, Vh = torch.linalg.svd(delta, full_matrices=False)
    A = torch.zeros(r, inside, dtype=torch.float64)
    B = torch.zeros(out, r, dtype=torch.float64)
    for k in range(r):
        if k < len(S):
            size = math.sqrt(float(S[k]) / scaling)
            for j in range(inside):
                A[k, j] = size * Vh[k, j]
            for i in range(out):
                B[i, k] = size * U[i, k]
    return A, B


def truncation_error(spectrum: Tensor, r: int) -> float:
    values = as_spectrum(spectrum).tolist()
    if r < 0:
        raise ValueError("r should be 0 or more, it is " + str(r))
    total = 0.0
    for k in range(len(values)):
        if k >= r:
            total = total + values[k] ** 2
    return math.sqrt(total)


def right_directions(A: Tensor) -> Tensor:
    A = as_matrix("A", A)
    U, S, Vh = torch.linalg.svd(A, full_matrices=False)
    kept = []
    for k in range(len(S)):
        if S[k] > RANK_TOLERANCE * S[0]:
            kept.append(Vh[k])
    if len(kept) == 0:
        return torch.zeros(0, A.shape[1], dtype=torch.float64)
    return torch.stack(kept)


def subspace_similarity(first: Tensor, second: Tensor, i: int, j: int) -> float:
    one = right_directions(first)
    two = right_directions(second)
    if one.shape[1] != two.shape[1]:
        raise ValueError(f"first has {one.shape[1]} columns and second {two.shape[1]}")
    if i < 1 or i > one.shape[0]:
        raise ValueError(f"i is {i}, there are {one.shape[0]} directions")
    if j < 1 or j > two.shape[0]:
        raise ValueError(f"j is {j}, there are {two.shape[0]} directions")
    total = 0.0
    for a in range(i):
        for b in range(j):
            cosine = float(torch.dot(one[a], two[b]))
            total = total + cosine * cosine
    return total / min(i, j)


def similarity_grid(first: Tensor, second: Tensor) -> Tensor:
    one = right_directions(first)
    two = right_directions(second)
    if one.shape[1] != two.shape[1]:
        raise ValueError(f"first has {one.shape[1]} columns and second {two.shape[1]}")
    grid = torch.zeros(one.shape[0], two.shape[0], dtype=torch.float64)
    for i in range(one.shape[0]):
        for j in range(two.shape[0]):
            grid[i, j] = subspace_similarity(first, second, i + 1, j + 1)
    return grid


def equal_budget_rank(shapes: Sequence[LinearShape], budget: int) -> int:
    if len(shapes) == 0:
        raise ValueError("shapes is empty")
    cost = 0
    for shape in shapes:
        cost = cost + shape.in_features
        cost = cost + shape.out_features
    r = 0
    spent = 0
    while spent + cost <= budget:
        spent = spent + cost
        r = r + 1
    if r == 0:
        raise ValueError("the budget " + str(budget) + " is not enough for rank 1")
    return r


def rank_plan(
    shapes: Sequence[LinearShape], target_sets: Mapping[str, Sequence[str]], budget: int
) -> dict[str, Plan]:
    plans = {}
    for label in target_sets:
        chosen: list[LinearShape] = []
        for target in target_sets[label]:
            count = 0
            for shape in shapes:
                if shape.name == target or shape.name.endswith("." + target):
                    count = count + 1
                    if shape not in chosen:
                        chosen.append(shape)
            if count == 0:
                raise ValueError("nothing is called " + target)
        r = equal_budget_rank(chosen, budget)
        parameters = 0
        for shape in chosen:
            parameters = parameters + r * shape.in_features + r * shape.out_features
        plans[label] = Plan(r, len(chosen), parameters)
    return plans


def scaling_factor(alpha: float, r: int, rule: str = "alpha/r") -> float:
    if r < 1:
        raise ValueError("r should be 1 or more, it is " + str(r))
    if rule == "alpha/r":
        return alpha / r
    elif rule == "alpha/sqrt(r)":
        return alpha / math.sqrt(r)
    else:
        raise ValueError("I do not know the rule " + rule)
