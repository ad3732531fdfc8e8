"""Lab 03, block B: the best factors of an update, and the error they leave.

The judge multiplies B A itself, so signs and rotations stay free.
Leaves out: the matrices of known singular values (lab03_asking.py).
"""

from __future__ import annotations

import math
from typing import Any

import torch

from minituner.grading.checks.asking import Asking, gap
from minituner.grading.checks.lab03_asking import (
    built,
    close,
    doubles,
    drawn,
    no_matrix,
    no_spectrum,
    product,
    refused,
    shape,
    sizes,
    stairs,
    vector,
    worst,
)
from minituner.grading.expr import Expr

BEST, ERROR = "best_factors", "truncation_error"


def _pairs(ask: Asking, *calls: Expr) -> list[Any]:
    """(A, B) of each call, in one question."""
    kept = [ask.w.keep(call) for call in calls]
    found: list[Any] = ask.w.ask([(pair[0], pair[1]) for pair in kept])
    return found


# --- B1: the best factors -------------------------------------------------------------------------


def rank_factors_best_have_the_shapes_of_an_adapter(ask: Asking) -> None:
    r, both = ask.rng.choice((2, 3)), sizes(ask)
    calls = [ask.star(BEST)(ask.randn(*size, dtype="float32"), r) for size in both]
    for (out, inside), pair in zip(both, _pairs(ask, *calls), strict=True):
        ask.see(
            f"shapes of A, B of {out} by {inside}", list(map(shape, pair)), [[r, inside], [out, r]]
        )
        doubles(ask, "A, B", *pair)


def rank_factors_best_of_a_worked_matrix(ask: Asking) -> None:
    large, small = ask.rng.randint(5, 9), ask.rng.randint(1, 4)
    delta, want = torch.zeros(3, 2, dtype=torch.float64), torch.zeros(3, 2, dtype=torch.float64)
    row, other = ask.rng.sample(range(3), 2)
    column = ask.rng.randrange(2)
    delta[row, column], delta[other, 1 - column] = large, small
    want[row, column] = large
    pair = _pairs(ask, ask.star(BEST)(delta, 1))[0]
    ask.see("shapes of A, B", list(map(shape, pair)), [[1, 2], [3, 1]])
    ask.near(f"B A - the {large} alone", product(pair, (3, 2)), want, 1e-11)
    norms = [math.sqrt(sum(x * x for x in one.double().flatten().tolist())) for one in pair]
    close(ask, "norms of A, B", norms, [math.sqrt(large)] * 2, 1e-9)


def rank_factors_best_product_is_the_truncated_sum(ask: Asking) -> None:
    calls, wants, larges = [], [], []
    for size in sizes(ask):
        sigma = stairs(ask, min(size))
        delta, left, right = drawn(ask, *size, sigma)
        for r in range(1, len(sigma)):
            calls.append(ask.star(BEST)(delta, r))
            wants.append(built(sigma[:r], left[:, :r], right[:, :r]))
            larges.append(sigma[0].item())
    pairs = _pairs(ask, *calls)
    products = [product(p, want.shape) for p, want in zip(pairs, wants, strict=True)]
    off = worst(list(zip(products, wants, larges, strict=True)))
    ask.hold(off < 1e-11, f"max|B A - Σ σ u vᵀ| / σ₁ = {off:.3g}", "< 1e-11")


def rank_factors_best_leave_room_for_the_scaling(ask: Asking) -> None:
    scaling, r = ask.rng.choice((0.25, 0.75, 2.0, 5.5)), ask.rng.choice((2, 3))
    sigma = stairs(ask, 5)
    delta, left, right = drawn(ask, 6, 5, sigma)
    found = product(_pairs(ask, ask.star(BEST)(delta, r, scaling))[0], (6, 5))
    want = built(sigma[:r], left[:, :r], right[:, :r])
    ask.see("matrices that fit", found is not None, True)
    off = worst([(found if found is None else scaling * found, want, sigma[0].item())])
    ask.hold(off < 1e-11, f"max|{scaling} · B A - best| / σ₁ = {off:.3g}", "< 1e-11")


def rank_factors_best_are_balanced(ask: Asking) -> None:
    scaling, r = ask.rng.choice((0.25, 0.5, 3.0)), ask.rng.choice((2, 3))
    sigmas = [(size, stairs(ask, min(size))) for size in sizes(ask)]
    calls = [ask.star(BEST)(drawn(ask, *size, sigma)[0], r, scaling) for size, sigma in sigmas]
    for ((out, inside), sigma), (A, B) in zip(sigmas, _pairs(ask, *calls), strict=True):
        ask.see("shapes of A, B", [shape(A), shape(B)], [[r, inside], [out, r]])
        off = gap(A.double() @ A.double().T, B.double().T @ B.double()) * scaling / sigma[0].item()
        ask.hold(off < 1e-11, f"max|A Aᵀ - Bᵀ B| · {scaling} / σ₁ = {off:.3g}", "< 1e-11")


