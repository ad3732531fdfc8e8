"""Lab 00, tasks A1 to A4: the fields, the two matrices, their first values, dropout.

Leaves out: forward, freezing, wrapping, state and merge (the files beside this one).
"""

from __future__ import annotations

import torch

from minituner.grading.checks import layers
from minituner.grading.checks.asking import Asking, gap
from minituner.grading.expr import Expr
from minituner.grading.peer import Raised

REFUSED = ("ValueError", "TypeError")


def _fields(ask: Asking, layer: Expr, *more: Expr) -> tuple[object, ...]:
    """(r, alpha, scaling, and what else is asked) as they are there."""
    found: tuple[object, ...] = ask.w.ask((layer.r, layer.alpha, layer.scaling, *more))
    return found


def lora_param_count_fields_record_the_arguments(ask: Asking) -> None:
    base = ask.linear()
    r, scale = ask.rng.choice((2, 3)), ask.rng.choice(layers.SCALES)
    it = layers.new(ask, base.it, r=r, alpha=r * scale)
    layers.new(ask, ask.linear().it, r=r + 1, alpha=r * scale + 1)
    same, *fields = ask.w.ask((ask.kit.same(it.base, base.it), it.r, it.alpha, it.scaling))
    ask.see("base is base", same, True)
    ask.see("(r, alpha, scaling)", tuple(fields), (r, r * scale, scale))
    ask.see("type(scaling)", type(fields[2]).__name__, "float", 1)


def lora_param_count_arguments_may_be_positional_and_alpha_an_int(ask: Asking) -> None:
    r, factor = ask.rng.choice((8, 12)), ask.rng.choice((0.5, 1.5, 2.5))
    base = ask.linear((3, 4), dtype="float32")
    layer = ask.w.keep(ask.star("LoRALinear")(base.it, r, int(r * factor), 0.25, False))
    got = _fields(ask, layer, ask.kit.flag(layer.base.weight))
    ask.hold(
        got == (r, r * factor, factor, True),
        f"(r, alpha, scaling, base.weight.requires_grad) = {got}",
        f"{(r, int(r * factor), factor, True)}",
    )


def lora_param_count_accepts_a_subclass_of_linear(ask: Asking) -> None:
    special = ask.kit.subclass(ask.nn.Linear, "Special")
    said = ask.w.refusal(ask.star("LoRALinear")(special(4, 3)), *REFUSED)
    ask.see("LoRALinear(Special(4, 3)) ->", said, None)


def lora_param_count_scaling_survives_a_change_of_dtype(ask: Asking) -> None:
    r, alpha = ask.rng.choice(((3, 1.0), (7, 2.0), (3, 5.0)))
    base = ask.linear(dtype="float32")
    layer = ask.w.keep(layers.new(ask, base.it, r=r, alpha=alpha).to(ask.torch.bfloat16))
    scaling, state = ask.w.ask((layer.scaling, layer.state_dict()))
    ask.see("scaling", scaling, alpha / r)
    names = sorted(map(str, state)) if isinstance(state, dict) else ["?"]
    ask.see("state", [n for n in names if "scal" in n or n.endswith("alpha")], [])


def lora_param_count_defaults_are_r8_alpha16(ask: Asking) -> None:
    layer = layers.new(ask, ask.linear(dtype="float32").it)
    got = _fields(ask, layer, ask.kit.flag(layer.base.weight))
    ask.hold(
        got == (8, 16.0, 2.0, False), f"(r, alpha, scaling, trains) = {got}", "8, 16, 2, False"
    )


def lora_param_count_alpha_does_not_follow_r(ask: Asking) -> None:
    r = ask.rng.choice((3, 5, 6))
    layer = layers.new(ask, ask.linear(dtype="float32").it, r=r)
    got = _fields(ask, layer)
    ask.hold(got == (r, 16.0, 16.0 / r), f"(r, alpha, scaling) = {got}", f"{(r, 16.0, 16.0 / r)}")


