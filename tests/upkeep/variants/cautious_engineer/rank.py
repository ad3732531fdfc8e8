"""Every argument checked by hand, TypeError where a type is wrong; as_matrix is not trusted."""

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


def _matrix(name: str, value: Tensor) -> Tensor:
    """A copy in float64, so that nothing shares memory with an argument."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a Tensor, got {type(value).__name__}")
    if value.dim() != 2 or value.numel() == 0:
        raise TypeError(f"{name} must be a non-empty matrix, got shape {tuple(value.shape)}")
    if not value.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {value.dtype}")
    with torch.no_grad():
        copy = value.detach().clone().to(dtype=torch.float64, device="cpu")
        if bool(copy.isnan().any()) or bool(copy.isinf().any()):
            raise ValueError(f"{name} must be finite, got NaN or inf")
    return copy


def _count(name: str, value: int, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return value


def weight_update(before: Tensor, after: Tensor) -> Tensor:
    old, new = _matrix("before", before), _matrix("after", after)
    if old.shape != new.shape:
        raise ValueError(
            f"before and after must have one shape, got {tuple(old.shape)} and {tuple(new.shape)}"
        )
    return new.sub_(old)  # new is a copy


def singular_spectrum(delta: Tensor) -> Tensor:
    with torch.no_grad():
        values: Tensor = torch.linalg.svdvals(_matrix("delta", delta))
        ordered, _ = torch.sort(values.abs(), descending=True)
    assert ordered.dtype is torch.float64
    return ordered.contiguous()


def energy_rank(spectrum: Tensor, share: float = 0.9) -> int:
    if isinstance(share, bool) or not isinstance(share, int | float):
        raise TypeError(f"share must be a number, got {share!r}")
    if not math.isfinite(share) or share <= 0 or share > 1:
        raise ValueError(f"share must be in (0, 1], got {share}")
    values = as_spectrum(spectrum)
    largest = float(values[0])
    if largest == 0.0:
        return 0
    energies = [float(value) ** 2 for value in values / largest]  # no overflow
    total, reached = 0.0, []
    for energy in energies:
        total += energy
        reached.append(total)
    for k, sum_so_far in enumerate(reached, start=1):
        if sum_so_far >= share * total:
            return k
    raise AssertionError("the whole reaches every share of itself")


def entropy_rank(spectrum: Tensor) -> float:
    values = as_spectrum(spectrum)
    largest = float(values[0])
    if largest == 0.0:
        return 0.0
    scaled = (values / largest).tolist()
    total = math.fsum(scaled)
    entropy = -math.fsum(x / total * (math.log(x) - math.log(total)) for x in scaled if x > 0.0)
    return math.exp(entropy)


def best_factors(delta: Tensor, r: int, scaling: float = 1.0) -> tuple[Tensor, Tensor]:
    wide, rank = _matrix("delta", delta), _count("r", r, 1)
    if not isinstance(scaling, int | float) or not math.isfinite(scaling) or scaling <= 0:
        raise TypeError(f"scaling must be a finite number above 0, got {scaling!r}")
    rows, columns = wide.shape
    kept = min(rank, rows, columns)
    left, values, right = torch.linalg.svd(wide, full_matrices=False)
    root = values[:kept].div(scaling).sqrt()
    A = torch.zeros((rank, columns), dtype=torch.float64)
    B = torch.zeros((rows, rank), dtype=torch.float64)
    A[:kept, :].copy_(root.unsqueeze(1).mul(right[:kept, :]))
    B[:, :kept].copy_(left[:, :kept].mul(root.unsqueeze(0)))
    assert A.isfinite().all() and B.isfinite().all()
    return A, B


def truncation_error(spectrum: Tensor, r: int) -> float:
    values = as_spectrum(spectrum)
    tail = values[_count("r", r, 0) :]
    if tail.numel() == 0:
        return 0.0
    largest = float(tail[0])
    if largest == 0.0:
        return 0.0
    return largest * math.sqrt(math.fsum(float(x / largest) ** 2 for x in tail))


def right_directions(A: Tensor) -> Tensor:
    wide = _matrix("A", A)
    if not wide.any():
        return torch.empty((0, wide.shape[1]), dtype=torch.float64)
    _, values, right = torch.linalg.svd(wide, full_matrices=False)
    count = int((values > RANK_TOLERANCE * float(values[0])).sum())
    return torch.as_tensor(right[:count]).clone()


def _pair(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    U, V = right_directions(_matrix("first", first)), right_directions(_matrix("second", second))
    if U.size(1) != V.size(1):
        raise ValueError(f"first and second must be equally wide, got {U.size(1)} and {V.size(1)}")
    return U, V


def subspace_similarity(first: Tensor, second: Tensor, i: int, j: int) -> float:
    U, V = _pair(first, second)
    _count("i", i, 1)
    _count("j", j, 1)
    if i > len(U):
        raise ValueError(f"i must be at most {len(U)}, the rank of first, got {i}")
    if j > len(V):
        raise ValueError(f"j must be at most {len(V)}, the rank of second, got {j}")
    phi = float(torch.matmul(U[:i], V[:j].transpose(0, 1)).square().sum().item()) / min(i, j)
    return min(max(phi, 0.0), 1.0)  # rounding may leave it a hair outside


def similarity_grid(first: Tensor, second: Tensor) -> Tensor:
    U, V = _pair(first, second)
    squares = torch.matmul(U, V.transpose(0, 1)).square()
    sums = squares.cumsum(dim=0, dtype=torch.float64).cumsum(dim=1, dtype=torch.float64)
    rows = torch.arange(1, len(U) + 1, dtype=torch.float64).unsqueeze(1)
    columns = torch.arange(1, len(V) + 1, dtype=torch.float64).unsqueeze(0)
    return sums.div(torch.minimum(rows, columns)).clamp(0.0, 1.0)


def equal_budget_rank(shapes: Sequence[LinearShape], budget: int) -> int:
    if len(shapes) == 0:
        raise ValueError("shapes must not be empty")
    if not isinstance(budget, int):
        raise TypeError(f"budget must be an int, got {budget!r}")
    cost = 0
    for position, shape in enumerate(shapes):
        if shape.in_features < 1 or shape.out_features < 1:
            raise ValueError(f"shapes[{position}] must have positive sizes, got {shape}")
        cost += shape.in_features + shape.out_features
    rank = budget // cost
    if rank < 1:
        raise ValueError(f"budget must be at least {cost}, got {budget}")
    assert rank * cost <= budget < (rank + 1) * cost
    return rank


def rank_plan(
    shapes: Sequence[LinearShape], target_sets: Mapping[str, Sequence[str]], budget: int
) -> dict[str, Plan]:
    plans: dict[str, Plan] = {}
    for label, targets in target_sets.items():
        found: dict[str, LinearShape] = {}
        for target in targets:
            before = len(found)
            matched = False
            for shape in shapes:
                if shape.name == target or shape.name.endswith("." + target):
                    found.setdefault(shape.name, shape)
                    matched = True
            if not matched:
                known = ", ".join(shape.name for shape in shapes)
                raise ValueError(f"target_sets[{label!r}]: {target!r} is none of: {known}")
            assert len(found) >= before
        chosen = tuple(found.values())
        rank = equal_budget_rank(chosen, budget)
        spent = sum(rank * (shape.in_features + shape.out_features) for shape in chosen)
        assert spent <= budget
        plans[label] = Plan(rank=rank, linears=len(chosen), parameters=spent)
    return plans


def scaling_factor(alpha: float, r: int, rule: str = "alpha/r") -> float:
    rank = _count("r", r, 1)
    if rule not in SCALING_RULES:
        raise ValueError(f"rule must be one of {SCALING_RULES}, got {rule!r}")
    divisor = float(rank) if rule == SCALING_RULES[0] else math.sqrt(rank)
    return float(alpha) / divisor