def rank_factors_best_at_full_rank_and_above_are_the_update(ask: Asking) -> None:
    calls, wants = [], []
    for out, inside in sizes(ask):
        sigma = stairs(ask, min(out, inside))
        delta = drawn(ask, out, inside, sigma)[0]
        for r in (min(out, inside), max(out, inside) + ask.rng.randint(1, 3)):
            calls.append(ask.star(BEST)(delta, r))
            wants.append((delta, sigma[0].item(), [[r, inside], [out, r]]))
    for pair, (delta, large, shapes) in zip(_pairs(ask, *calls), wants, strict=True):
        ask.see("shapes of A, B", list(map(shape, pair)), shapes)
        ask.near("B A - delta", product(pair, delta.shape), delta, 1e-11 * large)


def rank_factors_best_of_an_update_with_fewer_directions(ask: Asking) -> None:
    updates = []
    for size in sizes(ask):
        large, small = ask.rng.uniform(2.5, 3), ask.rng.uniform(1.5, 2)
        updates += [drawn(ask, *size, (large, small))[0], torch.zeros(*size, dtype=torch.float64)]
    pairs = _pairs(ask, *(ask.star(BEST)(delta, 3) for delta in updates))
    for pair, delta in zip(pairs, updates, strict=True):
        finite = [bool(one.isfinite().all()) for one in pair]
        ask.see("A, B finite", finite, [True, True])
        ask.near("B A - delta", product(pair, delta.shape), delta, 3e-11)


def rank_factors_best_take_float32_parameters(ask: Asking) -> None:
    value = ask.randn(4, 5, dtype="float32")
    delta = ask.w.keep(ask.nn.Parameter(value))
    pair = ask.w.keep(ask.star(BEST)(delta, 4))
    *factors, one, other = ask.w.ask((pair[0], pair[1], *map(ask.kit.flag, (pair[0], pair[1]))))
    ask.near("B A - delta", product(factors, (4, 5)), value.double(), 1e-10)
    ask.see("requires_grad", [one, other], [False, False])
    ask.put(pair[0], torch.zeros(4, 5))
    ask.put(pair[1], torch.zeros(4, 4))
    ask.near("delta - what it was", ask.w.ask(delta), value, 0.0)


def rank_factors_best_refuse_a_rank_below_one_and_a_bad_scaling(ask: Asking) -> None:
    delta, best, things = torch.eye(3), ask.star(BEST), []
    for bad in (0, -ask.rng.randint(1, 5)):
        things.append((f"r={bad}", best(delta, bad), ("r", f"{bad}")))
    for scaling in (0.0, -ask.rng.choice((0.5, 1.5, 2.5)), math.inf, math.nan):
        call = best(delta, 1, scaling)
        things.append((f"scaling={scaling}", call, ("scaling", f"{scaling:g}")))
    refused(ask, things)


def rank_factors_best_refuse_what_is_no_finite_matrix(ask: Asking) -> None:
    calls = {kind: ask.star(BEST)(bad, 1) for kind, bad in no_matrix(ask).items()}
    refused(ask, [(kind, call, ("delta",)) for kind, call in calls.items()])


# --- B2: the error that is left -------------------------------------------------------------------


def rank_factors_error_of_a_worked_spectrum(ask: Asking) -> None:
    sigma = [float(ask.rng.randint(1, 9)) for _ in range(ask.rng.randint(3, 5))]
    ranks = [*range(len(sigma) + 1), len(sigma) + 5]
    got = ask.w.ask([ask.star(ERROR)(vector(*sigma), r) for r in ranks])
    tails = [sorted(sigma, reverse=True)[r:] for r in ranks]
    want = [math.sqrt(sum(x * x for x in tail)) for tail in tails]
    close(ask, f"of {sigma} at r = {ranks}", got, want, 1e-9)


def rank_factors_error_keeps_the_digits_of_a_small_tail(ask: Asking) -> None:
    small = ask.rng.uniform(0.5, 2) * 1e-9
    sigma = vector(1.0, ask.rng.uniform(0.5, 0.9), 4 * small, 3 * small)
    got = ask.w.ask([ask.star(ERROR)(sigma, 2)])
    close(ask, "of a tail of 1e-9", got, [5 * small], 1e-9)


def rank_factors_error_of_float32_values_is_float64(ask: Asking) -> None:
    # Several: one sum in float32 may be right by chance.
    tails = [torch.rand(count, generator=ask.torch_rng) / 2 + 0.5 for count in (50, 60, 70, 80)]
    first = torch.tensor([3.0])
    got = ask.w.ask([ask.star(ERROR)(torch.cat((first, tail)), 1) for tail in tails])
    want = [math.sqrt(math.fsum(x * x for x in tail.tolist())) for tail in tails]
    close(ask, "of 50 to 80 values in float32", got, want, 1e-9)


def rank_factors_error_refuses_a_rank_below_zero(ask: Asking) -> None:
    error, bad = ask.star(ERROR), -ask.rng.randint(1, 5)
    things = [(kind, error(one, 1), ("spectrum",)) for kind, one in no_spectrum(ask).items()]
    refused(ask, [*things, (f"r={bad}", error(vector(2, 1), bad), ("r", f"{bad}"))])
