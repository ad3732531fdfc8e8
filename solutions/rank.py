"""Where the rank of a weight update lives: spectra, best factors, subspaces, equal budgets.

Source: Hu et al. 2021, arXiv:2106.09685 §7; Eckart & Young 1936; Roy & Vetterli 2007;
Kalajdzievski 2023, arXiv:2312.03732. The contract is BLUEPRINT-03.md beside this file.
Leaves out: randomised SVD, which approximates large matrices faster; convolutions.
Every matrix goes through as_matrix and every spectrum through as_spectrum: they raise for both.
"""

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
    """ΔW = after - before in float64: two (out, in) matrices of any dtypes -> (out, in).

    Raises:
        ValueError: the shapes differ.
    """
    # BEGIN SOLUTION A1
    old, new = as_matrix("before", before), as_matrix("after", after)
    if old.shape != new.shape:  # a single row would broadcast in silence
        raise ValueError(f"after: expected shape {tuple(old.shape)}, got {tuple(new.shape)}")
    return new - old  # both are wide by now: bfloat16 would round the difference
    # END SOLUTION


def singular_spectrum(delta: Tensor) -> Tensor:
    """The singular values of delta, largest first: (out, in) -> (min(out, in),), float64."""
    # BEGIN SOLUTION A2
    spectrum: Tensor = torch.linalg.svdvals(as_matrix("delta", delta))
    return spectrum
    # END SOLUTION


def energy_rank(spectrum: Tensor, share: float = 0.9) -> int:
    """The smallest k whose k largest σ² reach share of the sum of all σ²; 0 for a zero spectrum.

    Raises:
        ValueError: share outside (0, 1].
    """
    # BEGIN SOLUTION A3
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share: expected a number in (0, 1], got {share}")
    reached = as_spectrum(spectrum).square().cumsum(0)
    if reached[-1] == 0:
        return 0
    return int((reached < share * reached[-1]).sum()) + 1
    # END SOLUTION


def entropy_rank(spectrum: Tensor) -> float:
    """exp(-Σ p ln p) with p = σ / Σσ (Roy & Vetterli 2007); 0.0 for a zero spectrum."""
    # BEGIN SOLUTION A4
    values = as_spectrum(spectrum)
    if values[0] == 0:
        return 0.0
    p = values / values.sum()
    return math.exp(-float(torch.xlogy(p, p).sum()))  # xlogy(0, 0) is 0; 0 · log 0 is NaN
    # END SOLUTION


def best_factors(delta: Tensor, r: int, scaling: float = 1.0) -> tuple[Tensor, Tensor]:
    """A (r, in) and B (out, r), float64, with scaling · B A the best rank-r approximation of delta.

    Balanced: A Aᵀ = Bᵀ B. r may exceed min(out, in); the product is then delta itself.

    Raises:
        ValueError: r < 1, or scaling not finite or not above 0.
    """
    # BEGIN SOLUTION B1
    wide = as_matrix("delta", delta)
    if r < 1:
        raise ValueError(f"r: expected at least 1, got {r}")
    if not 0.0 < scaling < math.inf:
        raise ValueError(f"scaling: expected a finite number above 0, got {scaling}")
    left, values, right = torch.linalg.svd(wide, full_matrices=False)
    half = (values[:r] / scaling).sqrt()  # each factor takes the square root of σ / scaling
    A, B = wide.new_zeros(r, wide.shape[1]), wide.new_zeros(wide.shape[0], r)
    A[: len(half)] = half[:, None] * right[:r]
    B[:, : len(half)] = left[:, :r] * half
    return A, B
    # END SOLUTION


def truncation_error(spectrum: Tensor, r: int) -> float:
    """√Σ σ² over all but the r largest: the Frobenius distance to the best rank-r approximation.

    Raises:
        ValueError: r < 0.
    """
    # BEGIN SOLUTION B2
    if r < 0:
        raise ValueError(f"r: expected at least 0, got {r}")
    # The tail itself: all energy minus the kept energy would cancel the digits of a small tail.
    return float(as_spectrum(spectrum)[r:].square().sum().sqrt())
    # END SOLUTION


