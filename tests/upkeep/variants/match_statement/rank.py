"""Structures and match: a decomposition is a NamedTuple, a rule is a case."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

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


class Decomposition(NamedTuple):
    left: Tensor  # (out, k)
    values: Tensor  # (k,)
    right: Tensor  # (k, in)


class Factors(NamedTuple):
    A: Tensor
    B: Tensor


def _decompose(name: str, value: Tensor) -> Decomposition:
    return Decomposition(*torch.linalg.svd(as_matrix(name, value), full_matrices=False))


def weight_update(before: Tensor, after: Tensor) -> Tensor:
    match as_matrix("before", before), as_matrix("after", after):
        case (old, new) if old.shape == new.shape:
            return torch.add(new, old, alpha=-1)
        case (old, new):
            raise ValueError(f"after is {tuple(new.shape)}, before is {tuple(old.shape)}")
    raise AssertionError("two matrices are two")


def singular_spectrum(delta: Tensor) -> Tensor:
    return _decompose("delta", delta).values


def energy_rank(spectrum: Tensor, share: float = 0.9) -> int:
    match share:
        case float() | int() if 0 < share <= 1:
            pass
        case _:
            raise ValueError(f"share={share} is outside (0, 1]")
    energy = as_spectrum(spectrum).pow(2)
    match energy.sum().item():
        case 0:
            return 0
        case _:
            reached = energy.cumsum(0)
            return int(torch.searchsorted(reached, reached[-1] * share).item()) + 1


def entropy_rank(spectrum: Tensor) -> float:
    match as_spectrum(spectrum).tolist():
        case [largest, *_] if largest == 0:
            return 0.0
        case [*values]:
            total = math.fsum(values)
            shares = [value / total for value in values if value]
            return math.prod(math.pow(p, -p) for p in shares)
    raise AssertionError("a spectrum is a list")


def best_factors(delta: Tensor, r: int, scaling: float = 1.0) -> Factors:
    match r, scaling:
        case (rank, _) if rank < 1:
            raise ValueError(f"r={r} is below 1")
        case (_, scale) if not (scale > 0 and math.isfinite(scale)):
            raise ValueError(f"scaling={scaling} is not a finite number above 0")
    left, values, right = _decompose("delta", delta)
    half = torch.diag((values[:r] / scaling).sqrt())
    A, B = half @ right[:r], left[:, :r] @ half
    match r - len(half):
        case missing if missing > 0:
            A = torch.cat((A, A.new_zeros(missing, A.shape[1])))
            B = torch.cat((B, B.new_zeros(B.shape[0], missing)), dim=1)
    return Factors(A, B)


def truncation_error(spectrum: Tensor, r: int) -> float:
    match r, as_spectrum(spectrum).tolist():
        case (negative, _) if negative < 0:
            raise ValueError(f"r={r} is negative")
        case (kept, values):
            return math.hypot(*values[kept:])
    raise AssertionError("a pair is a pair")


def right_directions(A: Tensor) -> Tensor:
    found = _decompose("A", A)
    return found.right[found.values.gt(found.values[0] * RANK_TOLERANCE)]


def subspace_similarity(first: Tensor, second: Tensor, i: int, j: int) -> float:
    U, V = right_directions(first), right_directions(second)
    match U.shape[1], V.shape[1]:
        case (one, two) if one != two:
            raise ValueError(f"first is {one} wide, second is {two} wide")
    match (1 <= i <= len(U), 1 <= j <= len(V)):
        case (False, _):
            raise ValueError(f"i={i}, but first has {len(U)} directions")
        case (_, False):
            raise ValueError(f"j={j}, but second has {len(V)} directions")
    return float(torch.linalg.norm(U[:i] @ V[:j].T) ** 2) / min(i, j)


def similarity_grid(first: Tensor, second: Tensor) -> Tensor:
    U, V = right_directions(first), right_directions(second)
    match U.shape[1], V.shape[1]:
        case (one, two) if one != two:
            raise ValueError(f"first is {one} wide, second is {two} wide")
    cells = [
        subspace_similarity(first, second, i, j)
        for i in range(1, len(U) + 1)
        for j in range(1, len(V) + 1)
    ]
    return torch.tensor(cells, dtype=torch.float64).reshape(len(U), len(V))


def equal_budget_rank(shapes: Sequence[LinearShape], budget: int) -> int:
    match list(shapes):
        case []:
            raise ValueError("shapes=[] has nothing to adapt")
        case listed:
            price = sum(one.in_features + one.out_features for one in listed)
    match budget // price:
        case rank if rank > 0:
            return rank
    raise ValueError(f"budget={budget} is less than {price}")


def _is_meant(name: str, target: str) -> bool:
    match name.rpartition(target):
        case (("", _, "") as before) if before[1]:
            return True
        case (before, found, "") if found and before.endswith("."):
            return True
    return False


def rank_plan(
    shapes: Sequence[LinearShape], target_sets: Mapping[str, Sequence[str]], budget: int
) -> dict[str, Plan]:
    plans: dict[str, Plan] = {}
    for label, targets in target_sets.items():
        mine: list[LinearShape] = []
        for target in targets:
            match [shape for shape in shapes if _is_meant(shape.name, target)]:
                case []:
                    raise ValueError(f"{label}: target {target} is nowhere")
                case hits:
                    mine += [hit for hit in hits if hit not in mine]
        rank = equal_budget_rank(mine, budget)
        plans[label] = Plan(
            rank, len(mine), sum(rank * (s.in_features + s.out_features) for s in mine)
        )
    return plans


def scaling_factor(alpha: float, r: int, rule: str = "alpha/r") -> float:
    match rule, r:
        case (_, rank) if rank < 1:
            raise ValueError(f"r={r} is below 1")
        case ("alpha/r", _):
            return alpha / r
        case ("alpha/sqrt(r)", _):
            return alpha / math.sqrt(r)
    raise ValueError(f"rule={rule} is none of {SCALING_RULES}")
