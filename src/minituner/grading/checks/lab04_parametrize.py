"""Lab 04, block B: a weight that is a function of its factors, by torch's own parametrize.

The oracle is base plus branch in float64; torch registers, and takes off, what the submission made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from minituner.grading.checks.asking import Asking, gap
from minituner.grading.checks.lab04_asking import KIT, Conv, bases, conv1d
from minituner.grading.checks.layers import size
from minituner.grading.expr import Expr, name

STAR, HOW = "LoRAParametrization", name("torch.nn.utils.parametrize")
SCALES = (0.75, 1.5, 2.75)


@dataclass(frozen=True)
class Registered:
    """A layer there whose weight is parametrized, and its values here."""

    base: Conv
    added: Expr
    A: Tensor
    B: Tensor
    scale: float

    def out(self, x: Tensor) -> Tensor:
        """x W + b + s x Aᵀ Bᵀ."""
        return self.base.out(x) + self.scale * (x @ self.A.T @ self.B.T)


def _registered(ask: Asking, base: Conv) -> Registered:
    """Registered by the judge, A and B filled with its values."""
    r, scale, (rows, columns) = ask.rng.choice((2, 3)), ask.rng.choice(SCALES), base.sizes
    added = ask.w.keep(ask.star(STAR)(base.it, r, r * scale))
    A, B = ask.randn(r, rows), ask.randn(columns, r)
    ask.w.do(ask.kit.fill(added, A, B))
    ask.w.do(HOW.register_parametrization(base.it, "weight", added))
    return Registered(base, added, A, B, scale)


# --- B1: the factors ------------------------------------------------------------------------------


def bridge_parametrize_factors_fit_the_layer(ask: Asking) -> None:
    for dtype in ("float64", "bfloat16"):
        r, scale, looks = ask.rng.choice((2, 3)), ask.rng.choice(SCALES), []
        layers = bases(ask, dtype)
        for base in layers:
            added = ask.w.keep(ask.star(STAR)(base.it, r=r, alpha=r * scale))
            looks.append((added.scaling, ask.kit.params(added)))
        for base, (scaling, rows) in zip(layers, ask.w.ask(looks), strict=True):
            d_in, d_out = base.sizes
            kind = f"torch.{dtype}"
            got = (scaling, sorted(row[:3] for row in rows))
            want = (scale, [["lora_A", [r, d_in], kind], ["lora_B", [d_out, r], kind]])
            ask.see(f"scaling and factors for a {base.kind} of {d_in} to {d_out}", got, want)


def bridge_parametrize_factors_begin_as_lab_00s(ask: Asking) -> None:
    layers, r = bases(ask), ask.rng.randint(6, 9)
    made = [ask.w.keep(ask.star(STAR)(base.it, r=r)) for base in layers]
    for base, (A, B) in zip(layers, ask.w.ask([(m.lora_A, m.lora_B) for m in made]), strict=True):
        d_in, d_out = base.sizes
        ask.near(f"B of a {base.kind}", B, torch.zeros(d_out, r, dtype=torch.float64), 0.0)
        most = A.abs().max().item() * math.sqrt(d_in)
        told = f"max|A| of a {base.kind} = {most:.3f} / sqrt(in)"
        ask.hold(tuple(A.shape) == (r, d_in) and 0.0 < most <= 1.01, told, "above 0, at most 1")


def bridge_parametrize_factors_train_alone(ask: Asking) -> None:
    layers, looks = bases(ask), []
    for base in layers:
        added = ask.w.keep(ask.star(STAR)(base.it, r=3))
        ask.w.do(HOW.register_parametrization(base.it, "weight", added))
        original = base.it.parametrizations.weight.original
        sums = [ask.torch.sum(each).requires_grad for each in (original, base.it.bias)]
        looks.append((ask.kit.params(base.it), sums))
    want = [f"parametrizations.weight.0.lora_{part}" for part in "AB"]
    for base, (rows, sums) in zip(layers, ask.w.ask(looks), strict=True):
        got = (sorted(row[0] for row in rows if row[4]), sums)
        ask.see(f"(what trains in a {base.kind}, sums of W, b)", got, (want, [False, False]))


def bridge_parametrize_factors_refuse_a_rank_below_one(ask: Asking) -> None:
    d_in, d_out = ask.rng.randint(3, 6), ask.rng.randint(3, 6)
    layer = ask.w.keep(ask.nn.Linear(d_in, d_out))
    bad = (0, -ask.rng.randint(1, 9))
    said = ask.w.refusals([ask.star(STAR)(layer, r=r) for r in bad], "ValueError")
    rows = ask.w.ask(ask.kit.params(layer))
    got = ([one is not None for one in said], sum(size(row) for row in rows if row[4]))
    ask.see(f"(refused r of {bad}, trainable)", got, ([True, True], d_out * (d_in + 1)))


# --- B2: the weight -------------------------------------------------------------------------------


def bridge_parametrize_weight_is_the_wrappers_function(ask: Asking) -> None:
    for base in (*bases(ask), conv1d(ask, (6, 6))):  # a square one hides a transpose
        layer = _registered(ask, base)
        rows, columns = base.sizes
        x, G = ask.randn(4, rows), ask.randn(4, columns)
        out, still = ask.w.keep(base.it(x)), ask.w.keep(base.it.eval()(x))
        ask.w.do(ask.kit.backward(out, G))
        slopes = (ask.kit.slope(layer.added.lora_A), ask.kit.slope(layer.added.lora_B))
        y, again, dA, dB = ask.w.ask((out, still, *slopes))
        what = f"of a {base.kind} of {rows} to {columns}"
        for got in (y, again):
            ask.near(f"output {what}, off", got, layer.out(x), 1e-12)
        ask.near(f"dA {what}, off", dA, layer.scale * (G @ layer.B).T @ x, 1e-11)
        ask.near(f"dB {what}, off", dB, layer.scale * G.T @ (x @ layer.A.T), 1e-11)


def bridge_parametrize_weight_is_the_old_one_at_first(ask: Asking) -> None:
    layers = bases(ask)
    for base in layers:
        added = ask.star(STAR)(base.it)
        ask.w.do(HOW.register_parametrization(base.it, "weight", added))
    for base, weight in zip(layers, ask.w.ask([base.it.weight for base in layers]), strict=True):
        want = base.weight.T if base.kind == "Linear" else base.weight
        ask.near(f"change of the weight of a {base.kind}", weight, want, 0.0)


def bridge_parametrize_weight_folds_into_a_plain_layer(ask: Asking) -> None:
    for base in bases(ask):
        x, kind = ask.randn(4, base.sizes[0]), ask.w.keep(KIT.kind_of(base.it))
        _registered(ask, base)
        was = ask.w.keep(ask.kit.run(base.it, x, False))
        ask.w.do(HOW.remove_parametrizations(base.it, "weight", leave_parametrized=True))
        same = ask.kit.same(KIT.kind_of(base.it), kind)
        told = (same, base.it.state_dict(), was, ask.kit.run(base.it, x, False))
        alike, state, before, after = ask.w.ask(told)
        got = (alike, sorted(map(str, state)), gap(after, before) <= 1e-12)
        what = f"(class as before, state, same output) of a {base.kind}"
        ask.see(what, got, (True, ["bias", "weight"], True))
