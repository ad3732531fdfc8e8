"""Lab 02, task D5: a run from wherever it stands, with an end, and the same numbers bit by bit.

Leaves out: the checkpoint itself (lab02_state.py).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from torch import Tensor

from minituner.grading.checks.asking import Asking, equal, gap, plain
from minituner.grading.checks.lab02_asking import (
    KIT,
    VOCAB,
    Loop,
    Pairs,
    listed,
    loop,
    recipe,
    wrong,
)
from minituner.grading.expr import Expr
from minituner.recipe import Recipe

RECIPE = Recipe(steps=40, pad_id=0, size=6, share=0.5, peak=0.5, warmup=8, max_norm=1e9, every=10)


def _corpus(ask: Asking) -> tuple[Pairs, Pairs, list[int]]:
    """Two pairs to learn, three to rehearse; old ones alone begin with the fifth token."""
    ids = ask.rng.sample(range(1, VOCAB), VOCAB - 1)
    a, b, c, d, e, f = ids
    new: Pairs = [([a], [b, 0]), ([c], [d, 0])]
    old: Pairs = [([e, e], [f, 0]), ([e, f], [a, 0]), ([e, b], [c, 0])]
    return new, old, ids


def _measure(of: Loop, answers: dict[int, tuple[float, float]] | None = None) -> Expr:
    """Answers by run.step, or always the same."""
    return KIT.Told(of.it, answers or {})


def _adapt(
    ask: Asking,
    of: Loop,
    data: tuple[Pairs, Pairs],
    chosen: Expr,
    measure: Expr,
    until: int | None = None,
) -> Expr:
    """The losses of a call, kept there."""
    more = {} if until is None else {"until": until}
    return ask.w.keep(ask.star("adapt")(of.it, *data, chosen, measure, **more))


def _counts(ask: Asking, losses: Any) -> list[int]:
    """How many losses each call gave, all of them finite floats."""
    flat = [one for call in losses for one in call]
    right = all(type(one) is float and math.isfinite(one) for one in flat)
    ask.hold(right, f"losses = {[type(one).__name__ for one in flat]}"[:120], "finite floats")
    return [len(call) for call in losses]


def adapt_resume_equals_the_undisturbed_run(ask: Asking) -> None:
    new, old, _ = _corpus(ask)
    seed, stop = ask.rng.randrange(2**31), ask.rng.choice((11, 13, 17))
    chosen = recipe(ask, replace(RECIPE, steps=24, every=5, patience=99, max_norm=0.5))
    answers = {step: (ask.rng.random(), ask.rng.random()) for step in (5, 10, 15, 20, 24)}
    whole = loop(ask, dropout=0.25, mu=0.9)
    first, second = (loop(ask, dropout=0.25, mu=0.9, like=whole) for _ in range(2))
    ask.w.do(ask.kit.seed(seed))
    losses = _adapt(ask, whole, (new, old), chosen, _measure(whole, answers))
    ask.w.do(ask.kit.seed(seed))
    stopped = _adapt(ask, first, (new, old), chosen, _measure(first, answers), stop)
    state = ask.w.keep(KIT.through_file(ask.star("checkpoint")(first.it)))
    ask.w.do(ask.torch.rand(7))
    ask.w.do(ask.star("restore")(second.it, state))
    went_on = _adapt(ask, second, (new, old), chosen, _measure(second, answers))
    ends = [
        (of.now(ask), of.it.best, of.it.kept, of.it.step, of.it.since) for of in (whole, second)
    ]
    got = ask.w.ask((losses, stopped, went_on, *ends))
    every, before, after, one, two = got
    facts = {
        "losses": [*before, *after] == every and len(set(every)) == 24,
        "how many": _counts(ask, [before, after]) == [stop, 24 - stop],
        "adapters": gap(two[0], one[0]) == 0.0 and gap(one[0], whole.start) > 0.0,
        "best": tuple(one[1]) == tuple(two[1]) == max(answers.values()),
        "kept": gap(two[2].get("part.shift"), one[2]["part.shift"]) == 0.0,
        "step, since": plain(one[3:]) == plain(two[3:]),
    }
    wrong(ask, "other than in the undisturbed run", facts)


def adapt_resume_measures_on_time(ask: Asking) -> None:
    new, old, _ = _corpus(ask)
    at, every = ask.rng.choice((1, 2, 3)), ask.rng.choice((4, 5))
    steps = 3 * every + ask.rng.randint(1, every - 1)
    of = loop(ask, at=at)
    expected = [every, 2 * every, 3 * every, steps]
    measure = ask.w.keep(_measure(of, {step: (float(step), 1.0) for step in expected}))
    chosen = recipe(ask, replace(RECIPE, steps=steps, every=every))
    losses = _adapt(ask, of, (new, old), chosen, measure)
    same = [ask.kit.same(measure.models[i], of.model) for i in range(4)]
    got = ask.w.ask((measure.asked, losses, of.it.step, of.it.best))
    told = (*plain(got[:1]), _counts(ask, [got[1]])[0], *plain(got[2:]))
    want = [expected, steps - at, steps, [float(steps), 1.0]]
    equal(ask, f"from {at}, every {every}, of {steps}: asked, losses, step, best", told, want)
    ask.see("asked about the model", ask.w.ask(same), [True] * 4)


def adapt_resume_until_stops_and_asks_nothing_extra(ask: Asking) -> None:
    of, (new, old, _) = loop(ask), _corpus(ask)
    measure = ask.w.keep(KIT.Told(of.it, {}, (1.0, 1.0)))
    chosen = recipe(ask, replace(RECIPE, steps=8, every=5, warmup=3))
    one, two = ask.rng.choice(((3, 7), (2, 6), (4, 7)))
    ends = (one, two, 8 + ask.rng.randint(2, 20), None)
    losses = [_adapt(ask, of, (new, old), chosen, measure, until) for until in ends]
    got, asked = ask.w.ask((losses, measure.asked))
    told = (_counts(ask, got), plain(asked))
    want = ([one, two - one, 8 - two, 0], [5, 8])
    equal(ask, f"until {ends}: steps, asked after", told, want)


def adapt_resume_ends_when_patience_does(ask: Asking) -> None:
    of, (new, old, _) = loop(ask), _corpus(ask)
    told = [(0.1, 1.0), (0.2, 1.0), (0.9, 0.5), (0.2, 1.0), (0.3, 0.4), (0.9, 1.0)]
    measure = ask.w.keep(KIT.InTurn(of.it, told, (0.0, 1.0)))
    chosen = recipe(ask, replace(RECIPE, steps=60, every=2, patience=3, lowest=0.9))
    losses = [_adapt(ask, of, (new, old), chosen, measure) for _ in range(2)]
    got = ask.w.ask((losses, of.it.since, of.it.best))
    found = (_counts(ask, got[0]), *plain(got[1:]))
    equal(ask, "steps of two calls, since, best", found, ([10, 0], 3, [0.2, 1.0]))


def _seen(ask: Asking, inputs: Any) -> list[list[list[int]]]:
    """The batches that a model was asked, as lists."""
    tensors = [isinstance(one, Tensor) and one.dim() == 2 for one in inputs]
    ask.see("batches of rows", tensors, [True] * len(tensors))
    rows: list[list[list[int]]] = listed(inputs)
    return rows


def adapt_resume_rehearses_in_every_batch(ask: Asking) -> None:
    of, (new, old, ids) = loop(ask), _corpus(ask)
    pad, (size, share) = ids[5], ask.rng.choice(((8, 0.25), (12, 0.25), (10, 0.3)))
    chosen = replace(RECIPE, steps=6, size=size, share=share, pad_id=pad, warmup=1)
    _adapt(ask, of, (new, old), recipe(ask, chosen), _measure(of))
    batches = _seen(ask, ask.w.ask(of.model.inputs()))
    count = round(share * size)
    rows = [[len(batch), sum(row[0] == ids[4] for row in batch)] for batch in batches]
    ask.see("rows, and from old, of each batch", rows, [[size, count]] * 6)
    ends = {row[-1] for batch in batches for row in batch if row[0] != ids[4]}
    ask.see("short rows end in pad_id", ends == {pad}, True)


def adapt_resume_draws_with_the_runs_own_generator(ask: Asking) -> None:
    new, old, _ = _corpus(ask)
    chosen, first = recipe(ask, replace(RECIPE, steps=9)), loop(ask)
    runs = [first, loop(ask, like=first), loop(ask)]
    for of in runs:
        ask.w.do(ask.kit.seed(ask.rng.randrange(2**31)))
        _adapt(ask, of, (new, old), chosen, _measure(of))
    drawn = [_seen(ask, inputs) for inputs in ask.w.ask([of.model.inputs() for of in runs])]
    got = (drawn[0] == drawn[1], drawn[1] == drawn[2], [len(batches) for batches in drawn])
    what = "same batches with another global seed, with another generator, steps"
    ask.see(what, got, (True, False, [9, 9, 9]))


def adapt_resume_learns_and_keeps_the_last_adapters(ask: Asking) -> None:
    of, (new, _, ids) = loop(ask), _corpus(ask)
    chosen = replace(RECIPE, steps=60, peak=4.0, every=20, size=12, share=0.0)
    measure = ask.w.keep(_measure(of, {40: (0.5, 1.0)}))
    losses = _adapt(ask, of, (new, []), recipe(ask, chosen), measure)
    got = ask.w.ask((losses, of.now(ask), measure.shifts, of.it.kept))
    told, shift, shifts, kept = got
    count = _counts(ask, [told])
    ask.see("losses, evaluations", (count, len(shifts)), ([60], 3))
    weights, follow = of.table + shift, {ids[0]: ids[1], ids[1]: 0, ids[2]: ids[3], ids[3]: 0}
    right = all(int(weights[token].argmax()) == after for token, after in follow.items())
    facts = {
        "learned": right and told[-1] < told[0] / 4,
        "last": gap(shift, shifts[2]) == 0.0 and gap(shift, shifts[1]) > 0.0,
        "kept": gap(kept.get("part.shift"), shifts[1]) == 0.0,
    }
    wrong(ask, "not so", facts)
