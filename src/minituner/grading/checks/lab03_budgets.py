"""Lab 03, block D: the rank that a budget buys, on sets of targets, and the scale of the branch.

Leaves out: a model; LinearShape and Plan are the submission's own, as given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from minituner.grading.checks.asking import Asking, equal, plain, words
from minituner.grading.checks.lab03_asking import close, refused
from minituner.grading.expr import Expr
from minituner.grading.peer import Odd

RANK, PLAN, SCALE = "equal_budget_rank", "rank_plan", "scaling_factor"
FIELDS = ("rank", "linears", "parameters")
Shape = tuple[str, int, int]  # a linear's name, in, out


def _shapes(ask: Asking, shapes: Sequence[Shape]) -> Expr:
    """LinearShapes there."""
    return ask.w.keep([ask.star("LinearShape")(*shape) for shape in shapes])


# --- D1: the rank that a budget buys --------------------------------------------------------------


def rank_budget_rank_of_the_papers_eighteen_million(ask: Asking) -> None:
    """As on GPT-3: as many square projections of each kind as there are layers."""
    d, layers, r = 64 * ask.rng.randint(3, 192), ask.rng.randint(3, 8), ask.rng.randint(1, 4)
    budget = 4 * r * layers * 2 * d
    sets = [
        [(f"layers.{i}.{x}_proj", d, d) for i in range(layers) for x in letters]
        for letters in ("q", "qv", "qkvo")
    ]
    got = ask.w.ask([ask.star(RANK)(_shapes(ask, one), budget) for one in sets])
    what = f"{budget} parameters on q, qv, qkvo of {layers} layers, d = {d}: ranks"
    equal(ask, what, got, [4 * r, 2 * r, r])


def rank_budget_rank_rounds_down(ask: Asking) -> None:
    rng = ask.rng
    uneven = [(f"l{i}", rng.randint(2, 40), rng.randint(41, 90)) for i in range(3)]
    step, r = sum(shape[1] + shape[2] for shape in uneven), rng.randint(2, 9)
    shapes, small = _shapes(ask, uneven), _shapes(ask, [("one", 2, 3)])
    calls = [ask.star(RANK)(shapes, r * step + extra) for extra in (-1, 0, step - 1)]
    calls += [ask.star(RANK)(small, budget) for budget in (5, 5 * (r + 8))]
    got = ask.w.ask(calls)
    equal(ask, f"{uneven}: ranks around r = {r}, and beyond a matrix", got, [r - 1, r, r, 1, r + 8])
    ask.see("types", sorted({type(each).__name__ for each in got}), ["int"])


def rank_budget_rank_refuses_what_buys_nothing(ask: Asking) -> None:
    d_in, d_out = ask.rng.randint(3, 9), ask.rng.randint(3, 9)
    one, less, below = _shapes(ask, [("q_proj", d_in, d_out)]), d_in + d_out - 1, -d_in - d_out
    things = [
        (f"budget={less} of {less + 1}", ask.star(RANK)(one, less), ("budget", f"{less}")),
        (f"budget={below}", ask.star(RANK)(one, below), ("budget", f"{below}")),
        ("no shapes", ask.star(RANK)(_shapes(ask, []), 10), ("shapes",)),
    ]
    refused(ask, things)


# --- D2: the same budget on different targets -----------------------------------------------------


def _plans(
    ask: Asking, shapes: Sequence[Shape], sets: Mapping[str, Sequence[str]], budget: int
) -> list[Any]:
    """[label, rank, linears, parameters] of each Plan, in order."""
    plans = ask.w.keep(ask.star(PLAN)(_shapes(ask, shapes), dict(sets), budget))
    labels, rows = ask.w.ask((plans, ask.kit.fields(plans.values(), FIELDS)))
    ask.hold(isinstance(labels, dict), f"type(got) = {type(labels).__name__}", "dict")
    kinds = sorted({one.kind if isinstance(one, Odd) else "?" for one in labels.values()})
    ask.see("types of its values", kinds, ["Plan"])
    return [[label, *plain(row)] for label, row in zip(labels, rows, strict=True)]


def _bought(shapes: Sequence[Shape], matches: Sequence[str], budget: int) -> list[int]:
    """[rank, linears, parameters] on the linears with these names."""
    width = sum(shape[1] + shape[2] for shape in shapes if shape[0] in matches)
    return [budget // width, len(matches), budget // width * width]


def rank_budget_plan_for_the_minigpt(ask: Asking) -> None:
    d, ff, depth = 4 * ask.rng.randint(4, 20), ask.rng.randint(90, 300), ask.rng.randint(2, 5)
    attention, mlp = ("q_proj", "k_proj", "v_proj", "o_proj"), ("mlp.fc1", "mlp.fc2")
    square = [(f"blocks.{i}.attn.{x}", d, d) for i in range(depth) for x in attention]
    wide = [(f"blocks.{i}.mlp.fc1", d, ff) for i in range(depth)]
    back = [(f"blocks.{i}.mlp.fc2", ff, d) for i in range(depth)]
    shapes = [*square, *wide, *back]
    sets = {"qv": attention[::2], "mlp": mlp, "attention": attention, "all": (*attention, *mlp)}
    order = list(sets)
    ask.rng.shuffle(order)
    if order == sorted(order):
        order.reverse()
    budget = ask.rng.randint(8, 16) * sum(one + two for _, one, two in shapes) + 1
    names = {
        label: [name for name, *_ in shapes if name.endswith(tuple(sets[label]))] for label in order
    }
    got = _plans(ask, shapes, {label: sets[label] for label in order}, budget)
    want = [[label, *_bought(shapes, names[label], budget)] for label in order]
    equal(ask, f"d = {d}, d_ff = {ff}, {budget} parameters", got, want)


def rank_budget_plan_matches_at_a_dot(ask: Asking) -> None:
    q, a = words(ask, 2)
    names = [q, f"{a}.{q}", f"{a}.x{q}", f"x{q}", f"{q}.{a}", f"{q}ection", f"x{a}.{q}"]
    ask.rng.shuffle(names)
    shapes = [(name, 3, 4) for name in names]
    rows = _plans(ask, shapes, {"short": [q], "long": [f"{a}.{q}"]}, 70)
    got = [row[:1] + row[2:3] for row in rows]
    equal(ask, f"linears of {q}, {a}.{q} in {names}", got, [["short", 3], ["long", 1]])


def rank_budget_plan_pays_a_linear_once(ask: Asking) -> None:
    q, a, b = words(ask, 3)
    width = 2 * ask.rng.randint(3, 9)  # in + out of each
    shapes = [(f"{a}.{q}", 1, width - 1), (f"{b}.{q}", width - 2, 2)]
    r = ask.rng.randint(2, 5)
    sets = {"twice": (q, f"{a}.{q}"), "again": (f"{a}.{q}",)}
    got = _plans(ask, shapes, sets, 2 * r * width)
    want = [["twice", r, 2, 2 * r * width], ["again", 2 * r, 1, 2 * r * width]]
    equal(ask, "[label, rank, linears, parameters]", got, want)


def rank_budget_plan_refuses_a_target_that_matches_nothing(ask: Asking) -> None:
    q, w, a = words(ask, 3)
    shapes, less = _shapes(ask, [(f"{a}.{q}", 4, 6)]), ask.rng.randint(1, 9)
    things = [
        (f"target {w}", ask.star(PLAN)(shapes, {"alone": (w,)}, 40), (w,)),
        (f"targets {q}, {w}", ask.star(PLAN)(shapes, {"mixed": (q, w)}, 40), (w,)),
        (f"budget={less} of 10", ask.star(PLAN)(shapes, {"q": (q,)}, less), ("budget", f"{less}")),
    ]
    refused(ask, things)


# --- D3: the scale --------------------------------------------------------------------------------


def rank_budget_scale_by_both_rules(ask: Asking) -> None:
    r, scale = ask.rng.randint(2, 64), ask.star(SCALE)
    alpha = r * ask.rng.randint(1, 3) + ask.rng.randint(1, r - 1)  # no multiple of r, and not 1
    calls = [scale(alpha, r), scale(alpha, r, "alpha/r"), scale(float(alpha), r, "alpha/sqrt(r)")]
    calls += [scale(float(alpha), 1, rule) for rule in ("alpha/r", "alpha/sqrt(r)")]
    want = [alpha / r, alpha / r, alpha / math.sqrt(r), alpha, alpha]
    what = f"alpha = {alpha}, r = {r} by default, by each rule, and both at r = 1"
    close(ask, what, ask.w.ask(calls), want, 1e-12)


def rank_budget_scale_refuses_a_bad_rank_or_rule(ask: Asking) -> None:
    below, rule, scale = -ask.rng.randint(1, 9), f"alpha/{words(ask, 1)[0]}", ask.star(SCALE)
    things = [
        ("r=0", scale(16, 0), ("r", "0")),
        (f"r={below}", scale(16, below, "alpha/sqrt(r)"), ("r", f"{below}")),
        (f"rule={rule}", scale(16, 4, rule), ("rule", rule)),
    ]
    refused(ask, things)