def right_directions(A: Tensor) -> Tensor:
    """A's right singular vectors, σ > RANK_TOLERANCE · σ₁, strongest first: (r, in) -> (k, in)."""
    # BEGIN SOLUTION C1
    _, values, right = torch.linalg.svd(as_matrix("A", A), full_matrices=False)
    directions: Tensor = right[values > RANK_TOLERANCE * values[0]]
    return directions
    # END SOLUTION


def subspace_similarity(first: Tensor, second: Tensor, i: int, j: int) -> float:
    """φ = ‖U₁ᵢᵀ U₂ⱼ‖² / min(i, j) of the i and the j strongest directions, 0 to 1 (paper §7.2).

    Raises:
        ValueError: first (r₁, in) and second (r₂, in) differ in in; i or j is not in 1 to its k.
    """
    # BEGIN SOLUTION C2
    U, V = right_directions(first), right_directions(second)  # directions as rows
    if U.shape[1] != V.shape[1]:
        raise ValueError(f"second: expected in = {U.shape[1]} as in first, got {V.shape[1]}")
    for name, asked, found in (("i", i, len(U)), ("j", j, len(V))):
        if not 1 <= asked <= found:
            raise ValueError(f"{name}: expected 1 to {found}, the rank of its matrix, got {asked}")
    return float((U[:i] @ V[:j].T).square().sum()) / min(i, j)
    # END SOLUTION


def similarity_grid(first: Tensor, second: Tensor) -> Tensor:
    """Every φ at once: (r₁, in), (r₂, in) -> (k₁, k₂), float64, with φ(i, j) at [i - 1, j - 1].

    Raises:
        ValueError: the two differ in in.
    """
    # BEGIN SOLUTION C3
    U, V = right_directions(first), right_directions(second)
    if U.shape[1] != V.shape[1]:
        raise ValueError(f"second: expected in = {U.shape[1]} as in first, got {V.shape[1]}")
    overlaps = (U @ V.T).square().cumsum(0).cumsum(1)  # one product for all i and j
    i, j = torch.arange(1, len(U) + 1), torch.arange(1, len(V) + 1)
    return overlaps / torch.minimum(i[:, None], j)
    # END SOLUTION


def equal_budget_rank(shapes: Sequence[LinearShape], budget: int) -> int:
    """The largest r at which adapters on all shapes train at most budget parameters.

    Raises:
        ValueError: no shapes, or a budget that does not buy rank 1.
    """
    # BEGIN SOLUTION D1
    if not shapes:
        raise ValueError("shapes: expected at least one linear, got none")
    step = sum(shape.in_features + shape.out_features for shape in shapes)  # what rank 1 costs
    if budget < step:
        raise ValueError(f"budget: expected at least {step}, the cost of rank 1, got {budget}")
    return budget // step
    # END SOLUTION


def rank_plan(
    shapes: Sequence[LinearShape], target_sets: Mapping[str, Sequence[str]], budget: int
) -> dict[str, Plan]:
    """What the budget buys on each set: label -> targets in, label -> Plan out, in the same order.

    A name matches a target t when it is t or ends with "." + t.

    Raises:
        ValueError: a target matches no shape and is named, or equal_budget_rank refuses a set.
    """
    # BEGIN SOLUTION D2
    plans = {}
    for label, targets in target_sets.items():
        found: dict[str, LinearShape] = {}
        for target in targets:
            hits = {s.name: s for s in shapes if f".{s.name}".endswith(f".{target}")}
            if not hits:
                raise ValueError(f"target_sets: {label!r}: no linear matches {target!r}")
            found |= hits  # by name: a linear that two targets match is paid once
        rank = equal_budget_rank(list(found.values()), budget)
        width = sum(shape.in_features + shape.out_features for shape in found.values())
        plans[label] = Plan(rank=rank, linears=len(found), parameters=rank * width)
    return plans
    # END SOLUTION


def scaling_factor(alpha: float, r: int, rule: str = "alpha/r") -> float:
    """What the branch is multiplied by: alpha / r (LoRA), or alpha / √r (rsLoRA).

    Raises:
        ValueError: r < 1, or a rule not in SCALING_RULES.
    """
    # BEGIN SOLUTION D3
    if r < 1:
        raise ValueError(f"r: expected at least 1, got {r}")
    if rule not in SCALING_RULES:
        raise ValueError(f"rule: expected one of {SCALING_RULES}, got {rule!r}")
    return alpha / r if rule == "alpha/r" else alpha / math.sqrt(r)
    # END SOLUTION