def lora_param_count_rejects_a_rank_below_one(ask: Asking) -> None:
    base, calls = ask.linear().it, []
    for bad in (0, -ask.rng.randint(1, 9)):
        call = ask.star("LoRALinear")(base, r=bad)
        calls.append((f"LoRALinear(base, r={bad})", call, ("r", str(bad))))
    ask.all_refused(calls, REFUSED)


def lora_param_count_accepts_rank_one(ask: Asking) -> None:
    said = ask.w.refusal(ask.star("LoRALinear")(ask.linear().it, r=1), *REFUSED)
    ask.see("LoRALinear(base, r=1) ->", said, None)


def lora_param_count_rejects_a_dropout_outside_0_1(ask: Asking) -> None:
    base, calls = ask.linear().it, []
    for bad in (-0.25, 1.0, ask.rng.choice((1.25, 1.5, 2.5))):
        call = ask.star("LoRALinear")(base, dropout=bad)
        calls.append((f"LoRALinear(base, dropout={bad})", call, ("dropout", f"{bad:g}")))
    ask.all_refused(calls, REFUSED)


def lora_param_count_rejects_a_base_that_is_no_linear(ask: Asking) -> None:
    nested = layers.new(ask, ask.linear().it)
    wrong = {"Conv1d": ask.nn.Conv1d(4, 3, 1), "LayerNorm": ask.nn.LayerNorm(4)}
    calls = [
        (f"LoRALinear({kind})", ask.star("LoRALinear")(bad), ("base", kind))
        for kind, bad in (wrong | {"LoRALinear": nested}).items()
    ]
    ask.all_refused(calls, ("TypeError", "ValueError"))


# --- A2: the two matrices -------------------------------------------------------------------------


def lora_param_count_shapes_are_r_in_and_out_r(ask: Asking) -> None:
    base = ask.linear()
    d_out, d_in = base.sizes
    ranks = (1, ask.rng.choice((2, 3, 5)))
    made = [ask.kit.params(layers.new(ask, base.it, r=r)) for r in ranks]
    for r, told in zip(ranks, ask.w.ask(made), strict=True):
        rows = {row[0]: row for row in told}
        both = [rows.get(name) for name in ("lora_A", "lora_B")]
        ask.see("Parameters", [row is not None and row[5] for row in both], [True, True])
        got = [row[1] for row in both if row]
        ask.see(f"shapes at r={r}", got, [[r, d_in], [d_out, r]], 1)


def lora_param_count_64_by_64_at_r8_trains_1024(ask: Asking) -> None:
    r, d_in, d_out = ask.rng.choice((4, 8)), ask.rng.choice((48, 64)), 64
    layer = layers.new(ask, ask.linear((d_out, d_in), dtype="float32").it, r=r)
    base, total = layer.base, ask.torch.sum
    learns = [total(base.weight).requires_grad, total(base.bias).requires_grad]
    rows, fixed = ask.w.ask((ask.kit.params(layer), learns))
    got = sum(layers.size(row) for row in rows if row[4])
    ask.see(f"trainable at {d_in}→{d_out}, r={r}", got, r * (d_in + d_out))
    ask.see("sum(W), sum(b) require grad", fixed, [False, False])


def lora_param_count_adds_no_parameter_but_A_and_B(ask: Asking) -> None:
    looks = []
    for bias in (True, False):
        base = ask.linear(bias=bias)
        layer = layers.new(ask, base.it, r=2)
        looks.append((ask.kit.rest(layer, base.it), ask.kit.params(layer)))
    for bias, (extra, rows) in zip((True, False), ask.w.ask(looks), strict=True):
        ask.see("added parameters", extra, ["lora_A", "lora_B"])
        ask.see("parameters in all", len(rows), 4 if bias else 3, 1)


