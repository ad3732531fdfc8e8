"""Lab 03, block C: the directions an adapter reads, and φ between two of them.

Adapters are built from directions of known cosines. Leaves out: how they are built
(lab03_asking.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minituner.grading.checks.asking import Asking, gap
from minituner.grading.checks.lab03_asking import (
    adapter,
    close,
    doubles,
    drawn,
    leaning,
    no_matrix,
    orthonormal,
    refused,
    shape,
    sizes,
    stairs,
    vector,
)

DIRECTIONS, SIMILARITY, GRID = "right_directions", "subspace_similarity", "similarity_grid"

# --- C1: the directions of an adapter -------------------------------------------------------------


def rank_subspace_directions_of_a_worked_adapter(ask: Asking) -> None:
    A = torch.zeros(2, ask.rng.randint(3, 5), dtype=torch.float64)
    weak, strong = ask.rng.sample(range(A.shape[1]), 2)
    A[0, weak], A[1, strong] = ask.rng.randint(1, 3), ask.rng.randint(4, 9)
    want = torch.zeros_like(A)
    want[0, strong] = want[1, weak] = 1
    got = ask.w.tensor(ask.star(DIRECTIONS)(A))
    ask.near(f"|got| - (e{strong + 1}, e{weak + 1})", got.abs(), want, 1e-9)
    doubles(ask, "the directions", got)


def rank_subspace_directions_are_those_an_adapter_was_built_from(ask: Asking) -> None:
    rights, calls = [], []
    for size in sizes(ask):
        A, _, right = drawn(ask, *size, stairs(ask, min(size)))
        rights.append(right)
        calls.append(ask.star(DIRECTIONS)(A))
    for got, right in zip(ask.w.ask(calls), rights, strict=True):
        ask.see("shape", shape(got), list(right.T.shape))
        cosines, want = (got.double() @ right).abs(), torch.eye(right.shape[1], dtype=torch.float64)
        ask.near("|cosines| - identity", cosines, want, 1e-9)


def rank_subspace_directions_leave_out_the_noise(ask: Asking) -> None:
    inside = ask.rng.randint(5, 7)
    spectra = [(3.0, 2.0), (1.0, ask.rng.uniform(1e-4, 1e-3), ask.rng.uniform(1e-9, 1e-8))]
    adapters = [drawn(ask, 4, inside, s)[0] * size for s in spectra for size in (1e-5, 1e5)]
    adapters.append(torch.zeros(3, inside, dtype=torch.float64))
    got = ask.w.ask([ask.star(DIRECTIONS)(A) for A in adapters])
    ask.see("shapes", list(map(shape, got)), [*[[2, inside]] * 4, [0, inside]])


def rank_subspace_directions_take_float32_parameters(ask: Asking) -> None:
    A = ask.w.keep(ask.nn.Parameter(ask.randn(3, 8, dtype="float32")))
    kept = ask.w.keep(ask.star(DIRECTIONS)(A))
    got, tracked = ask.w.ask((kept, ask.kit.flag(kept)))
    doubles(ask, "the directions", got)
    ask.see("shape", shape(got), [3, 8])
    ask.near("V Vᵀ - I", got @ got.T, torch.eye(3, dtype=torch.float64), 1e-9)
    ask.see("requires_grad", tracked, False)


def rank_subspace_directions_refuse_what_is_no_finite_matrix(ask: Asking) -> None:
    calls = {kind: ask.star(DIRECTIONS)(bad) for kind, bad in no_matrix(ask).items()}
    refused(ask, [(kind, call, ("A",)) for kind, call in calls.items()])


# --- C2: the similarity φ -------------------------------------------------------------------------


def _phi(ask: Asking, *asked: tuple[Tensor, Tensor, int, int]) -> Any:
    """φ of each, in one question."""
    return ask.w.ask([ask.star(SIMILARITY)(*one) for one in asked])


def rank_subspace_similarity_of_an_adapter_with_itself_is_one(ask: Asking) -> None:
    A, ranks = adapter(ask, orthonormal(ask, 7, 3)), (1, 2, 3)
    turned = orthonormal(ask, 3, 3) @ A
    got = _phi(ask, *((A, turned, i, j) for i in ranks for j in ranks))
    close(ask, "φ(i, j) of A and Q A", got, [1.0] * 9, 1e-9)


def rank_subspace_similarity_of_orthogonal_adapters_is_zero(ask: Asking) -> None:
    basis = orthonormal(ask, 8, 6)
    first, second = adapter(ask, basis[:, :3]), adapter(ask, basis[:, 3:])
    got = _phi(ask, *((first, second, i, j) for i in (1, 3) for j in (1, 2, 3)))
    close(ask, "φ(i, j) of orthogonal adapters", got, [0.0] * 6, 1e-9)


def rank_subspace_similarity_is_the_mean_squared_cosine(ask: Asking) -> None:
    one, two = ask.rng.uniform(0.5, 0.7), ask.rng.uniform(0.75, 0.95)
    first, second = (adapter(ask, each) for each in leaning(ask, (one, two, 0.0), 7))
    pairs = ((1, 1), (2, 2), (2, 3), (3, 2), (3, 3))
    got, both = _phi(ask, *((first, second, *pair) for pair in pairs)), one**2 + two**2
    want = [one**2, both / 2, both / 2, both / 2, both / 3]
    close(ask, f"cosines {one:.3f}, {two:.3f}, 0: φ at {list(pairs)}", got, want, 1e-9)


def rank_subspace_similarity_sees_a_direction_inside_a_larger_subspace(ask: Asking) -> None:
    basis, squares = orthonormal(ask, 6, 3), [ask.rng.uniform(0.2, 0.4) for _ in range(2)]
    squares.append(1 - sum(squares))  # of the direction's coordinates in the larger subspace
    small = (basis @ vector(*squares).sqrt())[:, None]
    first, second = adapter(ask, small), adapter(ask, basis)
    asked = [(first, second, 1, j) for j in (1, 2, 3)] + [(second, first, i, 1) for i in (1, 2, 3)]
    want = [squares[0], squares[0] + squares[1], 1.0] * 2
    close(ask, "φ(1, j), φ(i, 1) of a direction inside", _phi(ask, *asked), want, 1e-9)


def rank_subspace_similarity_takes_the_strongest_directions_first(ask: Asking) -> None:
    strong, weak = ask.rng.sample(range(3), 2)
    first, other = torch.zeros(2, 3), torch.zeros(1, 3)
    first[0, weak], first[1, strong] = ask.rng.randint(1, 3), ask.rng.randint(4, 9)
    other[0, strong] = ask.rng.choice((-2.0, 1.0))
    got = _phi(ask, (first, other, 1, 1), (other, first, 1, 1))
    close(ask, "φ(1, 1)", got, [1.0, 1.0], 1e-9)
    ask.see("types", [type(each).__name__ for each in got], ["float", "float"])


def rank_subspace_similarity_refuses_directions_that_are_not_there(ask: Asking) -> None:
    rank2, rank3 = drawn(ask, 4, 6, (3, 2))[0], drawn(ask, 3, 6, (3, 2, 1))[0]
    low, high = -ask.rng.randint(1, 2), ask.rng.randint(4, 6)
    cases = [("i", 0, 1), ("i", 3, 1), ("i", low, 1), ("j", 1, 0), ("j", 1, high)]
    phi = ask.star(SIMILARITY)
    things = [
        (f"φ({i}, {j})", phi(rank2, rank3, i, j), (name, str(i if name == "i" else j)))
        for name, i, j in cases
    ]
    refused(ask, things)


def rank_subspace_similarity_refuses_another_width(ask: Asking) -> None:
    one, other = ask.rng.sample(range(3, 10), 2)
    call = ask.star(SIMILARITY)(torch.eye(2, one), torch.eye(2, other), 1, 1)
    refused(ask, [(f"widths {one} and {other}", call, (str(one), str(other)))])


# --- C3: the whole grid ---------------------------------------------------------------------------


def rank_subspace_grid_of_known_cosines(ask: Asking) -> None:
    one, two = ask.rng.uniform(0.5, 0.7), ask.rng.uniform(0.75, 0.95)
    first, second = leaning(ask, (one, two, 0.0), 7)
    got = ask.w.tensor(ask.star(GRID)(adapter(ask, first), adapter(ask, second[:, :2])))
    a, half = one**2, (one**2 + two**2) / 2
    want = vector(a, a, a, half, a, half).view(3, 2)
    ask.see("shape", shape(got), [3, 2])
    seen = [[round(value, 4) for value in row] for row in got.tolist()]
    ask.hold(gap(got, want) <= 1e-9, f"cosines {one:.3f}, {two:.3f}, 0: {seen}", f"{want.tolist()}")
    doubles(ask, "the grid", got)


def rank_subspace_grid_sums_over_all_pairs(ask: Asking) -> None:
    v, turn = orthonormal(ask, 6, 3), orthonormal(ask, 3, 2)  # cosines of all pairs
    while turn.abs().min() < 0.1:
        turn = orthonormal(ask, 3, 2)
    got = ask.w.ask(ask.star(GRID)(adapter(ask, v @ turn), adapter(ask, v)))
    rows = turn.T.square().tolist()
    want = [
        [sum(map(sum, (row[:j] for row in rows[:i]))) / min(i, j) for j in (1, 2, 3)]
        for i in (1, 2)
    ]
    ask.near("grid - Σ cos² / min(i, j)", got, torch.tensor(want, dtype=torch.float64), 1e-9)


def rank_subspace_grid_has_only_the_directions_there_are(ask: Asking) -> None:
    first, second = drawn(ask, 4, 6, (3, 2))[0], drawn(ask, 3, 6, (3, 2, 1))[0]
    got = ask.w.tensor(ask.star(GRID)(first, second))
    ask.see("shape", list(got.shape), [2, 3])
    off = gap(got.double().clamp(0, 1), got.double())
    ask.hold(off <= 1e-9, f"outside 0 to 1 by {off:.3g}", "≤ 1e-9")


def rank_subspace_grid_refuses_another_width(ask: Asking) -> None:
    one, other = ask.rng.sample(range(3, 10), 2)
    call = ask.star(GRID)(torch.eye(2, one), torch.eye(2, other))
    refused(ask, [(f"widths {one} and {other}", call, (str(one), str(other)))])
