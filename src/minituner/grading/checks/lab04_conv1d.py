"""Lab 04, tasks A1 to A3: a LoRAConv1D's fields, its forward, and merge_.

Leaves out: which modules become one (lab04_wrap.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from minituner.grading.checks.asking import Asking, gap, words
from minituner.grading.checks.lab04_asking import (
    REFUSED,
    Conv,
    conv1d,
    wrong,
)
from minituner.grading.checks.layers import learns
from minituner.grading.expr import Expr

SCALES = (0.75, 1.5, 2.75)


def _new(ask: Asking, base: Expr, **options: object) -> Expr:
    return ask.w.keep(ask.star("LoRAConv1D")(base, **options))


# --- A1: the layer --------------------------------------------------------------------------------


def bridge_conv1d_layer_has_what_an_adapter_has(ask: Asking) -> None:
    for dtype in ("float64", "bfloat16"):
        base, r, scale = conv1d(ask, None, dtype), ask.rng.randint(2, 4), ask.rng.choice(SCALES)
        it, (rows, columns) = _new(ask, base.it, r=r, alpha=r * scale), base.sizes
        fields = (it.r, it.alpha, it.scaling, ask.kit.same(it.base, base.it))
        own_r, alpha, scaling, same, A, B = ask.w.ask((*fields, it.lora_A, it.lora_B))
        ask.see("tensors", [isinstance(A, Tensor), isinstance(B, Tensor)], [True, True])
        got, want = (tuple(A.shape), tuple(B.shape)), ((r, rows), (columns, r))
        ask.see(f"shapes of A and B of {rows} -> {columns} features", got, want)
        facts = {
            "base is kept": same is True,
            "r and alpha are kept": (own_r, alpha) == (r, r * scale),
            "scaling is alpha / r": scaling == scale,
            "scaling is a float": type(scaling) is float,
            "A and B have the base's dtype": str(A.dtype) == str(B.dtype) == f"torch.{dtype}",
            "B is zero": not B.any(),
            "A is not zero": bool(A.any()),
            "|A| <= 1/sqrt(in)": A.abs().max().item() <= 1.01 / math.sqrt(rows),
        }
        wrong(ask, "what is not so", facts, 1)


def bridge_conv1d_layer_trains_two_matrices_and_saves_four_tensors(ask: Asking) -> None:
    base = conv1d(ask).it
    it = _new(ask, base, r=2)
    fixed = learns(ask, base.weight, base.bias, it.lora_A, it.lora_B)
    rows, state = ask.w.ask((ask.kit.params(it), it.state_dict()))
    got = (sorted(row[0] for row in rows if row[4]), sorted(map(str, state)))
    want = (["lora_A", "lora_B"], ["base.bias", "base.weight", "lora_A", "lora_B"])
    ask.see("(trains, state)", got, want)
    ask.see("sums of W, b, A, B train", fixed, [False, False, True, True])


def bridge_conv1d_layer_follows_the_bases_mode(ask: Asking) -> None:
    looks = []
    for mode in (True, False):
        base = conv1d(ask).it
        ask.w.do(base.train(mode))
        looks.append(ask.kit.modules(_new(ask, base, dropout=0.5)))
    got = [{row[2] for row in rows} for rows in ask.w.ask(looks)]
    ask.see("training flags around a base in train mode, in eval mode", got, [{True}, {False}])


def bridge_conv1d_layer_knows_its_base_by_what_it_is(ask: Asking) -> None:
    theirs, own = conv1d(ask, foreign=True).it, words(ask, 1)[0].capitalize()
    derived = ask.kit.subclass(ask.given("gpt2.Conv1D"), own)(7, 5)
    said = ask.w.refusals([ask.star("LoRAConv1D")(b, r=2) for b in (theirs, derived)], *REFUSED)
    ask.see("refusals of another package's Conv1D, of a class made of ours", said, [None, None])


def bridge_conv1d_layer_refuses_what_is_none(ask: Asking) -> None:
    n, star, base = ask.rng.randint(3, 6), ask.star("LoRAConv1D"), conv1d(ask).it
    others = (ask.nn.Linear(n, n), ask.nn.Embedding(n, n), ask.nn.Conv1d(n, n, 1))
    said = ask.w.refusals([star(other) for other in others], "TypeError")
    bad: list[dict[str, object]] = [{"r": 0}, {"r": -ask.rng.randint(1, 9)}]
    bad += [{"dropout": p} for p in (1.0, -ask.rng.uniform(0.1, 0.9), math.nan)]
    said += ask.w.refusals([star(base, **options) for options in bad], "ValueError")
    ask.hold(None not in said, f"refusals = {said}", "eight messages")


# --- A2: forward ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """A LoRAConv1D there, and its values here."""

    it: Expr
    base: Conv
    A: Tensor  # (r, in)
    B: Tensor  # (out, r)
    scale: float

    @property
    def dense(self) -> Tensor:
        """W + s (B A)ᵀ in float64."""
        return self.base.weight.double() + self.scale * (self.B.double() @ self.A.double()).T

    def out(self, x: Tensor) -> Tensor:
        return x @ self.dense + self.base.bias.double()


def _trained(ask: Asking, sizes: tuple[int, int] | None = None, dtype: str = "float64") -> Layer:
    """A layer whose A and B hold values of the judge's."""
    base, r, scale = conv1d(ask, sizes, dtype), ask.rng.choice((2, 3)), ask.rng.choice(SCALES)
    it = _new(ask, base.it, r=r, alpha=r * scale)
    A, B = ask.randn(r, base.sizes[0], dtype=dtype), ask.randn(base.sizes[1], r, dtype=dtype)
    ask.w.do(ask.kit.fill(it, A, B))
    return Layer(it, base, A, B, scale)