def lora_param_count_factors_follow_the_dtype_of_base(ask: Asking) -> None:
    for dtype, place in (("float32", "cpu"), ("bfloat16", "cpu"), ("float32", "meta")):
        kind = getattr(ask.torch, dtype)
        base = ask.w.keep(ask.nn.Linear(7, 5, dtype=kind, device=place))
        try:
            layer = ask.w.keep(ask.star("LoRALinear")(base, r=2))
            rows = ask.w.ask(ask.kit.params(layer))
        except Raised as raised:
            if place == "meta" and "meta" in raised.said:
                continue  # a check of its own that reads a value: none of our business
            raise
        got = {(row[2], row[3]) for row in rows if row[0] in ("lora_A", "lora_B")}
        ask.see("(dtype, device) of A and B", got, {(f"torch.{dtype}", place)})


# --- A3: first values -----------------------------------------------------------------------------


def lora_init_identity_B_starts_at_zero_and_A_does_not(ask: Asking) -> None:
    A, B = layers.factors(ask, layers.new(ask, ask.linear().it, r=3))
    ask.see("max|B|", B.abs().max().item(), 0.0)
    rows = A.abs().amax(dim=1).min().item()
    ask.hold(rows > 0, f"smallest row maximum of |A| = {rows:.3g}", "> 0", 1)


def lora_init_identity_A_is_kaiming_uniform(ask: Asking) -> None:
    d_in, r = ask.rng.choice((100, 144, 200, 256)), 64
    A, _ = layers.factors(ask, layers.new(ask, ask.linear((24, d_in), dtype="float32").it, r=r))
    ask.hold(A.numel() > 1000, f"A has {A.numel()} entries", f"{r * d_in}")
    values = A.double().flatten() * d_in**0.5  # in units of the bound
    largest, std, mean = values.abs().max().item(), values.std().item(), values.mean().item()
    told = f"(max|A|, std) = ({largest:.2f}, {std:.2f}) / √in"
    ask.hold(0.98 < largest <= 1.000001, told, "(1.00, 0.58) / √in")
    # Six standard errors of 6400 draws or more: a correct A never misses these.
    ask.hold(
        abs(std - 3**-0.5) < 0.025 and abs(mean) < 0.045,
        f"std = {std:.3f} / √in, mean = {mean:.3f} / √in",
        "0.577 / √in, 0",
        1,
    )


def lora_init_identity_A_comes_from_the_global_seed(ask: Asking) -> None:
    base, start = ask.linear(), ask.rng.randrange(10**6)
    ask.w.do(ask.kit.seed(start))
    drawn = [layers.new(ask, base.it) for _ in range(2)]
    ask.w.do(ask.kit.seed(start))
    drawn.append(layers.new(ask, base.it))
    first, second, again = ask.w.ask([layer.lora_A for layer in drawn])
    ask.see("tensors", [isinstance(A, torch.Tensor) for A in (first, second, again)], [True] * 3)
    got = (gap(again, first) == 0.0, gap(second, first) == 0.0)
    ask.see("(A == A(same seed), A == A(next layer))", got, (True, False))


# --- A4: dropout on the branch's input ------------------------------------------------------------


def _twins(ask: Asking, mode: bool = True) -> tuple[Expr, Expr, int]:
    """(a layer with dropout 0.5, one without, in_features): the same base, A and B."""
    base, r, scale = ask.linear(), 3, ask.rng.choice(layers.SCALES)
    ask.w.do(base.it.train(mode))
    A, B = ask.randn(r, base.sizes[1]), ask.randn(base.sizes[0], r)
    pair = [layers.new(ask, base.it, r=r, alpha=r * scale, dropout=p) for p in (0.5, 0.0)]
    for layer in pair:
        ask.w.do(ask.kit.fill(layer, A, B))
    return pair[0], pair[1], base.sizes[1]


