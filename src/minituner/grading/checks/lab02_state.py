"""Lab 02, tasks D1 to D4: does a state fit, and checkpoints taken and put back.

Leaves out: the run that goes on from one (lab02_resume.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minituner.grading.checks.asking import Asking, gap, plain, words
from minituner.grading.checks.lab02_asking import (
    KIT,
    REFUSED,
    STATE,
    VOCAB,
    Loop,
    differ,
    listed,
    loop,
    wrong,
)
from minituner.grading.expr import Expr, tried
from minituner.grading.peer import Raised

# --- D1 and D2: a state and a model ---------------------------------------------------------------


class Mixed:
    """A model there with two adapters under fresh names, a frozen one, and a state that fits."""

    def __init__(self, ask: Asking) -> None:
        root, inner, up, base, self.other = words(ask, 5)
        self.flat, self.deep, self.frozen = root, f"{inner}.{up}.weight", f"{base}.weight"
        self.start = {self.flat: ask.randn(2, 3), self.deep: ask.randn(4, 2)}
        self.state = {name: ask.randn(*value.shape) for name, value in self.start.items()}
        rows = [(name, value, True) for name, value in self.start.items()]
        rows.append((self.frozen, ask.randn(4, 3), False))
        self.it = ask.w.keep(KIT.tree(rows, {}))

    def but(self, less: str = "", **more: Tensor) -> dict[str, Tensor]:
        """The state without an entry."""
        return {name: value for name, value in self.state.items() if name != less} | more


def adapt_resume_check_takes_what_fits(ask: Asking) -> None:
    mixed = Mixed(ask)
    call = ask.star("check_adapters")(mixed.it, mixed.state)
    said = ask.w.refusal(call, *REFUSED)
    ask.hold(said is None, f"its own names and shapes -> {said!r}", "None")


def adapt_resume_check_names_every_misfit(ask: Asking) -> None:
    mixed = Mixed(ask)
    missing, unexpected, shaped = mixed.deep, f"{mixed.other}.weight", mixed.flat
    state = mixed.but(missing) | {unexpected: ask.randn(4, 2), shaped: ask.randn(1, 3)}
    call = ask.star("check_adapters")(mixed.it, state)
    said = ask.w.refusal(call, *STATE)
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": shaped}
    silent = [kind for kind, name in kinds.items() if name not in str(said)]
    told = "accepted" if said is None else f"not named: {silent}"
    want = "ValueError: missing, unexpected, of another shape"
    ask.hold(said is not None and not silent, told, want)


def adapt_resume_check_looks_at_each_kind_alone(ask: Asking) -> None:
    mixed = Mixed(ask)
    cases = [
        ("missing", mixed.flat, mixed.but(mixed.flat)),
        ("unexpected", mixed.frozen, mixed.state | {mixed.frozen: ask.randn(4, 3)}),
        ("of another shape", mixed.deep, mixed.state | {mixed.deep: ask.randn(2, 4)}),
    ]
    check = ask.star("check_adapters")
    ask.all_refused([(kind, check(mixed.it, s), (name,)) for kind, name, s in cases], STATE)


def adapt_resume_load_copies_into_the_parameters(ask: Asking) -> None:
    mixed = Mixed(ask)
    before = ask.w.keep(ask.kit.members(mixed.it))
    state = ask.w.keep(mixed.state)
    ask.w.do(ask.star("load_adapters")(mixed.it, state))
    for name in mixed.state:
        ask.w.do(ask.kit.add(state[name], 1.0))
    told = (ask.kit.values(mixed.it), ask.kit.unmoved(before, mixed.it), ask.kit.params(mixed.it))
    values, same, rows = ask.w.ask(told)
    far = max(gap(values.get(name), value) for name, value in mixed.state.items())
    trained = {row[0] for row in rows if row[4]}
    got = (far, same, trained == set(mixed.state))
    ask.see("max|parameter - state|, the same Parameters, and flags", got, (0.0, True, True))


def adapt_resume_load_refuses_before_it_writes(ask: Asking) -> None:
    mixed = Mixed(ask)
    cases = [
        ("another shape", mixed.deep, mixed.state | {mixed.deep: ask.randn(1, 2)}),
        ("unexpected", mixed.other, mixed.state | {mixed.other: ask.randn(1)}),
        ("missing", mixed.deep, mixed.but(mixed.deep)),
    ]
    load = ask.star("load_adapters")
    ask.all_refused([(kind, load(mixed.it, s), (name,)) for kind, name, s in cases], STATE)
    values = ask.w.ask(ask.kit.values(mixed.it))
    moved = [gap(values.get(name), value) for name, value in mixed.start.items()]
    ask.see("changes of the model", moved, [0.0, 0.0])


# --- D3: a checkpoint -----------------------------------------------------------------------------

KEYS = ("adapters", "batch_rng", "best", "kept", "optimizer", "since", "step", "torch_rng")


def _own(ask: Asking, speed: Tensor | None) -> dict[str, Any]:
    """A checkpoint of the judge's, for another moment than a new run's."""
    rngs = [torch.Generator().manual_seed(ask.rng.randrange(2**31)) for _ in range(2)]
    for generator in rngs:  # not as freshly seeded
        torch.rand(ask.rng.randint(1, 9), generator=generator)
    shift, kept = ask.randn(VOCAB, VOCAB), ask.randn(VOCAB, VOCAB)
    state = {} if speed is None else {0: {"momentum_buffer": speed}}
    return {
        "step": ask.rng.randint(9, 30),
        "best": (ask.rng.randint(1, 9) / 10, ask.rng.randint(1, 9) / 10),
        "since": ask.rng.randint(1, 5),
        "kept": {"part.shift": kept},
        "adapters": {"part.shift": shift},
        "optimizer": {
            "state": state,
            "param_groups": [{"params": [0], "lr": ask.rng.randint(1, 99) / 100}],
        },
        "batch_rng": rngs[0].get_state(),
        "torch_rng": rngs[1].get_state(),
    }


def _fill(ask: Asking, of: Loop, state: dict[str, Any]) -> None:
    """Give a run there a checkpoint's values by hand."""
    for field in ("step", "best", "since", "kept"):
        ask.w.do(ask.kit.assign(of.it, field, state[field]))
    held = state["optimizer"]
    ask.w.do(of.optimizer.load_state_dict(ask.kit.deepcopy(held)))
    ask.put(of.shift, state["adapters"]["part.shift"])
    ask.w.do(of.generator.set_state(state["batch_rng"]))
    ask.w.do(ask.torch.default_generator.set_state(state["torch_rng"]))


