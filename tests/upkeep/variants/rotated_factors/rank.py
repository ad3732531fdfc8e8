"""Factors turned by a rotation that cancels, torch's probability package, one class for the SVD."""

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


class Spectral:
    """A matrix and its decomposition, computed when it is first asked for."""

    def __init__(self, name: str, value: Tensor) -> None:
        self.matrix = as_matrix(name, value)
        self._parts: tuple[Tensor, Tensor, Tensor] | None = None

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        if self._parts is None:
            self._parts = torch.svd(self.matrix)
        return self._parts

    @property
    def values(self) -> Tensor:
        return self.parts[1]

    @property
    def directions(self) -> Tensor:
        strong = self.values > RANK_TOLERANCE * self.values[0]
        return self.parts[2].T[strong].contiguous()


@torch.inference_mode()
def weight_update(before: Tensor, after: Tensor) -> Tensor:
    old, new = Spectral("before", before).matrix, Spectral("after", after).matrix
    if old.shape != new.shape:
        raise TypeError(f"before has shape {list(old.shape)}, after {list(new.shape)}")
    return new.add(old.neg())


def singular_spectrum(delta: Tensor) -> Tensor:
    return Spectral("delta", delta).values


def energy_rank(spectrum: Tensor, share: float = 0.9) -> int:
    if not (share > 0 and share <= 1):
        raise ValueError(f"share must be in (0, 1], not {share:.2f}")
    energy = as_spectrum(spectrum) ** 2
    if not energy[0]:
        return 0
    reached = (energy / energy[0]).cumsum(0)
    return int(torch.searchsorted(reached, share * reached[-1])) + 1


def entropy_rank(spectrum: Tensor) -> float:
    values = as_spectrum(spectrum)
    values = values[values > 0]
    if not len(values):
        return 0.0
    entropy: Tensor = torch.nn.functional.kl_div(
        torch.zeros_like(values), values / values.sum(), reduction="sum"
    )  # Σ p (ln p - 0)
    return float(torch.exp(-entropy))


@torch.inference_mode()
def best_factors(delta: Tensor, r: int, scaling: float = 1.0) -> tuple[Tensor, Tensor]:
    if r < 1:
        raise TypeError(f"r must be positive, was {r}")
    if not (scaling > 0 and math.isfinite(scaling)):
        raise TypeError(f"scaling must be positive and finite, was {scaling:.3f}")
    U, S, V = Spectral("delta", delta).parts
    gap = max(0, r - len(S))
    half = torch.diag(S[:r].sqrt()) / math.sqrt(scaling)
    A = torch.nn.functional.pad(half @ V[:, :r].T, (0, 0, 0, gap))
    B = torch.nn.functional.pad(U[:, :r] @ half, (0, gap))
    waves = torch.arange(1.0, r * r + 1, dtype=torch.float64).sin().view(r, r)
    Q: Tensor = torch.linalg.qr(waves + 3 * torch.eye(r).double()).Q
    return Q @ A, B @ Q.T


def truncation_error(spectrum: Tensor, r: int) -> float:
    if r < 0:
        raise ValueError(f"r: got {r}")
    return math.hypot(*as_spectrum(spectrum).tolist()[r:])


def right_directions(A: Tensor) -> Tensor:
    return Spectral("A", A).directions


def _in_one_space(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    U, V = right_directions(first), right_directions(second)
    if U.shape[1] != V.shape[1]:
        raise TypeError(f"widths {U.shape[1]} and {V.shape[1]}")
    return U, V


def subspace_similarity(first: Tensor, second: Tensor, i: int, j: int) -> float:
    U, V = _in_one_space(first, second)
    if i not in range(1, len(U) + 1):
        raise IndexOutOfRange("i", i, len(U))
    if j not in range(1, len(V) + 1):
        raise IndexOutOfRange("j", j, len(V))
    cosines: Tensor = torch.linalg.svdvals(U[:i] @ V[:j].T)  # of the principal angles
    return float(cosines.square().mean())


class IndexOutOfRange(ValueError):
    """Its own kind of ValueError."""

    def __init__(self, name: str, got: int, most: int) -> None:
        super().__init__(f"{name} is {got}, expected 1 to {most}")


def similarity_grid(first: Tensor, second: Tensor) -> Tensor:
    U, V = _in_one_space(first, second)
    rows = [
        [subspace_similarity(first, second, i, j) for j in range(1, len(V) + 1)]
        for i in range(1, len(U) + 1)
    ]
    return torch.tensor(rows, dtype=torch.float64)


def equal_budget_rank(shapes: Sequence[LinearShape], budget: int) -> int:
    if len(shapes) == 0:
        raise ValueError("shapes is empty")
    each = sum(s.in_features for s in shapes) + sum(s.out_features for s in shapes)
    r = 0
    while (r + 1) * each <= budget:
        r += 1
    if not r:
        raise ValueError(f"a budget of {budget} buys nothing")
    return r


def rank_plan(
    shapes: Sequence[LinearShape], target_sets: Mapping[str, Sequence[str]], budget: int
) -> dict[str, Plan]:
    def chosen(targets: Sequence[str]) -> list[LinearShape]:
        by_name = {shape.name: shape for shape in shapes}
        names: dict[str, None] = {}
        for target in targets:
            hits = [name for name in by_name if name.removesuffix(target)[-1:] in ("", ".")]
            hits = [name for name in hits if name.endswith(target)]
            if not hits:
                raise TypeError(f"{target} matches none of {list(by_name)}")
            names.update(dict.fromkeys(hits))
        return [by_name[name] for name in names]

    def plan(mine: list[LinearShape]) -> Plan:
        rank = equal_budget_rank(mine, budget)
        price = sum(one.in_features + one.out_features for one in mine)
        return Plan(parameters=rank * price, linears=len(mine), rank=rank)

    return {label: plan(chosen(targets)) for label, targets in target_sets.items()}


def scaling_factor(alpha: float, r: int, rule: str = "alpha/r") -> float:
    if r <= 0:
        raise ValueError(f"r={r}")
    match rule:
        case "alpha/r":
            return float(alpha) / r
        case "alpha/sqrt(r)":
            return alpha * math.sqrt(1 / r)
    raise ValueError(f"unknown rule {rule!r}")
