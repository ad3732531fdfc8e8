"""Lab 04, block C: after unwrap_merged the very bases stand in their places, updates folded in.

The adapters that it meets are the judge's own (kit_04.Branch).
"""

from __future__ import annotations

from minituner.grading.checks.asking import Asking
from minituner.grading.checks.lab04_asking import (
    KIT,
    TARGETS,
    Model,
    Pairs,
    branched,
    draw_pairs,
    gpt2,
    logits,
    minigpt,
    refused_whole,
    tokens,
    wrong,
)
from minituner.grading.expr import Expr

UNWRAP, SCALE, R = "unwrap_merged", 1.5, 2
PROJECTIONS = ("c_attn", "mlp.c_proj")  # of a GPT-2


def _adapted(ask: Asking, model: Model, ends: tuple[str, ...]) -> tuple[Pairs, Expr]:
    """The adapters' values here, and the adapters there."""
    pairs = draw_pairs(ask, model, R, ends)
    return pairs, branched(ask, model.it, pairs, R * SCALE)


def _both(ask: Asking) -> tuple[tuple[Model, tuple[str, ...]], ...]:
    return (minigpt(ask), TARGETS), (gpt2(ask), PROJECTIONS)


def bridge_unwrap_puts_the_bases_back(ask: Asking) -> None:
    for model, ends in _both(ask):
        names = model.names(ends)
        own = ask.w.keep([model.it.get_submodule(each) for each in names])
        seen = ask.w.keep(ask.kit.modules(model.it))
        _adapted(ask, model, ends)
        ask.w.do(ask.star(UNWRAP)(model.it))
        given = tokens(ask, model)
        fresh = {each: ask.randn(*model.values[f"{each}.weight"].shape) for each in names}
        for i, each in enumerate(names):  # whoever holds the old bases has hold of the model
            ask.w.do(ask.kit.put(own[i].weight, fresh[each]))
        same = [ask.kit.same(model.it.get_submodule(each), own[i]) for i, each in enumerate(names)]
        was, after, told, state, said = ask.w.ask(
            (
                seen,
                ask.kit.modules(model.it),
                same,
                model.it.state_dict(),
                logits(ask, model, given),
            )
        )
        changed = {f"{each}.weight": value for each, value in fresh.items()}
        want = Model(model.it, model.shell, model.values | changed, model.config).out(given)
        facts = {
            "the same modules": told == [True] * len(names),
            "their classes": was == after,
            "keys": list(state) == list(model.shell.state_dict()),
        }
        wrong(ask, "what is not as before", facts)
        ask.near("logits with new values in the old bases, off", said, want, 1e-11)


def bridge_unwrap_keeps_the_function(ask: Asking) -> None:
    for merged_before in (False, True):
        for model, ends in _both(ask):
            pairs, there = _adapted(ask, model, ends)
            given = tokens(ask, model)
            for each in pairs if merged_before else ():
                ask.w.do(there[each].merge_())
            ask.w.do(ask.star(UNWRAP)(model.it))
            said, want = ask.w.ask(logits(ask, model, given)), model.out(given, SCALE, pairs)
            ask.near(f"change of the logits, merged before: {merged_before}", said, want, 1e-11)


def bridge_unwrap_returns_the_names(ask: Asking) -> None:
    model = minigpt(ask, n_layer=11)  # block 10 comes after block 2
    _adapted(ask, model, TARGETS)
    got = ask.w.ask(ask.star(UNWRAP)(model.it))
    ask.see("names", got, model.names(TARGETS))


def bridge_unwrap_wakes_nothing(ask: Asking) -> None:
    model = minigpt(ask)
    ask.w.do(model.it.eval())
    _adapted(ask, model, TARGETS)
    ask.w.do(model.it.requires_grad_(False))
    ask.w.do(ask.star(UNWRAP)(model.it))
    first = model.it.get_submodule(model.names(TARGETS)[0]).weight
    told = (ask.kit.params(model.it), ask.kit.modules(model.it), ask.torch.sum(first).requires_grad)
    rows, modules, one = ask.w.ask(told)
    got = ([row[0] for row in rows if row[4]], one, {row[2] for row in modules})
    ask.see("(trainable, a base's sum, training flags)", got, ([], False, {False}))


def bridge_unwrap_refuses_when_there_is_nothing(ask: Asking) -> None:
    model = minigpt(ask).it
    refused_whole(ask, model, {"a plain model": ask.star(UNWRAP)(model)})


def bridge_unwrap_refuses_a_tied_weight(ask: Asking) -> None:
    headed, model = gpt2(ask), minigpt(ask)
    _adapted(ask, headed, ("c_attn",))
    width = headed.values["transformer.wte.weight"].shape
    head = {"lm_head": (ask.randn(R, width[1]), ask.randn(width[0], R))}
    branched(ask, headed.it, head, R * SCALE)
    first, second = model.names(("q_proj",))
    _adapted(ask, model, ("q_proj",))
    weight = model.it.get_submodule(first).base.weight
    ask.w.do(ask.kit.assign(model.it.get_submodule(second).base, "weight", weight))
    for what, it in {"the head and the embedding": headed.it, "two linears": model.it}.items():
        refused_whole(ask, it, {f"{what} are tied": ask.star(UNWRAP)(it)})


def bridge_unwrap_takes_a_shared_module_at_each_name(ask: Asking) -> None:
    model = minigpt(ask)
    names = model.names(("q_proj",))
    pairs = draw_pairs(ask, model, R, ("0.attn.q_proj",))
    there = branched(ask, model.it, pairs, R * SCALE)
    ask.w.do(KIT.place(model.it, names[1], there[names[0]]))
    given = tokens(ask, model)
    told = ask.w.keep(ask.star(UNWRAP)(model.it))
    got, said = ask.w.ask((told, logits(ask, model, given)))
    shared = model.values | {f"{names[1]}.weight": model.values[f"{names[0]}.weight"]}
    both = dict.fromkeys(names, pairs[names[0]])
    want = Model(model.it, model.shell, shared, model.config).out(given, SCALE, both)
    ask.see("names", got, names)
    ask.near("change of the logits", said, want, 1e-11)
