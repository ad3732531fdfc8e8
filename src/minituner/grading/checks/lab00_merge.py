"""Lab 00, block D: merge_ against W + (α/r) B A, once, twice, and in half precision.

Leaves out: unwrapping, which is lab 04's.
"""

from __future__ import annotations

import torch

from minituner.grading.checks import layers, models
from minituner.grading.checks.asking import Asking, gap


def lora_merge_the_worked_example(ask: Asking) -> None:
    layer = layers.worked(ask)
    ask.w.do(layer.it.merge_())
    ask.near("W_new - worked by hand", ask.w.ask(layer.it.base.weight), layer.dense, 0.0)


def lora_merge_weight_is_the_closed_form(ask: Asking) -> None:
    pair = [layers.trained(ask, bias=bias) for bias in (True, False)]
    for layer in pair:
        ask.w.do(layer.it.merge_())
    found = ask.w.ask([(layer.it.base.weight, layer.it.base.bias) for layer in pair])
    for layer, (weight, bias) in zip(pair, found, strict=True):
        ask.near("W_new - (W + s B A)", weight, layer.dense, 1e-11)
        if layer.base.bias is not None:
            ask.near("b_new - b", bias, layer.base.bias, 0.0, 1)


def lora_merge_zeroes_A_and_B(ask: Asking) -> None:
    layer = layers.worked(ask)
    ask.w.do(layer.it.merge_())
    told, A, B = ask.w.ask((ask.kit.params(layer.it), layer.it.lora_A, layer.it.lora_B))
    rows = {row[0]: row for row in told}
    got = [(rows[n][5], rows[n][1]) if n in rows else None for n in models.FACTORS]
    ask.see("(Parameter, shape) of A, B", got, [(True, [2, 4]), (True, [3, 2])])
    ask.near("A", A, torch.zeros(2, 4), 0.0)
    ask.near("B", B, torch.zeros(3, 2), 0.0)


def lora_merge_keeps_base_a_frozen_leaf(ask: Asking) -> None:
    layer = layers.worked(ask)
    x, G = ask.randn(2, 4, dtype="float32"), ask.randn(2, 3, dtype="float32")
    ask.w.do(ask.kit.backward(layer.it(x), G))
    ask.w.do(layer.it.merge_())
    there = layer.it.base.weight
    learns = ask.torch.sum(there).requires_grad
    told, leaf, learnt = ask.w.ask((ask.kit.params(layer.it), ask.kit.is_leaf(there), learns))
    rows = {row[0]: row for row in told}
    weight = rows.get("base.weight", [None] * 7)
    got = (weight[5], weight[4], leaf, weight[2], weight[3])
    want = (True, False, True, "torch.float32", "cpu")
    ask.see("(Parameter, requires_grad, is_leaf, dtype, device)", got, want)
    ask.see("sum(W) requires grad", learnt, False)
    names = ["base.bias", "base.weight", "lora_A", "lora_B"]
    ask.see("parameters", sorted(rows), names, 1)


def lora_merge_in_half_precision_rounds_once(ask: Asking) -> None:
    drawn, r = ask.rng.choice(layers.SCALES), 3
    cases = [("bfloat16", 120, 127, drawn), ("float16", 1000, 600, drawn)]
    cases.append(("bfloat16", 120, 127, 1 + 2**-10))  # a scale that bfloat16 cannot hold
    merged, wants = [], []
    for dtype, large, factor, scale in cases:
        kind = getattr(ask.torch, dtype)
        base = ask.w.keep(ask.nn.Linear(10, 9, dtype=kind))
        layer = layers.new(ask, base, r=r, alpha=r * scale)
        # Integers whose products are exact in float32: then only the roundings can differ.
        W, A, B = ask.whole(large, 9, 10), ask.whole(8, r, 10), ask.whole(factor, 9, r)
        for target, value in ((base.weight, W), (layer.lora_A, A), (layer.lora_B, B)):
            ask.put(target, value)
        wants.append((W.float() + scale * (B.float() @ A.float())).to(getattr(torch, dtype)))
        ask.w.do(layer.merge_())
        merged.append(layer.base.weight)
    for got, want in zip(ask.w.ask(merged), wants, strict=True):
        same = int((got == want).sum()) if got.shape == want.shape else 0
        ask.hold(
            got.dtype == want.dtype and same == want.numel(),
            f"weights right = {same} / {want.numel()}, {got.dtype}",
            f"{want.numel()} / {want.numel()}, {want.dtype}",
        )


