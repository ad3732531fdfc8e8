"""Lab 00, tasks A5 and A6: the forward pass against float64, and what one step moves.

Leaves out: the layer's fields, wrapping, state and merge (the files beside this one).
"""

from __future__ import annotations

import torch

from minituner.grading.checks import layers
from minituner.grading.checks.asking import Asking, gap
from minituner.grading.expr import Expr

ADAPTER = {"lora_A", "lora_B"}


def lora_init_identity_output_is_base_to_the_bit(ask: Asking) -> None:
    calls, wants = [], []
    for p in (0.0, 0.5):
        base = ask.linear(dtype="float32", whole=True)
        layer = layers.new(ask, base.it, r=3, alpha=7.5, dropout=p)
        for mode in (True, False):
            x = ask.whole(8, 4, base.sizes[1], dtype="float32")
            calls.append(layer.train(mode)(x))
            what = f"layer(x) - base(x) (dropout={p}, training={mode})"
            wants.append((what, base.out(x)))
    for (what, want), got in zip(wants, ask.w.ask(calls), strict=True):
        ask.near(what, got, want, 0.0)


def lora_init_identity_then_the_worked_example(ask: Asking) -> None:
    layer = layers.worked(ask)
    x = ask.whole(4, 4, dtype="float32")
    x[0] = 1
    ask.near("layer(x) - worked by hand", ask.w.ask(layer.it(x)), layer.out(x), 0.0)


def lora_init_identity_then_the_scale_is_alpha_over_r(ask: Asking) -> None:
    layer = layers.trained(ask)
    x = ask.randn(5, layer.base.sizes[1])
    bare = x @ layer.A.T @ layer.B.T
    branch = ask.w.tensor(layer.it(x)) - layer.base.out(x)
    got = (branch * bare).sum().item() / bare.square().sum().item()
    rest = gap(branch, got * bare)
    ask.hold(rest < 1e-9, f"the branch beside a multiple of B A x = {rest:.3g}", "< 1e-9")
    ask.hold(
        abs(got - layer.scale) < 1e-9,
        f"factor on B A x = {got:.6g} (r={layer.r}, alpha={layer.alpha})",
        f"alpha / r = {layer.scale}",
        1,
    )


def lora_init_identity_then_the_closed_form(ask: Asking) -> None:
    calls, wants = [], []
    for bias, graph in ((True, True), (True, False), (False, True)):
        layer = layers.trained(ask, bias=bias)
        x = ask.randn(5, layer.base.sizes[1])
        calls.append(ask.kit.run(layer.it, x, graph))
        what = f"layer(x) - closed form (bias={bias}, grad={graph})"
        wants.append((what, layer.out(x)))
    for (what, want), got in zip(wants, ask.w.ask(calls), strict=True):
        ask.near(what, got, want, 1e-11)
        ask.see("dtype", str(got.dtype), "torch.float64")


def lora_init_identity_then_any_batch_shape(ask: Asking) -> None:
    layer = layers.trained(ask)
    leads = ((), (3,), (2, 3), (2, 1, 3), (0,), (2, 0))
    xs = [ask.randn(*lead, layer.base.sizes[1]) for lead in leads]
    calls = [layer.it(ask.kit.strided(x) if x.dim() == 3 else x) for x in xs]
    for x, got in zip(xs, ask.w.ask(calls), strict=True):
        ask.near(f"layer(x) - closed form, x {tuple(x.shape)}", got, layer.out(x), 1e-11)


def lora_init_identity_then_gradients_are_the_closed_form(ask: Asking) -> None:
    for mode in (True, False):
        layer = layers.trained(ask)
        d_out, d_in = layer.base.sizes
        x, G = ask.randn(5, d_in), ask.randn(5, d_out)
        leaf = ask.w.keep(ask.kit.leaf(x))
        ask.w.do(ask.kit.backward(layer.it.train(mode)(leaf), G))
        s, A, B = layer.scale, layer.A, layer.B
        want = {"A": s * B.T @ G.T @ x, "B": s * G.T @ x @ A.T, "x": G @ layer.dense}
        tensors = (layer.it.lora_A, layer.it.lora_B, leaf)
        grads = ask.w.ask([ask.kit.slope(tensor) for tensor in tensors])
        for (which, expected), got in zip(want.items(), grads, strict=True):
            ask.near(f"d{which} - closed form (training={mode})", got, expected, 1e-11)


