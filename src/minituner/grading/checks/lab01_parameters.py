"""Lab 01, block A: adapters, inventories and totals, counted in models of the judge's making.

Leaves out: what wrapping would give (lab01_wrapped.py), bytes and the audit.
"""

from __future__ import annotations

import math

from minituner.grading.checks.asking import Asking, equal, words
from minituner.grading.checks.lab01_asking import (
    TARGETS,
    close,
    default,
    entries,
    minigpt,
    refused,
    sizes,
    small,
    twins,
)
from minituner.grading.expr import Expr

FIELDS = ("name", "in_features", "out_features", "bias")
PAIR = ("trainable", "frozen")


# --- A1: one adapter ------------------------------------------------------------------------------


def counts_adapter_is_r_times_in_plus_out(ask: Asking) -> None:
    d_in, d_out, r = sizes(ask)
    got = ask.w.ask(ask.star("lora_param_count")(d_in, d_out, r))
    equal(ask, f"lora_param_count({d_in}, {d_out}, {r})", got, r * (d_in + d_out))


def counts_adapter_worked_examples(ask: Asking) -> None:
    n, r = ask.rng.randint(2, 200), ask.rng.randint(3, 9)
    wide = ask.rng.randint(1000, 9000)
    asked = [(n, n, r), (n, 4 * n, 2 * r), (wide, 3 * wide, r), (2, 3, 7 + n)]
    got = ask.w.ask([ask.star("lora_param_count")(*one) for one in asked])
    equal(ask, f"{asked} ->", got, [r * (d_in + d_out) for d_in, d_out, r in asked])


def counts_adapter_refuses_a_size_below_one(ask: Asking) -> None:
    bad = -ask.rng.randint(2, 99)
    good = {"in_features": 4, "out_features": 3, "r": 2}
    cases = [("in_features", 0), ("out_features", bad), ("r", 0), ("r", bad)]
    calls = [(name, value, good | {name: value}) for name, value in cases]
    things = [
        (
            f"lora_param_count({name}={value})",
            ask.star("lora_param_count")(**all_),
            (name, f"{value}"),
        )
        for name, value, all_ in calls
    ]
    refused(ask, things)


# --- A2: the inventory ----------------------------------------------------------------------------


def _listed(ask: Asking, model: Expr, *fields: str) -> Expr:
    return ask.kit.fields(ask.star("linear_inventory")(model), fields or ("name",))


def counts_inventory_lists_names_shapes_and_bias(ask: Asking) -> None:
    nn, (d_in, d_out, _) = ask.nn, sizes(ask)
    second = nn.Sequential(nn.Linear(d_out, d_in, bias=False), nn.GELU(), nn.Linear(d_in, d_in))
    model = nn.Sequential(nn.Linear(d_in, d_out), nn.LayerNorm(d_out), second)
    alone = nn.Linear(d_in, d_out, bias=False)
    got = ask.w.ask([_listed(ask, one, *FIELDS) for one in (model, alone)])
    want = [
        [["0", d_in, d_out, True], ["2.0", d_out, d_in, False], ["2.2", d_in, d_in, True]],
        [["", d_in, d_out, False]],
    ]
    equal(ask, "inventories", got, want)


def counts_inventory_takes_subclasses_and_no_other_kind(ask: Asking) -> None:
    nn, kit, names = ask.nn, ask.kit, words(ask, 4)
    like = ask.w.keep(kit.subclass(nn.Module, "Lookalike")())
    for field, value in (("in_features", 3), ("out_features", 2), ("bias", None)):
        ask.w.do(kit.assign(like, field, value))
    kinds = {
        names[0]: kit.subclass(nn.Linear, names[0].title())(3, 2),
        names[1]: nn.Conv1d(3, 2, 1),
        names[2]: nn.Embedding(5, 3),
        names[3]: nn.LayerNorm(3),
        "linear_like": like,
    }
    order = list(kinds)
    ask.rng.shuffle(order)
    got = ask.w.ask(_listed(ask, nn.ModuleDict({name: kinds[name] for name in order})))
    equal(ask, "names", got, [[names[0]]])


def counts_inventory_lists_a_module_with_two_names_once(ask: Asking) -> None:
    model, names = twins(ask)
    equal(ask, "names", ask.w.ask(_listed(ask, model)), [[names[0]], [names[2]]])


def counts_inventory_of_minigpt_has_the_tied_head(ask: Asking) -> None:
    size = small(ask)
    parts = [t if t.startswith("mlp") else f"attn.{t}" for t in TARGETS]
    want = [[f"blocks.{i}.{part}"] for i in range(size["n_layer"]) for part in parts]
    got = ask.w.ask(_listed(ask, minigpt(ask, size)))
    equal(ask, "names", got, [*want, ["lm_head"]])


# --- A3: what a model has -------------------------------------------------------------------------


def _totals(ask: Asking, *models: Expr) -> list[list[object]]:
    found: list[list[object]] = ask.w.ask(
        ask.kit.fields([ask.star("count_params")(model) for model in models], PAIR)
    )
    return found