def lora_merge_works_on_a_base_that_trains(ask: Asking) -> None:
    base, scale = ask.linear(), ask.rng.choice(layers.SCALES)
    it = layers.new(ask, base.it, r=3, alpha=3 * scale, freeze_base=False)
    A, B = ask.randn(3, base.sizes[1]), ask.randn(base.sizes[0], 3)
    ask.w.do(ask.kit.fill(it, A, B))
    ask.w.do(it.merge_())
    want = layers.Layer(it, base, A, B, 3, 3 * scale, scale).dense
    ask.near("W_new - (W + s B A)", ask.w.ask(it.base.weight), want, 1e-11)


def lora_merge_keeps_the_output_in_float64(ask: Asking) -> None:
    for mode in (True, False):
        layer = layers.trained(ask, dropout=0.5)
        x = ask.randn(5, layer.base.sizes[1])
        want = ask.w.tensor(layer.it.eval()(x))
        ask.hold(gap(want, layer.base.out(x)) > 1e-6, "the update changes nothing", "> 0")
        ask.w.do(layer.it.train(mode))
        ask.w.do(layer.it.merge_())
        it = layer.it
        kept, *outs = ask.w.ask((it.training, it(x), it.eval()(x), it.train()(x)))
        ask.see("mode kept", kept, mode)
        for out in outs:
            ask.near(f"merged(x) - layer(x) (training={mode})", out, want, 1e-12)


def lora_merge_keeps_the_output_in_float32_to_1e_5(ask: Asking) -> None:
    base = ask.linear((64, 64), dtype="float32")
    it = layers.new(ask, base.it, r=8, alpha=16.0)
    B = ask.randn(64, 8, dtype="float32") * 0.02
    ask.put(it.lora_B, B)
    x = ask.randn(32, 64, dtype="float32")
    before = ask.w.tensor(it(x))
    ask.w.do(it.merge_())
    ask.near("merged(x) - layer(x)", ask.w.ask(it(x)), before, 1e-5)


def lora_merge_of_every_adapter_keeps_the_model(ask: Asking) -> None:
    model = models.gpt(ask)
    models.adapt(model, dropout=0.5)
    ids = model.input()
    want = ask.w.tensor(model.it.eval()(ids))
    layers_there = [model.it.get_submodule(name) for name in model.factors]
    for layer in layers_there:
        ask.w.do(layer.merge_())
    got, left = ask.w.ask((model.it.train()(ids), [(m.lora_A, m.lora_B) for m in layers_there]))
    ask.near("merged(x) - model(x)", got, want, 1e-11)
    largest = max(value.abs().max().item() for pair in left for value in pair)
    ask.see("max|A, B|", largest, 0.0)


def lora_merge_twice_changes_nothing_more(ask: Asking) -> None:
    layer = layers.worked(ask)
    x = ask.whole(4, 2, 4, dtype="float32")
    ask.w.do(layer.it.merge_())
    once, out = ask.w.ask((layer.it.base.weight, layer.it(x)))
    for _ in range(2):
        ask.w.do(layer.it.merge_())
        again, still = ask.w.ask((layer.it.base.weight, layer.it(x)))
        ask.near("W after another merge_ - after one", again, once, 0.0)
        ask.near("output after another merge_ - after one", still, out, 0.0)


def lora_merge_allows_new_values_in_A_and_B(ask: Asking) -> None:
    layer = layers.worked(ask)
    ask.w.do(layer.it.merge_())
    ask.put(layer.it.lora_A, ask.randn(2, 4))
    ask.put(layer.it.lora_B, ask.randn(3, 2))
    first = ask.w.keep(layer.it(ask.randn(2, 4, dtype="float32")))
    ask.w.do(layer.it.merge_())
    second = layer.it(ask.randn(2, 4, dtype="float32"))
    fields = (layer.it.r, layer.it.alpha, layer.it.scaling)
    out, again, *seen = ask.w.ask((first, second, *fields))
    sound = [gap(y, torch.zeros(2, 3)) < float("inf") for y in (out, again)]
    got = (*sound, *seen)
    ask.see("(finite (2, 3), again, r, alpha, scaling)", got, (True, True, 2, 3.0, 1.5))
