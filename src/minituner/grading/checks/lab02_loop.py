"""Lab 02, block B: what trains, the learning rate, clipping, one step.

Leaves out: data (lab02_data.py), and what becomes of many steps (lab02_resume.py).
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from minituner.grading.checks.asking import Asking, equal, gap, plain, words
from minituner.grading.checks.lab02_asking import (
    KIT,
    REFUSED,
    VOCAB,
    Loop,
    batch,
    close,
    gradient,
    loop,
    loss,
    off,
    rate,
    recipe,
    wrong,
)
from minituner.grading.expr import Expr
from minituner.recipe import Batch, Recipe

RECIPE = Recipe(steps=40, pad_id=0, size=6, peak=0.5, warmup=8, max_norm=1e9, every=10)
NEAR = 1e-5  # relative: torch's clip_grad_norm_ adds 1e-6 to the norm


# --- B1: what trains ------------------------------------------------------------------------------


def adapt_loop_takes_what_requires_grad(ask: Asking) -> None:
    root, inner, base, up, twice = words(ask, 5)
    trained, frozen = [root, f"{inner}.{up}.weight"], ["lora_norm.weight", f"{base}.weight"]
    rows = [(name, ask.randn(2, 3), name in trained) for name in (*frozen, *trained)]
    ask.rng.shuffle(rows)
    model = ask.w.keep(KIT.tree(rows, {twice: inner}))
    got = ask.w.ask(KIT.named(ask.star("adapter_parameters")(model), model))
    ask.see("trained, by name", got, trained)


def adapt_loop_refuses_a_model_in_which_nothing_trains(ask: Asking) -> None:
    models = [ask.nn.Linear(3, 4).requires_grad_(False), ask.nn.ReLU()]
    calls = [(f"{i}", ask.star("adapter_parameters")(model), ()) for i, model in enumerate(models)]
    ask.all_refused(calls, REFUSED)


# --- B2: the learning rate ------------------------------------------------------------------------


def _rates(ask: Asking, chosen: Recipe, steps: list[int]) -> object:
    there = recipe(ask, chosen)
    return ask.w.ask([ask.star("learning_rate")(step, there) for step in steps])


def adapt_rate_the_worked_schedule(ask: Asking) -> None:
    peak = ask.rng.randint(2, 99) / 100
    chosen = Recipe(steps=8, pad_id=0, warmup=4, peak=peak, floor=peak / 2)
    got = _rates(ask, chosen, [0, 1, 2, 3, 4, 6, 8])
    want = [share * peak for share in (0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5)]
    close(ask, "rates at steps 0, 1, 2, 3, 4, 6, 8", got, want, 1e-6)


def adapt_rate_falls_along_a_cosine(ask: Asking) -> None:
    warmup, after = ask.rng.randint(2, 6), ask.rng.randint(7, 15)
    peak, floor = ask.rng.uniform(0.01, 0.9), ask.rng.uniform(0.0, 0.009)
    chosen = Recipe(steps=warmup + after, pad_id=0, warmup=warmup, peak=peak, floor=floor)
    steps = list(range(warmup, chosen.steps + 1))
    far = off(_rates(ask, chosen, steps), [rate(step, chosen) for step in steps]) / peak
    ask.hold(far < 1e-6, f"max|rate - closed form| / peak = {far:.2g}", "< 1e-06")


def adapt_rate_stays_at_the_floor(ask: Asking) -> None:
    steps, floor = ask.rng.randint(8, 20), ask.rng.randint(1, 9) / 100
    chosen = Recipe(steps=steps, pad_id=0, warmup=2, peak=0.5, floor=floor)
    asked = [steps, steps + 3, 2 * steps - 2, 100 * steps]
    close(ask, f"rates at steps {asked}", _rates(ask, chosen, asked), [floor] * 4, 1e-6)


def adapt_rate_without_warmup_starts_at_the_peak(ask: Asking) -> None:
    peak, steps = ask.rng.uniform(0.1, 0.9), ask.rng.randint(5, 20)
    got = _rates(ask, Recipe(steps=steps, pad_id=0, warmup=0, peak=peak), [0])
    close(ask, "learning_rate(0)", got, [peak], 1e-6)


# --- B3: clipping ---------------------------------------------------------------------------------


def _clipped(
    ask: Asking, grads: list[Tensor | None], most: float, once: bool = False
) -> tuple[object, list[object]]:
    """What clip_ returns, and the gradients afterwards."""
    values = [torch.zeros(2) if grad is None else torch.zeros_like(grad) for grad in grads]
    params = ask.w.keep(KIT.sloped(values, grads))
    norm = ask.w.keep(ask.star("clip_")(KIT.once(params) if once else params, most))
    slopes = [ask.kit.slope(params[i]) for i in range(len(grads))]
    got, after = ask.w.ask((norm, slopes))
    return got, after


def _far(norm: object, after: list[object], want: float, grads: list[Tensor]) -> float:
    """The largest relative distance, of the norm and of the gradients."""
    size = math.sqrt(sum(grad.double().square().sum().item() for grad in grads))
    apart = [gap(got, grad) / size for got, grad in zip(after, grads, strict=True)]
    return max([off([norm], [want]) / want, *apart])


def adapt_clip_the_worked_example(ask: Asking) -> None:
    by, share = ask.rng.randint(1, 9), ask.rng.choice((0.25, 0.5, 0.75))
    grads = [torch.tensor(row).double() * by for row in ([3.0, 4.0], [12.0])]
    norm, after = _clipped(ask, [grads[0], None, grads[1]], 13.0 * by * share)
    ask.see("gradient where there was none", after.pop(1), None)
    far = _far(norm, after, 13.0 * by, [grad * share for grad in grads])
    said = [plain(norm), *(gap(got, grad) for got, grad in zip(after, grads, strict=True))]
    told = ", ".join(f"{one:.4g}" if type(one) is float else "?" for one in said)
    ask.hold(far < NEAR, f"norm, changes of the gradients: {told}", f"norm {13 * by}, x {share}")


def adapt_clip_scales_all_alike(ask: Asking) -> None:
    grads = [9 * ask.randn(2, 3, dtype="float32"), ask.randn(5, dtype="float32")]
    size = math.sqrt(sum(grad.double().square().sum().item() for grad in grads))
    share = ask.rng.uniform(0.1, 0.9)
    norm, after = _clipped(ask, [*grads], size * share, once=True)
    far = _far(norm, after, size, [grad * share for grad in grads])
    ask.hold(far < NEAR, f"relative distance from the closed form = {far:.3g}", f"< {NEAR:g}")


def adapt_clip_leaves_a_small_gradient_alone(ask: Asking) -> None:
    grads = [0.1 * ask.randn(3), torch.zeros(1, dtype=torch.float64)]
    size = grads[0].square().sum().sqrt().item()
    norm, after = _clipped(ask, [*grads], size * ask.rng.uniform(1.5, 9.0))
    moved = max(gap(got, grad) for got, grad in zip(after, grads, strict=True))
    right = moved == 0.0 and off([norm], [size]) < NEAR * size
    ask.hold(right, f"norm off by {off([norm], [size]):.2g}, gradients by {moved:.3g}", "0, 0")


def adapt_clip_refuses_what_is_not_finite(ask: Asking) -> None:
    cases = []
    for bad in (float("nan"), float("inf"), float("-inf")):
        grads = [ask.randn(2), torch.tensor([bad, 1.0]).double(), ask.randn(3)]
        cases.append((bad, grads, ask.w.keep(KIT.sloped(grads, grads))))
    calls = [(f"{bad}", ask.star("clip_")(params, 1.0), ()) for bad, _, params in cases]
    ask.all_refused(calls, REFUSED)
    after = ask.w.ask([[ask.kit.slope(params[i]) for i in (0, 2)] for _, _, params in cases])
    moved = [
        gap(got, grads[i])
        for (_, grads, _), row in zip(cases, after, strict=True)
        for got, i in zip(row, (0, 2), strict=True)
    ]
    ask.see("changes of the finite gradients", moved, [0.0] * 6)


# --- B4: one step ---------------------------------------------------------------------------------


def _step(ask: Asking, of: Loop, given: Batch, chosen: Recipe) -> Expr:
    return ask.w.keep(ask.star("train_step")(of.it, given, recipe(ask, chosen)))


def adapt_step_is_the_closed_form(ask: Asking) -> None:
    after, want = [], []
    for at, tightness in ((3, 0.5), (21, 2.0), (ask.rng.randint(9, 30), 0.5)):
        of, given = loop(ask, at=at), batch(ask)
        grad = gradient(of.weights, given)
        chosen = replace(RECIPE, max_norm=grad.square().sum().sqrt().item() * tightness)
        _step(ask, of, given, chosen)
        after.append(of.now(ask))
        want.append(of.start - rate(at, chosen) * min(1.0, tightness) * grad)
    got = ask.w.ask(after)
    far = [gap(each, right) for each, right in zip(got, want, strict=True)]
    told = ", ".join(f"{one:.3g}" for one in far)
    ask.hold(max(far) < NEAR, f"|shift - closed form| clipped, not, clipped: {told}", f"< {NEAR:g}")


def adapt_step_forgets_older_gradients(ask: Asking) -> None:
    of, given = loop(ask), batch(ask)
    ask.w.do(ask.kit.assign(of.shift, "grad", ask.randn(VOCAB, VOCAB)))
    _step(ask, of, given, replace(RECIPE, warmup=0))
    want = of.start - 0.5 * gradient(of.weights, given)
    ask.near("shift - closed form", ask.w.ask(of.now(ask)), want, NEAR)


def adapt_step_returns_the_loss_before_it_and_counts(ask: Asking) -> None:
    at = ask.rng.randint(4, 30)
    of, given = loop(ask, at=at), batch(ask)
    got, step = ask.w.ask((_step(ask, of, given, RECIPE), of.it.step))
    want = loss(of.weights[given[0]], given[1])
    ask.see("type of the loss", type(got).__name__, "float")
    ask.hold(abs(got - want) < 1e-8, f"loss = {got:.6g}", f"{want:.6g}")
    equal(ask, f"run.step after step {at}", step, at + 1)


def adapt_step_trains_in_train_mode(ask: Asking) -> None:
    of, given = loop(ask, dropout=0.5), batch(ask, 4, 6)
    ask.w.do(of.model.eval())
    got, modes = ask.w.ask((_step(ask, of, given, RECIPE), of.model.modes()))
    ask.see("train mode in each forward", modes, [True])
    without = loss(of.weights[given[0]], given[1])
    apart = off([got], [without])
    ask.hold(1e-9 < apart < math.inf, f"loss - loss without dropout = {apart:.2g}", "not 0")


def adapt_step_sets_the_rate_in_every_group(ask: Asking) -> None:
    at = ask.rng.choice((1, 2, 3, 4))
    of, given = loop(ask, at=at), batch(ask)
    extra = ask.w.keep(ask.nn.Parameter(torch.zeros(2, dtype=torch.float64)))
    ask.w.do(of.model.register_parameter("extra", extra))
    both = ask.w.keep(KIT.Momentum([of.shift, extra]))
    ask.w.do(ask.kit.assign(of.it, "optimizer", both))
    _step(ask, of, given, RECIPE)
    rates, table = ask.w.ask((both.rates(), ask.kit.values(of.model)["lora_table"]))
    close(ask, f"rates in step {at}", rates, [rate(at, RECIPE)] * 2, 1e-6)
    ask.near("frozen table moved", table, of.table, 0.0)


def adapt_step_refuses_a_gradient_that_is_not_finite(ask: Asking) -> None:
    of, (row, column) = loop(ask), ask.rng.sample(range(VOCAB), 2)
    table = of.table.clone()
    table[row, column] = float("nan")
    ask.put(of.model.lora_table, table)
    given = torch.full((1, 2), row), torch.full((1, 2), column)
    call = ask.star("train_step")(of.it, given, recipe(ask, RECIPE))
    ask.refuses("a gradient of NaN", call, (), REFUSED)
    shift, step = ask.w.ask((of.now(ask), of.it.step))
    facts = {"shift": gap(shift, of.start) == 0.0, "run.step": plain(step) == 0}
    wrong(ask, "changed all the same", facts)