def adapt_resume_checkpoint_holds_all_there_is(ask: Asking) -> None:
    of, want = loop(ask, mu=0.9), _own(ask, ask.randn(VOCAB, VOCAB))
    _fill(ask, of, want)
    got = ask.w.ask(KIT.through_file(ask.star("checkpoint")(of.it)))
    ask.see("not in the checkpoint as the run has it", differ(got, want), [])


def adapt_resume_checkpoint_does_not_train_along(ask: Asking) -> None:
    of, want = loop(ask, mu=0.9), _own(ask, ask.randn(VOCAB, VOCAB))
    _fill(ask, of, want)
    state = ask.w.keep(ask.star("checkpoint")(of.it))
    for tensor in (of.shift, of.optimizer.speeds[0]):
        ask.w.do(ask.kit.add(tensor, 1.0))
    ask.w.do(ask.kit.assign(of.it, "step", 99))
    ask.w.do(ask.kit.assign(of.it, "kept", {}))
    ask.w.do(ask.torch.rand(3))
    ask.w.do(ask.torch.rand(3, generator=of.generator))
    ask.see("changed with the run", differ(ask.w.ask(state), want), [])


def adapt_resume_checkpoint_changes_nothing(ask: Asking) -> None:
    of = loop(ask)
    before = ask.w.keep(KIT.luck(of.generator))
    ask.w.do(ask.star("checkpoint")(of.it))
    told = (of.now(ask), before, KIT.luck(of.generator), of.it.step)
    shift, was, luck, step = ask.w.ask(told)
    facts = {
        "adapters": gap(shift, of.start) == 0.0,
        "a generator": listed(was) == listed(luck),
        "step": plain(step) == 0,
    }
    wrong(ask, "changed", facts)


# --- D4: a checkpoint put back --------------------------------------------------------------------

FIELDS = ("step", "best", "since", "kept")


def _now(ask: Asking, of: Loop) -> Expr:
    """A run's values there as a checkpoint, by the judge's own reading."""
    held: dict[str, object] = {field: getattr(of.it, field) for field in FIELDS}
    held["adapters"] = {"part.shift": of.now(ask)}
    held["optimizer"] = of.optimizer.state_dict()
    held["batch_rng"] = of.generator.get_state()
    held["torch_rng"] = ask.torch.default_generator.get_state()
    return ask.w.keep(ask.kit.deepcopy(held))


def adapt_resume_restore_puts_all_back(ask: Asking) -> None:
    of, want = loop(ask, mu=0.9), _own(ask, ask.randn(VOCAB, VOCAB))
    shift = ask.w.keep(of.shift)
    ask.w.do(ask.star("restore")(of.it, KIT.through_file(want)))
    same = ask.kit.same
    objects = [
        same(of.it.model, of.model),
        same(of.it.optimizer, of.optimizer),
        same(of.it.generator, of.generator),
        same(of.shift, shift),
        same(of.optimizer.param_groups[0]["params"][0], shift),
    ]
    got, kept = ask.w.ask((_now(ask, of), objects))
    found = differ(got, want) + ([] if kept == [True] * 5 else ["objects"])
    ask.see("not as the checkpoint has it", found, [])


def adapt_resume_restore_leaves_the_checkpoint_alone(ask: Asking) -> None:
    of, want = loop(ask, mu=0.9), _own(ask, ask.randn(VOCAB, VOCAB))
    state = ask.w.keep(want)
    ask.w.do(ask.star("restore")(of.it, state))
    for tensor in (of.shift, of.optimizer.speeds[0]):
        ask.w.do(ask.kit.add(tensor, 1.0))
    ask.see("changed in the checkpoint", differ(ask.w.ask(state), want), [])


def adapt_resume_restore_refuses_as_a_whole(ask: Asking) -> None:
    for what in ("adapters", "optimizer"):
        of, state = loop(ask, mu=0.9), _own(ask, None)
        if what == "adapters":
            state["adapters"] = {"part.shift": ask.randn(VOCAB, 1)}
        else:
            state["optimizer"]["param_groups"].append({"params": [1], "lr": 0.5})
        before = _now(ask, of)
        luck = ask.w.keep(KIT.luck(of.generator))
        told = ask.w.keep(tried(ask.star("restore")(of.it, state)))
        after = (told, before, _now(ask, of), luck, KIT.luck(of.generator))
        raised, was, now, luck_was, luck_now = ask.w.ask(after)
        if isinstance(raised, Raised) and not set(STATE) & set(raised.kinds):
            raise raised
        moved = differ(now, was) + ([] if listed(luck_was) == listed(luck_now) else ["luck"])
        said = raised.said if isinstance(raised, Raised) else None
        told_so = f"{what} of another run, changed: {moved} -> {said!r}"
        ask.hold(said is not None and not moved, told_so, "[] -> ValueError")