def lora_init_identity_then_the_dtype_of_base(ask: Asking) -> None:
    for dtype in ("float32", "bfloat16"):
        layer = layers.trained(ask, dtype=dtype)
        x = ask.whole(4, 3, layer.base.sizes[1], dtype=dtype)
        out = ask.w.keep(layer.it(x))
        ask.w.do(ask.torch.autograd.backward(out.sum()))
        got, slope = ask.w.ask((out, layer.it.lora_B.grad))
        ask.see("dtype", _dtype(got), f"torch.{dtype}")
        ask.see("dtype of dB", _dtype(slope), f"torch.{dtype}")
        want = layer.out(x)
        most = 1e-4 if dtype == "float32" else 0.05  # eight bits a product, some 20 of them
        ask.near(
            f"layer(x) - closed form ({dtype})", got, want, most * (1 + want.abs().max()).item()
        )


def _dtype(value: object) -> str:
    return str(value.dtype) if isinstance(value, torch.Tensor) else type(value).__name__


def lora_init_identity_gradient_reaches_B_first(ask: Asking) -> None:
    base = ask.linear(dtype="float32")
    layer = layers.new(ask, base.it, r=3)
    x, G = (
        ask.randn(6, base.sizes[1], dtype="float32"),
        ask.randn(6, base.sizes[0], dtype="float32"),
    )
    ask.w.do(ask.kit.backward(layer(x), G))
    a, b = ask.w.ask((ask.kit.slope(layer.lora_A), ask.kit.slope(layer.lora_B)))
    sizes = [g.abs().max().item() if isinstance(g, torch.Tensor) else None for g in (a, b)]
    ask.hold(
        sizes[0] == 0.0 and sizes[1] is not None and sizes[1] > 0.0,
        f"max|dA|, max|dB| = {sizes}",
        "0.0, > 0",
    )


def lora_init_identity_forward_changes_nothing(ask: Asking) -> None:
    layer = layers.worked(ask)
    x = ask.randn(3, 4, dtype="float32")
    there = ask.w.keep(ask.torch.clone(x))
    flags = ask.w.ask(ask.kit.params(layer.it))
    it = layer.it
    look = (layer.it(there), there, it.base.weight, it.base.bias, it.lora_A, it.lora_B)
    _, *now = ask.w.ask(look)
    assert layer.base.bias is not None
    sent = (x, layer.base.weight, layer.base.bias, layer.A, layer.B)
    for name, got, want in zip(("x", "W", "b", "A", "B"), now, sent, strict=True):
        ask.near(f"{name} changed", got, want, 0.0)
    ask.see("parameters", ask.w.ask(ask.kit.params(layer.it)), flags)


# --- A6: only A and B train -----------------------------------------------------------------------


def lora_freeze_only_A_and_B_require_grad(ask: Asking) -> None:
    made = []
    for bias, found in ((True, True), (False, True), (True, False)):
        base = ask.linear(bias=bias)
        ask.w.do(base.it.requires_grad_(found))
        made.append(layers.new(ask, base.it))
    for trains in layers.all_trainable(ask, made):
        ask.see("requires_grad", trains, ADAPTER)


def lora_freeze_base_False_leaves_flags_as_found(ask: Asking) -> None:
    cases, flags = ((True, True), (True, False), (False, True)), []
    for weight, bias in cases:
        base = ask.linear().it
        ask.w.do(base.weight.requires_grad_(weight))
        ask.w.do(base.bias.requires_grad_(bias))
        layers.new(ask, base, freeze_base=False)
        flags.append((ask.kit.flag(base.weight), ask.kit.flag(base.bias)))
    for got, want in zip(ask.w.ask(flags), cases, strict=True):
        ask.see("(weight, bias).requires_grad", got, want)


def lora_freeze_base_False_lets_base_learn(ask: Asking) -> None:
    base = ask.linear()
    d_out, d_in = base.sizes
    layer = layers.new(ask, base.it, r=2, freeze_base=False)
    ask.w.do(ask.kit.fill(layer, ask.randn(2, d_in), ask.randn(d_out, 2)))
    params = [layer.base.weight, layer.base.bias, layer.lora_A, layer.lora_B]
    before = ask.w.ask(params)
    ask.w.do(ask.kit.backward(layer(ask.randn(3, d_in)), ask.randn(3, d_out)))
    ask.w.do(ask.kit.sgd(layer, 0.1))
    moved = [gap(now, was) > 0 for now, was in zip(ask.w.ask(params), before, strict=True)]
    ask.see("moved by one step: (W, b, A, B)", moved, [True] * 4)


