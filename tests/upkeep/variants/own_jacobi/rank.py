"""No SVD and no eigh of torch's: one-sided Jacobi rotations, Hestenes 1958."""

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


SWEEPS = 60
SMALL = 1e-13  # a cosine between two columns that counts as none


def _dot(one: list[float], other: list[float]) -> float:
    return sum(x * y for x, y in zip(one, other, strict=True))


def _turned(one: list[float], other: list[float], cos: float, t: float) -> list[float]:
    return [cos * (x - t * y) for x, y in zip(one, other, strict=True)]


def _columns(wide: Tensor) -> tuple[Tensor, Tensor]:
    """(W, V) with W = wide V, whose columns are orthogonal, longest first; V is orthogonal.

    In plain Python: a column has a few numbers, and a call into torch costs as much as many.
    """
    W: list[list[float]] = wide.T.tolist()  # by column
    V: list[list[float]] = torch.eye(len(W), dtype=torch.float64).tolist()
    none = (1e-16 * float(wide.norm())) ** 2  # a squared length that is rounding alone
    for _ in range(SWEEPS):
        still = True
        for p, q in ((p, q) for q in range(len(W)) for p in range(q)):
            a, b, c = _dot(W[p], W[p]), _dot(W[q], W[q]), _dot(W[p], W[q])
            if min(a, b) <= none or abs(c) <= SMALL * math.sqrt(a * b):
                continue
            still = False
            zeta = (b - a) / (2 * c)
            t = math.copysign(1.0, zeta) / (abs(zeta) + math.hypot(1.0, zeta))
            cos = 1 / math.hypot(1.0, t)
            for M in (W, V):
                M[p], M[q] = _turned(M[p], M[q], cos, t), _turned(M[q], M[p], cos, -t)
        if still:
            break
    order = sorted(range(len(W)), key=lambda k: -_dot(W[k], W[k]))
    longest_W, longest_V = (torch.tensor([M[k] for k in order], dtype=torch.float64).T for M in (W, V))
    return longest_W, longest_V


def weight_update(before: Tensor, after: Tensor) -> Tensor:
    old, new = as_matrix("before", before), as_matrix("after", after)
    if old.shape != new.shape:
        raise ValueError(f"before {tuple(old.shape)} and after {tuple(new.shape)} do not match")
    return -(old - new)


def singular_spectrum(delta: Tensor) -> Tensor:
    wide = as_matrix("delta", delta)
    narrow = wide if wide.shape[0] >= wide.shape[1] else wide.T
    lengths: Tensor = _columns(narrow)[0].norm(dim=0)
    return lengths


def energy_rank(spectrum: Tensor, share: float = 0.9) -> int:
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share: {share} is not in (0, 1]")
    values = as_spectrum(spectrum).tolist()
    energies = [value * value for value in values]
    total = math.fsum(energies)
    ranks = range(len(values) + 1)
    return next(k for k in ranks if math.fsum(energies[:k]) >= share * total)


def entropy_rank(spectrum: Tensor) -> float:
    values = as_spectrum(spectrum)
    total = float(values.sum())
    if not total:
        return 0.0
    # -Σ p ln p = ln Σσ - Σ σ ln σ / Σσ
    return total * math.exp(-float(torch.xlogy(values / total, values).sum()))


def best_factors(delta: Tensor, r: int, scaling: float = 1.0) -> tuple[Tensor, Tensor]:
    wide = as_matrix("delta", delta)
    if r < 1:
        raise ValueError(f"r: {r} is below 1")
    if not 0.0 < scaling < math.inf:
        raise ValueError(f"scaling: {scaling} is not a finite number above 0")
    W, V = _columns(wide)
    sigma = W.norm(dim=0)
    A, B = torch.zeros(r, wide.shape[1]).double(), torch.zeros(wide.shape[0], r).double()
    for k in range(min(r, *wide.shape)):
        if sigma[k] > 0:
            A[k] = V[:, k] * (sigma[k] / scaling).sqrt()
            B[:, k] = W[:, k] / (sigma[k] * scaling).sqrt()
    return A, B


def truncation_error(spectrum: Tensor, r: int) -> float:
    if r < 0:
        raise ValueError(f"r: {r} is below 0")
    return math.sqrt(math.fsum(value**2 for value in as_spectrum(spectrum).tolist()[r:]))


def right_directions(A: Tensor) -> Tensor:
    W, V = _columns(as_matrix("A", A))
    sigma = W.norm(dim=0)
    return V.T[sigma > RANK_TOLERANCE * sigma[0]]


def subspace_similarity(first: Tensor, second: Tensor, i: int, j: int) -> float:
    U, V = right_directions(first), right_directions(second)
    if U.shape[1] != V.shape[1]:
        raise ValueError(f"first and second: {U.shape[1]} and {V.shape[1]} columns")
    if not 1 <= i <= len(U):
        raise ValueError(f"i: {i} is not among the {len(U)} directions")
    if not 1 <= j <= len(V):
        raise ValueError(f"j: {j} is not among the {len(V)} directions")
    P, Q = U[:i].T @ U[:i], V[:j].T @ V[:j]  # the two projections; φ is the trace of their product
    return float(torch.trace(P @ Q)) / min(i, j)


def similarity_grid(first: Tensor, second: Tensor) -> Tensor:
    U, V = right_directions(first), right_directions(second)
    if U.shape[1] != V.shape[1]:
        raise ValueError(f"first and second: {U.shape[1]} and {V.shape[1]} columns")
    squares = (U @ V.T) ** 2
    rows = [
        torch.stack([squares[:i, :j].sum() / min(i, j) for j in range(1, len(V) + 1)])
        for i in range(1, len(U) + 1)
    ]
    return torch.stack(rows)


def equal_budget_rank(shapes: Sequence[LinearShape], budget: int) -> int:
    if not shapes:
        raise ValueError("shapes: it is empty")
    low, high = 0, max(budget, 1)  # by bisection
    price = sum(s.in_features + s.out_features for s in shapes)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle * price <= budget else (low, middle - 1)
    if low == 0:
        raise ValueError(f"budget: {budget} is below {price}")
    return low


def rank_plan(
    shapes: Sequence[LinearShape], target_sets: Mapping[str, Sequence[str]], budget: int
) -> dict[str, Plan]:
    plans = {}
    for label, targets in target_sets.items():
        ends = [target.split(".") for target in targets]
        mine = []
        missing = set(targets)
        for shape in shapes:
            path = shape.name.split(".")
            hits = {".".join(end) for end in ends if path[-len(end) :] == end}
            missing -= hits
            if hits:
                mine.append(shape)
        if missing:
            raise ValueError(f"target_sets: {label} names {sorted(missing)}, found nowhere")
        rank = equal_budget_rank(mine, budget)
        parameters = rank * sum(s.in_features + s.out_features for s in mine)
        plans[label] = Plan(rank, len(mine), parameters)
    return plans


def scaling_factor(alpha: float, r: int, rule: str = "alpha/r") -> float:
    if r < 1:
        raise ValueError(f"r: {r} is below 1")
    rules = {"alpha/r": lambda: alpha / r, "alpha/sqrt(r)": lambda: alpha * math.sqrt(r) / r}
    if rule not in rules:
        raise ValueError(f"rule: {rule} is none of {', '.join(rules)}")
    return rules[rule]()
