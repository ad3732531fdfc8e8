"""Lab 00, block C: the adapter on its own, saved in one worker and loaded in a fresh one.

Leaves out: wrapping (lab00_wrap.py) and merge (lab00_merge.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from minituner.grading.checks import models, trees
from minituner.grading.checks.asking import Asking, gap
from minituner.grading.expr import Expr

REFUSED = ("KeyError", "ValueError")


def _state(ask: Asking, model: Expr) -> dict[str, Tensor]:
    """lora_state_dict there, as a plain dict of tensors here."""
    state = ask.w.ask(ask.star("lora_state_dict")(model))
    ask.see("lora_state_dict(model) is a dict", isinstance(state, dict), True)
    return dict(state)


def _equal(
    ask: Asking, got: Mapping[str, Tensor], want: Mapping[str, Tensor], nth: int = 0
) -> None:
    ask.see("keys", sorted(map(str, got)), sorted(want), 0)
    for name, value in want.items():
        ask.near(f"{name} - its value", got[name], value, 0.0, nth)


def lora_roundtrip_state_holds_exactly_A_and_B(ask: Asking) -> None:
    model = models.wrapped(ask)
    ask.w.do(model.it.requires_grad_(False))  # an adapter at rest is an adapter too
    state, there = _state(ask, model.it), ask.w.ask(ask.kit.values(model.it))
    _equal(ask, state, {name: there.get(name, want) for name, want in model.state.items()}, 1)
    for name, sent in model.state.items():
        ask.near(f"{name} - what was put there", state[name], sent, 1e-5, 1)


def lora_roundtrip_state_is_not_fooled_by_names(ask: Asking) -> None:
    tree = trees.tree(ask)
    ask.see("before wrapping", sorted(_state(ask, tree.it)), [])
    wrap = ask.star("wrap_minigpt_with_lora")
    ask.w.do(wrap(tree.it, r=2, target_modules=tree.targets))
    want = sorted(f"{name}.{which}" for name in tree.matches for which in models.FACTORS)
    ask.see("keys", sorted(_state(ask, tree.it)), want)


def lora_roundtrip_state_is_detached_copies(ask: Asking) -> None:
    model = models.wrapped(ask)
    state = ask.w.keep(ask.star("lora_state_dict")(model.it))
    found, grads = ask.w.ask((state, [ask.kit.flag(state[n]) for n in model.state]))
    kept = dict(found)
    ask.see("requires_grad", grads, [False] * len(model.state))
    for name in model.factors:
        layer = model.it.get_submodule(name)
        ask.w.do(ask.kit.add(layer.lora_A, 1.0))
        ask.w.do(ask.kit.add(layer.lora_B, 1.0))
    _equal(ask, dict(ask.w.ask(state)), kept)


# --- C2: strict, all or nothing -------------------------------------------------------------------


def _load(ask: Asking, model: Expr, state: Mapping[str, Tensor]) -> Expr:
    return ask.star("load_lora_state_dict")(model, dict(state))


def _all_refused(
    ask: Asking, model: models.Model, bad: Sequence[tuple[str, Expr, tuple[str, ...]]]
) -> None:
    """Each load raises and names its entries, and after them all the model is what it was."""
    was = trees.before(ask, model.it)
    load = ask.star("load_lora_state_dict")
    calls = [(what, load(model.it, state), words) for what, state, words in bad]
    ask.all_refused(calls, REFUSED)
    ask.see("changed", trees.changes(ask, was), [], 1)


def _other(ask: Asking, model: models.Model) -> dict[str, Tensor]:
    """Another adapter's state for the same model, by the keys and shapes of its own."""
    own = _state(ask, model.it)
    return {str(name): ask.randn(*value.shape) for name, value in own.items()}


def lora_roundtrip_load_names_missing_and_unexpected(ask: Asking) -> None:
    model = models.wrapped(ask)
    other = _other(ask, model)
    good, merged = ask.w.keep(other), ask.kit.merged
    lost = tuple(ask.rng.sample(sorted(other), 2))
    strangers = {"stranger.lora_A": ask.randn(2, 3), "lm_head.weight": ask.randn(2)}
    bad = [
        ("a state without two entries", merged(good, {}, lost), lost),
        ("a state with two more", merged(good, strangers), tuple(strangers)),
        ("an empty state", merged({}, {}), tuple(sorted(other))),
    ]
    _all_refused(ask, model, bad)


def _one_of_each(ask: Asking, state: Mapping[str, Tensor]) -> list[str]:
    """The name of an A and that of a B."""
    found = [[n for n in state if n.endswith(which)] for which in models.FACTORS]
    ask.see("A and B in the state", [bool(names) for names in found], [True, True])
    return [ask.rng.choice(names) for names in found]


def lora_roundtrip_load_rejects_a_wrong_shape(ask: Asking) -> None:
    model = models.wrapped(ask)
    other, bad = _other(ask, model), []
    good = ask.w.keep(other)
    for name in _one_of_each(ask, other):
        rows, columns = other[name].shape
        shapes = ((1, columns), (rows, 1), (columns, rows), (rows * columns,), (rows + 1, columns))
        for shape in shapes:
            state = ask.kit.merged(good, {name: ask.randn(*shape)})
            bad.append((f"{shape} for {(rows, columns)}", state, (name,)))
    _all_refused(ask, model, bad)