def bridge_conv1d_forward_is_the_closed_form(ask: Asking) -> None:
    layer, first = _trained(ask), ask.rng.randint(2, 4)
    given = [ask.randn(*lead, layer.base.sizes[0]) for lead in ((), (first,), (2, first))]
    for x, y in zip(given, ask.w.ask([layer.it(x) for x in given]), strict=True):
        ask.near(f"y - (x W + b + (alpha/r) x A^T B^T), x {tuple(x.shape)}", y, layer.out(x), 1e-12)


def bridge_conv1d_forward_is_the_base_at_first(ask: Asking) -> None:
    base = conv1d(ask)
    it, x = _new(ask, base.it, r=3, dropout=0.5), ask.randn(4, base.sizes[0])
    want, got = ask.w.ask((base.it(x), it.train()(x)))
    ask.near("base(x) - (x W + b)", want, base.out(x), 1e-12)
    ask.near("y - base(x)", got, want, 0.0)


def bridge_conv1d_forward_has_the_closed_gradients(ask: Asking) -> None:
    layer = _trained(ask)
    rows, columns = layer.base.sizes
    x, G = ask.randn(4, rows), ask.randn(4, columns)
    ask.w.do(ask.kit.backward(layer.it(x), G))
    slopes = [layer.it.lora_A, layer.it.lora_B, layer.base.it.weight, layer.base.it.bias]
    a, b, *base = ask.w.ask([ask.kit.slope(param) for param in slopes])
    ask.see("gradients of the base", base, [None, None])
    ask.near("dA - s (G B)^T x", a, layer.scale * (G @ layer.B).T @ x, 1e-11)
    ask.near("dB - s G^T (x A^T)", b, layer.scale * G.T @ (x @ layer.A.T), 1e-11)


def bridge_conv1d_forward_drops_the_branchs_input_alone(ask: Asking) -> None:
    p, r, base = ask.rng.choice((0.2, 0.25, 0.5)), ask.rng.choice((2, 3)), conv1d(ask, (1, 2))
    it, x = _new(ask, base.it, r=r, alpha=float(r), dropout=p), torch.ones(200, 1).double()
    A, B = torch.ones(r, 1, dtype=torch.float64), torch.ones(2, r, dtype=torch.float64) / r
    ask.w.do(ask.kit.fill(it, A, B))
    outs = ask.w.ask((it.train()(x), it.eval()(x)))
    facts = [gap(out, base.out(x)) < math.inf for out in outs]
    ask.see("outputs of the right shape", facts, [True, True])
    found = [
        sorted({tuple(round(v, 9) + 0.0 for v in row) for row in (out - base.out(x)).tolist()})
        for out in outs
    ]
    full = round(1 / (1 - p), 9)
    want = [[(0.0, 0.0), (full, full)], [(1.0, 1.0)]]
    ask.see("rows the branch gives for a 1 in train mode, in eval mode", found, want)


# --- A3: fold -------------------------------------------------------------------------------------


def bridge_conv1d_folds_the_closed_form(ask: Asking) -> None:
    for sizes in (None, (6, 6)):
        layer = _trained(ask, sizes)
        ask.w.do(layer.it.merge_())
        weight, A, B = ask.w.ask((layer.it.base.weight, layer.it.lora_A, layer.it.lora_B))
        at = "x".join(map(str, layer.base.sizes))
        ask.near(f"W - (W0 + (alpha/r) (B A)^T) at {at}", weight, layer.dense, 1e-12)
        zero = gap(A, torch.zeros_like(layer.A)), gap(B, torch.zeros_like(layer.B))
        ask.see("max|A|, max|B|", zero, (0.0, 0.0), 1)


def bridge_conv1d_folds_once(ask: Asking) -> None:
    layer = _trained(ask)
    ask.w.do(layer.it.merge_())
    once = ask.w.keep(ask.torch.clone(layer.it.base.weight))
    ask.w.do(layer.it.merge_())
    weight, first = ask.w.ask((layer.it.base.weight, once))
    ask.near("change by the second merge_", weight, first.detach(), 0.0)


def bridge_conv1d_folds_with_one_rounding(ask: Asking) -> None:
    layer = _trained(ask, (ask.rng.randint(40, 60), ask.rng.randint(40, 60)), "bfloat16")
    ask.w.do(layer.it.merge_())
    weight = ask.w.tensor(layer.it.base.weight)
    ask.see("dtype", str(weight.dtype), "torch.bfloat16")
    ask.hold(gap(weight, layer.dense) < math.inf, f"{tuple(weight.shape)}", f"{layer.base.sizes}")
    off = (weight != layer.dense.to(torch.bfloat16)).double().mean().item()
    ask.hold(off <= 0.01, f"share of entries that are not the rounded sum = {off:.3f}", "<= 0.01")


def bridge_conv1d_folds_into_a_frozen_leaf(ask: Asking) -> None:
    layer = _trained(ask)
    ask.w.do(layer.it.merge_())
    weight = layer.it.base.weight
    flags = (ask.kit.flag(weight), ask.torch.sum(weight).requires_grad, ask.kit.is_leaf(weight))
    told, rows, bias = ask.w.ask((flags, ask.kit.params(layer.it), layer.it.base.bias))
    one = [row[5] for row in rows if row[0] == "base.weight"]
    got = (one, *told)
    ask.see("weight is a (Parameter, trains, its sum, leaf)", got, ([True], False, False, True))
    ask.near("change of the bias", bias, layer.base.bias, 0.0)
