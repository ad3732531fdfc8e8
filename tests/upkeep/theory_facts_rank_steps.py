"""The facts of theory/06-low-rank about a first step: closed forms, held to one step of torch.

Source: theory_facts_rank.py, which has the rest of the page. Leaves out: every step after the
first.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from theory_numbers import Fact, fact
from torch import Tensor, nn

R, WIDE = 8, 4096


def first_step(kind: type[torch.optim.Optimizer], r: int, scale: float, zero: str = "B") -> float:
    """How far one step moves the output against g, the mean of many adapters; 64 × 64, rate 1."""
    torch.manual_seed(0)
    count, side = 400, 64
    x, g = torch.randn(count, side, 1), torch.randn(count, side, 1)

    def drawn(*shape: int) -> Tensor:
        return (torch.rand(count, *shape) * 2 - 1) / math.sqrt(shape[-1])

    A = nn.Parameter(drawn(r, side) if zero == "B" else torch.zeros(count, r, side))
    B = nn.Parameter(drawn(side, r) if zero == "A" else torch.zeros(count, side, r))
    torch.autograd.backward((g * (scale * B @ (A @ x))).sum())
    kind([A, B], lr=1.0).step()  # type: ignore[call-arg]  # every optimiser here takes lr
    along = g.sign() if kind is torch.optim.Adam else g
    moved = (along * (scale * B @ (A @ x))).sum((1, 2)) / (along * g).sum((1, 2))
    return -moved.mean().item()


def scales() -> list[Fact]:
    """What the first step does to the output as r grows 16-fold, by both rules."""
    small, large, alpha = 4, 64, 16.0
    rules: dict[str, Callable[[int], float]] = {
        "α/r": lambda r: alpha / r,
        "α/√r": lambda r: alpha / math.sqrt(r),
    }
    power = {torch.optim.SGD: 2, torch.optim.Adam: 1}  # of s in the step
    closed = {
        (kind, name): (rule(large) / rule(small)) ** power[kind] * large / small
        for kind in power
        for name, rule in rules.items()
    }
    for (kind, name), want in closed.items():
        got = [first_step(kind, r, rules[name](r)) for r in (large, small)]
        assert abs(got[0] / got[1] / want - 1) < 0.15, f"{kind}, {name}: {got}, not {want}"
    sgd, adam = ([closed[kind, name] for name in rules] for kind in power)
    return [
        fact("r = 4", small),
        fact("r = 64", large),
        fact("B = 0", 0),
        fact("| SGD | 0.0625 | 1 |", *sgd),
        fact("| Adam | 1 | 4 |", *adam),
        fact("1/√r", 1),
    ]


def zeros() -> list[Fact]:
    """How much further the output moves in the first step with A = 0 than with B = 0."""
    side, variance = 64, 1 / 3  # of U(-1, 1), so a fan-in n gives 1 / (3 n) an entry
    steps = {zero: first_step(torch.optim.SGD, R, 1.0, zero) for zero in "AB"}
    want = {"A": side * variance, "B": R * variance}
    assert all(abs(steps[zero] / want[zero] - 1) < 0.15 for zero in "AB"), f"{steps}, {want}"
    return [
        fact("A = 0", 0),
        fact("a=√5", 5),
        fact("‖A x‖² ≈ r / 3", 1 / variance),
        fact("B Bᵀ ≈ I / 3", 1 / variance),
        fact("64 / 8 = 8", side, R, want["A"] / want["B"]),
        fact("4096 / 8 = 512", WIDE, R, WIDE / R),
        fact("4096", WIDE),
    ]