def lora_roundtrip_load_rejects_values_that_are_not_finite(ask: Asking) -> None:
    model = models.wrapped(ask)
    other, bad = _other(ask, model), []
    good = ask.w.keep(other)
    for name in _one_of_each(ask, other):
        for value in (float("nan"), float("inf"), float("-inf")):
            poisoned = other[name].clone()
            poisoned[tuple(ask.rng.randrange(n) for n in poisoned.shape)] = value
            bad.append((f"{value} in {name}", ask.kit.merged(good, {name: poisoned}), (name,)))
    _all_refused(ask, model, bad)


def lora_roundtrip_load_keeps_parameters_and_flags(ask: Asking) -> None:
    model = models.net(ask, dtype="float32")
    names = model.wrap(r=2, target_modules=("q_proj", "mlp.fc2"))
    model.fill(names, 8.0)
    resting = ask.rng.choice(names)
    ask.w.do(model.it.get_submodule(resting).requires_grad_(False))
    members = ask.w.keep(ask.kit.members(model.it))
    rows = ask.w.ask(ask.kit.params(model.it))
    state = dict(reversed(_other(ask, model).items()))  # names count, not their order
    ask.w.do(_load(ask, model.it, state))
    kit, it = ask.kit, model.it
    same, now, values = ask.w.ask((kit.unmoved(members, it), kit.params(it), kit.values(it)))
    ask.see("the same Parameters", same, True)
    ask.see("replaced or changed", [new[0] for new in now if new not in rows], [])
    for name, value in state.items():
        ask.near(f"{name} - loaded", values.get(name), value.float(), 0.0, 1)


def lora_roundtrip_load_leaves_the_optimiser_valid(ask: Asking) -> None:
    model = models.wrapped(ask)
    layers_there = [ask.w.keep(model.it.get_submodule(name)) for name in model.factors]
    trained = ask.w.keep([p for m in layers_there for p in (m.lora_A, m.lora_B)])
    state = _other(ask, model)
    there = ask.w.keep({n: ask.torch.clone(v) for n, v in state.items()})
    ask.w.do(ask.star("load_lora_state_dict")(model.it, there))
    x = model.input()
    G = ask.randn(*model.out(x).shape)
    ask.w.do(ask.kit.backward(model.it(x), G))
    ask.w.do(ask.kit.step(trained, 0.5))
    values = ask.w.ask(ask.kit.values(model.it))
    still = [n for n, v in state.items() if n.endswith("lora_B") and torch.equal(values[n], v)]
    ask.see("unmoved by the optimiser", still, [])
    _equal(ask, dict(ask.w.ask(there)), state)


# --- C3: there and back ---------------------------------------------------------------------------


def lora_roundtrip_through_a_file_into_a_fresh_model(ask: Asking) -> None:
    model, far = models.wrapped(ask), ask.another()
    state = _state(ask, model.it)
    fresh = models.net(ask, worker=far, values=model.values)
    r = next(iter(model.factors.values()))[0].shape[0]
    options = {"r": r, "alpha": r * model.scale, "target_modules": ("q_proj", "mlp.fc2")}
    far.do(ask.star("wrap_minigpt_with_lora")(fresh.it, **options))
    far.do(_load(ask, fresh.it, state))
    x = model.input()
    want = ask.w.tensor(model.it.eval()(x))
    bare = models.Net(ask, model.it, model.values)
    bare.order = model.order
    off = gap(want, bare.out(x))
    ask.hold(off > 1e-6, f"model(x) - base model(x) = {off:.3g}", "> 0")
    got, rows = far.ask((fresh.it.eval()(x), ask.kit.params(fresh.it)))
    ask.near("fresh(x) - trained(x)", got, want, 1e-10)
    trains = {row[0] for row in rows if row[4]}
    ask.see("requires_grad after the load", trains, set(model.state), 1)


def lora_roundtrip_touches_only_the_adapters(ask: Asking) -> None:
    model = models.wrapped(ask)
    state = _other(ask, model)
    was = ask.w.ask(ask.kit.values(model.it))
    ask.w.do(_load(ask, model.it, state))
    now = ask.w.ask(ask.kit.values(model.it))
    for name, value in was.items():
        ask.near(f"{name} after the load", now.get(name), state.get(name, value), 0.0)
    _equal(ask, _state(ask, model.it), state, 1)


def lora_roundtrip_of_a_shared_module(ask: Asking) -> None:
    shared, last = ask.linear((6, 6)), ask.linear((4, 6))
    names = ["left.q_proj", "right.q_proj", "last.q_proj"]
    model = ask.w.keep(ask.kit.Net(names, [shared.it, shared.it, last.it]))
    source = ask.w.keep(ask.kit.deepcopy(model))
    wrap = ask.star("wrap_minigpt_with_lora")
    for each in (model, source):
        ask.w.do(wrap(each, r=2, alpha=3.0, target_modules=("q_proj",), dropout=0.0))
    for which, (d_out, d_in) in (("left", (6, 6)), ("last", (4, 6))):
        layer = getattr(source, which)["q_proj"]
        ask.w.do(ask.kit.fill(layer, ask.randn(2, d_in), ask.randn(d_out, 2)))
    ask.w.do(ask.star("load_lora_state_dict")(model, ask.star("lora_state_dict")(source)))
    x = ask.randn(4, 6)
    got, want = ask.w.ask((model(x), source(x)))
    ask.near("target(x) - source(x)", got, want, 1e-11)