def counts_totals_split_by_requires_grad(ask: Asking) -> None:
    nn, (d_in, d_out, gate) = ask.nn, sizes(ask)
    model = ask.w.keep(
        nn.Sequential(nn.Linear(d_in, d_out), nn.LayerNorm(d_out), nn.Embedding(7, d_in))
    )
    ask.w.do(model.register_parameter("gate", nn.Parameter(ask.randn(gate))))
    held = {
        model[0].weight: d_in * d_out,
        model[0].bias: d_out,
        model[1].weight: d_out,
        model[1].bias: d_out,
        model[2].weight: 7 * d_in,
        model.gate: gate,
    }
    counts = [0, 0]
    for index, (param, count) in enumerate(held.items()):
        frozen = index == 1 or (index > 1 and ask.rng.random() < 0.5)
        ask.w.do(param.requires_grad_(not frozen))
        counts[frozen] += count
    equal(ask, "(trainable, frozen)", _totals(ask, model)[0], counts)


def counts_totals_take_a_tied_parameter_once(ask: Asking) -> None:
    for size in (default(), small(ask)):
        tied, untied = minigpt(ask, size), minigpt(ask, size, tie_head=False)
        ask.w.do(untied.requires_grad_(False))
        total = entries(size)
        want = [[total, 0], [0, total + size["vocab_size"] * size["d_model"]]]
        equal(ask, "(tied, untied)", _totals(ask, tied, untied), want)


def counts_totals_leave_buffers_out(ask: Asking) -> None:
    d = ask.rng.randint(5, 50)
    model = ask.w.keep(ask.nn.Sequential(ask.nn.Linear(d, d, bias=False), ask.nn.BatchNorm1d(d)))
    ask.w.do(model.register_buffer("mask", ask.torch.ones(d, d)))
    equal(ask, "(trainable, frozen)", _totals(ask, model)[0], [d * d + 2 * d, 0])


def counts_totals_of_gpt2_small(ask: Asking) -> None:
    """A GPT-2 of any width and depth, without memory for it: its parameters, in their modules."""
    d, depth, nn = 64 * ask.rng.randint(8, 20), ask.rng.randint(2, 12), ask.nn

    def held(**shapes: tuple[int, ...]) -> Expr:
        empty = {name: ask.torch.empty(*s, device="meta") for name, s in shapes.items()}
        return ask.w.keep(nn.ParameterDict({n: nn.Parameter(t) for n, t in empty.items()}))

    layer = {"c_attn": (d, 3 * d), "c_proj": (d, d), "c_fc": (d, 4 * d), "proj": (4 * d, d)}
    biases = {f"{name}_bias": (shape[1],) for name, shape in layer.items()}
    norms = {f"norm_{i}": (d,) for i in range(2 * (2 * depth + 1))}
    outer = {"wte": held(weight=(50257, d)), "wpe": held(weight=(1024, d)), "norms": held(**norms)}
    blocks = nn.ModuleList([held(**layer, **biases) for _ in range(depth)])
    model = ask.w.keep(nn.ModuleDict(outer | {"h": blocks, "lm_head": nn.ParameterDict()}))
    ask.w.do(ask.kit.assign(model["lm_head"], "weight", model["wte"]["weight"]))
    want = (50257 + 1024) * d + depth * (12 * d * d + 9 * d) + 2 * (2 * depth + 1) * d
    got = ask.w.ask(ask.star("count_params")(model).total)
    equal(ask, f"d = {d}, {depth} layers: total", got, want)


# --- A5 and A6: against the weight ----------------------------------------------------------------


def counts_ratio_is_weight_over_adapter(ask: Asking) -> None:
    d_in, d_out, r = sizes(ask)
    asked = [(2 * d_in, 2 * d_in, r), (64, 64, 64), (d_in, d_out, r)]
    got = ask.w.ask([ask.star("compression_ratio")(*one) for one in asked])
    want = [d_in / r, 0.5, d_in * d_out / (r * (d_in + d_out))]
    right = [close(one, other, 1e-12) for one, other in zip(got, want, strict=True)]
    ask.hold(all(right), f"{asked} -> = {got}", f"{want}")
    call = ask.star("compression_ratio")(4, 3, 0)
    refused(ask, [("compression_ratio(4, 3, 0)", call, ("r", "0"))], 1)


def counts_even_is_the_smallest_rank_that_is_no_smaller(ask: Asking) -> None:
    exact = ask.rng.randint(3, 40)
    asked = [(2 * exact, 2 * exact), (3 * exact, 6 * exact), sizes(ask)[:2]]
    got = ask.w.ask([ask.star("break_even_rank")(*one) for one in asked])
    equal(ask, f"{asked} ->", got, [math.ceil(i * o / (i + o)) for i, o in asked])


def counts_even_worked_examples(ask: Asking) -> None:
    n = ask.rng.randint(2, 2000)
    asked = [(2 * n, 2 * n), (5 * n, 20 * n), (n, 3 * n), (1, 1), (1, 900), (3, 4)]
    got = ask.w.ask([ask.star("break_even_rank")(*one) for one in asked])
    equal(ask, f"{asked} ->", got, [n, 4 * n, -(-3 * n // 4), 1, 1, 2])
    call = ask.star("break_even_rank")(5, 0)
    refused(ask, [("break_even_rank(5, 0)", call, ("out_features", "0"))], 1)
