"""Lab 01, task A4: what wrapping would give, on models of the judge's making.

Leaves out: the other counts (lab01_parameters.py).
"""

from __future__ import annotations

from minituner.grading.checks import trees
from minituner.grading.checks.asking import Asking, equal, words
from minituner.grading.checks.lab01_asking import (
    TARGETS,
    default,
    entries,
    inner,
    minigpt,
    refused,
    small,
    twins,
)
from minituner.grading.expr import Expr

PAIR = ("trainable", "frozen")


def _wrapped(ask: Asking, model: Expr, *options: object) -> Expr:
    return ask.star("wrapped_count")(model, *options)


def _pairs(ask: Asking, *counts: Expr) -> list[list[object]]:
    found: list[list[object]] = ask.w.ask(ask.kit.fields(list(counts), PAIR))
    return found


def counts_wrapped_minigpt_trains_36864(ask: Asking) -> None:
    every = default(), default(n_layer=ask.rng.choice((1, 2, 3))), small(ask)
    got = _pairs(ask, *(_wrapped(ask, minigpt(ask, size)) for size in every))
    want = [[8 * s["n_layer"] * sum(inner(s).values()), entries(s)] for s in every]
    equal(ask, "(trainable, frozen)", got, want)


def counts_wrapped_equals_a_model_really_wrapped(ask: Asking) -> None:
    size, r, targets = small(ask), ask.rng.randint(1, 9), ask.rng.sample(TARGETS, 2)
    got = _pairs(ask, _wrapped(ask, minigpt(ask, size), r, targets))[0]
    trainable = r * size["n_layer"] * sum(inner(size)[target] for target in targets)
    equal(ask, f"wrapped_count(model, {r}, {targets})", got, [trainable, entries(size)])


def counts_wrapped_matches_at_a_dot_and_linears_only(ask: Asking) -> None:
    nn, r, (q, block, mlp, fc) = ask.nn, ask.rng.randint(1, 5), words(ask, 4)
    special = ask.kit.subclass(nn.Linear, "Special")(7, 3)
    model = nn.ModuleDict(
        {
            q: nn.Linear(5, 4),
            "x" + q: nn.Linear(5, 4),
            q + "ection": nn.Linear(5, 4),
            q + "_norm": nn.LayerNorm(4),
            block: nn.ModuleDict({q: special, fc: nn.Linear(6, 9, bias=False)}),
            mlp: nn.ModuleDict({fc: nn.Linear(3, 8)}),
            "x" + mlp: nn.ModuleDict({fc: nn.Linear(2, 2)}),
            "conv": nn.ModuleDict({q: nn.Conv1d(5, 4, 1)}),
            "seq": nn.ModuleDict({q: nn.Sequential(nn.Linear(4, 4))}),
        }
    )
    got = ask.w.ask(_wrapped(ask, model, r, (q, f"{mlp}.{fc}")).trainable)
    equal(ask, "trainable", got, r * ((5 + 4) + (7 + 3) + (3 + 8)))


def counts_wrapped_takes_a_linear_of_two_names_or_targets_once(ask: Asking) -> None:
    r, (model, names) = ask.rng.randint(2, 6), twins(ask)
    one, other, out = (name.partition(".")[2] for name in names)
    asked = ((one, other), (other,), (out, names[2]))
    got = ask.w.ask([_wrapped(ask, model, r, targets).trainable for targets in asked])
    equal(ask, "two names, the second alone, two targets:", got, [11 * r, 11 * r, 9 * r])


def counts_wrapped_gives_a_tied_head_an_adapter_of_its_own(ask: Asking) -> None:
    size, r, (one, other) = small(ask), ask.rng.randint(1, 9), words(ask, 2)
    two = ask.w.keep(ask.nn.ModuleDict({name: ask.nn.Linear(6, 4) for name in (one, other)}))
    ask.w.do(ask.kit.assign(two[other], "weight", two[one].weight))
    head = _wrapped(ask, minigpt(ask, size), r, ("lm_head",))
    got = _pairs(ask, head, _wrapped(ask, two, r, (one, other)))
    want = [[r * (size["d_model"] + size["vocab_size"]), entries(size)]]
    want.append([2 * r * (6 + 4), 6 * 4 + 2 * 4])
    equal(ask, f"lm_head, and two linears with one weight, r = {r}:", got, want)


def counts_wrapped_frozen_is_all_that_was_there(ask: Asking) -> None:
    size = small(ask)
    model, got = minigpt(ask, size), []
    for part in (None, model.blocks[0].requires_grad_(False), model.requires_grad_(False)):
        ask.w.do(part)
        got.append(ask.w.ask(_wrapped(ask, model, 2, ("q_proj",)).frozen))
    equal(ask, "all trainable, some, none: frozen", got, [entries(size)] * 3)


def counts_wrapped_names_the_unmatched_target(ask: Asking) -> None:
    model, (absent, more) = minigpt(ask, small(ask)), words(ask, 2)
    asked = (
        (("q_proj", absent), (absent,)),
        ((absent, more, "fc1"), (absent, more)),
        (("ln1",), ("ln1",)),
        (("proj", "q_proj"), ("proj",)),
    )
    refused(ask, [(f"targets {t}", _wrapped(ask, model, 2, t), said) for t, said in asked])
    bad = -ask.rng.randint(2, 99)
    for r, targets in ((0, ("q_proj",)), (bad, ())):
        call = _wrapped(ask, model, r, targets)
        refused(ask, [(f"wrapped_count(model, {r}, {targets})", call, ("r", f"{r}"))], 1)


def counts_wrapped_changes_nothing(ask: Asking) -> None:
    model = minigpt(ask, small(ask))
    ask.w.do(model.eval())
    ask.w.do(model.blocks[0].requires_grad_(False))
    was = trees.before(ask, model)
    ask.w.do(_wrapped(ask, model, ask.rng.randint(1, 4)))
    ask.see("changed", trees.changes(ask, was), [])