def lora_init_identity_dropout_acts_on_the_branch_input(ask: Asking) -> None:
    n, scale, p = 16, ask.rng.choice(layers.SCALES), ask.rng.choice((0.2, 0.3, 0.4))
    base = ask.linear((n + 1, n))
    layer = layers.new(ask, base.it, r=n, alpha=n * scale, dropout=p)
    # A is lower triangular ones and B starts with the identity, so the mask can be read back.
    eye = torch.eye(n + 1, n, dtype=torch.float64)
    ask.w.do(ask.kit.fill(layer, torch.ones(n, n, dtype=torch.float64).tril(), eye))
    x = ask.randn(64, n).abs() + 1
    there = ask.w.keep(ask.torch.clone(x))
    trains, evals, after = ask.w.ask((layer.train()(there), layer.eval()(x), there))
    ask.near("x changed", after, x, 0.0)
    for out in (trains, evals):
        ask.hold(gap(out, base.out(x)) < float("inf"), "layer(x) of another shape", f"{64, n + 1}")
    first = torch.zeros(64, 1, dtype=torch.float64)
    branch, full = (
        torch.diff((y - base.out(x))[:, :n], dim=1, prepend=first) for y in (trains, evals)
    )
    seen = branch / full
    kept, dropped = (seen - 1 / (1 - p)).abs() < 1e-9, seen.abs() < 1e-9
    plain = (seen - 1).abs() < 1e-9
    counts = [int(of.sum()) for of in (dropped, kept, plain, ~(dropped | kept | plain))]
    ask.hold(
        not any(counts[2:]),
        "A sees 0: {}, x / (1 - p): {}, x: {}, other: {}".format(*counts),
        "x: 0, other: 0",
    )
    share = dropped.double().mean().item()
    mixed = bool((dropped.any(0) & kept.any(0)).any() and (dropped.any(1) & kept.any(1)).any())
    ask.hold(
        abs(share - p) < 0.1 and mixed,
        f"dropped share = {share:.2f}, entry by entry = {mixed}",
        f"{p:.2f}, True",
        1,
    )


def lora_init_identity_dropout_draws_a_new_mask_each_time(ask: Asking) -> None:
    layer, _, d_in = _twins(ask)
    x = ask.randn(64, d_in)
    once, again = ask.w.ask((layer.train()(x), layer(x)))
    off = gap(again, once)
    ask.hold(off > 1e-6, f"max|layer(x) - layer(x)| in train = {off:.3g}", "> 0")


def lora_init_identity_dropout_is_silent_in_eval(ask: Asking) -> None:
    layer, twin, d_in = _twins(ask)
    x = ask.randn(64, d_in)
    got, want = ask.w.ask((layer.train().eval()(x), twin.eval()(x)))
    ask.near("layer.eval()(x) - twin.eval()(x)", got, want, 1e-12)


def lora_init_identity_mode_follows_the_base(ask: Asking) -> None:
    layer, twin, d_in = _twins(ask, mode=False)
    x = ask.randn(64, d_in)
    calls = (twin(x), layer(x), layer.train()(x), layer.eval()(x))
    want, *outs = ask.w.ask(calls)
    silent, awake, again = (gap(out, want) for out in outs)
    other = layers.new(ask, ask.linear().it, dropout=0.5).training
    asleep = ask.linear()
    ask.w.do(asleep.it.eval())
    layers.new(ask, asleep.it)
    born = ask.w.ask((other, asleep.it.training))
    got = (silent < 1e-12, awake > 1e-6, again < 1e-12, *born)
    ask.see("(silent, active, silent, born, base)", got, (True, True, True, True, False))


def lora_init_identity_no_dropout_by_default(ask: Asking) -> None:
    base = ask.linear()
    layer = layers.new(ask, base.it, r=3)
    A, B = ask.randn(3, base.sizes[1]), ask.randn(base.sizes[0], 3)
    ask.w.do(ask.kit.fill(layer, A, B))
    x = ask.randn(64, base.sizes[1])
    trains, evals = ask.w.ask((layer.train()(x), layer.eval()(x)))
    ask.near("train(x) - eval(x)", trains, evals, 1e-12)
