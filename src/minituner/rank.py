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
    raise NotImplementedError("A1: subtract the weights in float64; see lab/03-where-rank-lives.md")


def singular_spectrum(delta: Tensor) -> Tensor:
    """The singular values of delta, largest first: (out, in) -> (min(out, in),), float64."""
    raise NotImplementedError(
        "A2: the singular values, largest first; see lab/03-where-rank-lives.md"
    )


def energy_rank(spectrum: Tensor, share: float = 0.9) -> int:
    """The smallest k whose k largest σ² reach share of the sum of all σ²; 0 for a zero spectrum.

    Raises:
        ValueError: share outside (0, 1].
    """
    raise NotImplementedError(
        "A3: count the singular values that hold a share of the energy; "
        "see lab/03-where-rank-lives.md"
    )


def entropy_rank(spectrum: Tensor) -> float:
    """exp(-Σ p ln p) with p = σ / Σσ (Roy & Vetterli 2007); 0.0 for a zero spectrum."""
    raise NotImplementedError(
        "A4: the effective rank: exp of the entropy of σ / Σσ; see lab/03-where-rank-lives.md"
    )


def best_factors(delta: Tensor, r: int, scaling: float = 1.0) -> tuple[Tensor, Tensor]:
    """A (r, in) and B (out, r), float64, with scaling · B A the best rank-r approximation of delta.

    Balanced: A Aᵀ = Bᵀ B. r may exceed min(out, in); the product is then delta itself.

    Raises:
        ValueError: r < 1, or scaling not finite or not above 0.
    """
    raise NotImplementedError(
        "B1: the best rank-r factors, balanced and ready for lora_A and lora_B; "
        "see lab/03-where-rank-lives.md"
    )


def truncation_error(spectrum: Tensor, r: int) -> float:
    """√Σ σ² over all but the r largest: the Frobenius distance to the best rank-r approximation.

    Raises:
        ValueError: r < 0.
    """
    raise NotImplementedError(
        "B2: the error of the best rank-r approximation, from the spectrum; "
        "see lab/03-where-rank-lives.md"
    )


def right_directions(A: Tensor) -> Tensor:
    """A's right singular vectors, σ > RANK_TOLERANCE · σ₁, strongest first: (r, in) -> (k, in)."""
    raise NotImplementedError(
        "C1: the directions that A reads, without those that are only noise; "
        "see lab/03-where-rank-lives.md"
    )


def subspace_similarity(first: Tensor, second: Tensor, i: int, j: int) -> float:
    """φ = ‖U₁ᵢᵀ U₂ⱼ‖² / min(i, j) of the i and the j strongest directions, 0 to 1 (paper §7.2).

    Raises:
        ValueError: first (r₁, in) and second (r₂, in) differ in in; i or j is not in 1 to its k.
    """
    raise NotImplementedError(
        "C2: the similarity φ(i, j) of two adapters; see lab/03-where-rank-lives.md"
    )


def similarity_grid(first: Tensor, second: Tensor) -> Tensor:
    """Every φ at once: (r₁, in), (r₂, in) -> (k₁, k₂), float64, with φ(i, j) at [i - 1, j - 1].

    Raises:
        ValueError: the two differ in in.
    """
    raise NotImplementedError(
        "C3: the whole grid of φ, from one product; see lab/03-where-rank-lives.md"
    )


def equal_budget_rank(shapes: Sequence[LinearShape], budget: int) -> int:
    """The largest r at which adapters on all shapes train at most budget parameters.

    Raises:
        ValueError: no shapes, or a budget that does not buy rank 1.
    """
    raise NotImplementedError(
        "D1: the largest rank that a budget of parameters buys; see lab/03-where-rank-lives.md"
    )


def rank_plan(
    shapes: Sequence[LinearShape], target_sets: Mapping[str, Sequence[str]], budget: int
) -> dict[str, Plan]:
    """What the budget buys on each set: label -> targets in, label -> Plan out, in the same order.

    A name matches a target t when it is t or ends with "." + t.

    Raises:
        ValueError: a target matches no shape and is named, or equal_budget_rank refuses a set.
    """
    raise NotImplementedError(
        "D2: what the same budget buys on different sets of targets; see lab/03-where-rank-lives.md"
    )


def scaling_factor(alpha: float, r: int, rule: str = "alpha/r") -> float:
    """What the branch is multiplied by: alpha / r (LoRA), or alpha / √r (rsLoRA).

    Raises:
        ValueError: r < 1, or a rule not in SCALING_RULES.
    """
    raise NotImplementedError(
        "D3: the scale of the branch by two rules, alpha/r and alpha/√r; "
        "see lab/03-where-rank-lives.md"
    )