def lora_freeze_base_gets_no_gradient(ask: Asking) -> None:
    layer = layers.worked(ask)
    x, G = ask.randn(3, 4, dtype="float32"), ask.randn(3, 3, dtype="float32")
    ask.w.do(ask.kit.backward(layer.it(x), G))
    it = layer.it
    params = (it.base.weight, it.base.bias, it.lora_A, it.lora_B)
    got = [grad is not None for grad in ask.w.ask([ask.kit.slope(p) for p in params])]
    ask.see("has a gradient: (W, b, A, B)", got, [False, False, True, True])


def lora_freeze_holds_after_to_train_eval_and_deepcopy(ask: Asking) -> None:
    layer = layers.trained(ask, dtype="float32")
    x = ask.randn(2, layer.base.sizes[1], dtype="float32")
    ask.w.do(layer.it(x))  # a layer in use
    there = layer.it.to("cpu").to(ask.torch.float64).to(ask.torch.float32).eval().train()
    moved = ask.w.keep(there)
    twin = ask.w.keep(ask.kit.deepcopy(moved))
    trains = layers.all_trainable(ask, [moved, twin])
    for what, names in zip(("to/train/eval", "deepcopy"), trains, strict=True):
        ask.see(f"requires_grad after {what}", names, ADAPTER)
    before = ask.w.tensor(moved(x))
    for param in (twin.base.weight, twin.base.bias, twin.lora_A, twin.lora_B):
        ask.w.do(ask.kit.add(param, 0.5))
    original, copied = ask.w.ask((moved(x), twin(x)))
    ask.near("original moved", original, before, 0.0, 1)
    off = gap(copied, before)
    ask.hold(0 < off < float("inf"), f"the edited copy moved by {off:.3g}", "> 0", 1)


def _values(layer: Expr) -> tuple[Expr, ...]:
    return (layer.base.weight, layer.base.bias, layer.lora_A, layer.lora_B)


def lora_freeze_holds_after_save_and_load(ask: Asking) -> None:
    layer = layers.trained(ask, dtype="float32")
    d_out, d_in = layer.base.sizes
    x = ask.randn(3, d_in, dtype="float32")
    state, said = ask.w.ask((layer.it.state_dict(), layer.it.eval()(x)))
    far = ask.another()
    there = ask.star("LoRALinear")(ask.nn.Linear(d_in, d_out), r=layer.r, alpha=layer.alpha)
    fresh = far.keep(there)
    far.do(fresh.load_state_dict(dict(state)))
    *values, rows, out = far.ask((*_values(fresh), ask.kit.params(fresh), fresh.eval()(x)))
    sent = (layer.base.weight, layer.base.bias, layer.A, layer.B)
    for name, got, want in zip(("W", "b", "A", "B"), values, sent, strict=True):
        assert want is not None
        ask.near(f"{name} after a load elsewhere", got, want, 0.0)
    ask.see("requires_grad after the load", {row[0] for row in rows if row[4]}, ADAPTER)
    ask.near("fresh(x) - layer(x)", out, said, 1e-5)


def lora_freeze_one_sgd_step_moves_A_and_B_only(ask: Asking) -> None:
    layer = layers.trained(ask)
    d_out, d_in = layer.base.sizes
    ask.w.do(ask.kit.backward(layer.it(ask.randn(5, d_in)), ask.randn(5, d_out)))
    ask.w.do(ask.kit.sgd(layer.it, 0.1))
    W, b, A, B = ask.w.ask(_values(layer.it))
    assert layer.base.bias is not None
    still = (gap(W, layer.base.weight) == 0.0, gap(b, layer.base.bias) == 0.0)
    moved = (gap(A, layer.A) > 0, gap(B, layer.B) > 0)
    ask.see("(W, b unmoved, A, B moved)", (*still, *moved), (True,) * 4)
    # What is reported has to be what computes: the same A and B on a base the judge sends anew.
    again = ask.w.keep(ask.kit.linear(layer.base.weight, layer.base.bias))
    other = layers.new(ask, again, r=layer.r, alpha=layer.alpha)
    ask.w.do(ask.kit.fill(other, A, B))
    x = ask.randn(4, d_in)
    got, want = ask.w.ask((layer.it.eval()(x), other.eval()(x)))
    ask.near("layer(x) - a new layer's with these values", got, want, 1e-11)
