"""Lab 04, task A4: which modules of a GPT-2 are wrapped, what trains then, and what is refused."""

from __future__ import annotations

import torch

from minituner.grading.checks.asking import Asking, words
from minituner.grading.checks.lab04_asking import (
    KIT,
    REFUSED,
    conv1d,
    gpt2,
    logits,
    refused_whole,
    tokens,
)
from minituner.grading.checks.layers import learns, size, trainable
from minituner.grading.expr import Expr

WRAP = "wrap_gpt2_with_lora"
GPT2_SMALL = 124_439_808  # parameters
WIDTHS = {"attn.c_attn": 768 + 2304, "attn.c_proj": 1536, "mlp.c_fc": 3840, "mlp.c_proj": 3840}
SETS = (("c_attn",), ("c_attn", "attn.c_proj"), ("c_attn", "c_proj"), ("c_proj",))


def _first(ask: Asking, model: Expr) -> tuple[int, int]:
    """(trainable, frozen) parameters, each counted once."""
    rows = [row for row in ask.w.ask(ask.kit.params(model)) if row[0] == row[6]]
    trains = sum(size(row) for row in rows if row[4])
    return trains, sum(map(size, rows)) - trains


def bridge_conv1d_wrap_counts_gpt2_small(ask: Asking) -> None:
    r = ask.rng.randint(2, 6)
    for targets in SETS:
        model = ask.w.keep(ask.given("gpt2.hollow_gpt2")())
        ask.w.do(ask.star(WRAP)(model, list(targets), r=r))
        width = sum(n for end, n in WIDTHS.items() if f".{end}".endswith(_ends(targets)))
        got, want = _first(ask, model), (12 * r * width, GPT2_SMALL)
        ask.see(f"(trainable, frozen) of {targets} at r = {r}", got, want)


def _ends(targets: tuple[str, ...]) -> tuple[str, ...]:
    return tuple("." + target for target in targets)


def bridge_conv1d_wrap_refuses_what_matches_nothing(ask: Asking) -> None:
    model, other = gpt2(ask).it, words(ask, 1)[0]
    sets: tuple[list[str], ...] = (
        [other],
        ["c_attn", other],
        ["attn_c"],
        ["proj"],
        ["lm_head"],
        ["c_attn", "ln_1"],
        [],
    )
    things = {f"{targets}": ask.star(WRAP)(model, targets) for targets in sets}
    refused_whole(ask, model, things, ("ValueError",))


def bridge_conv1d_wrap_names_the_target_that_misses(ask: Asking) -> None:
    other = words(ask, 1)[0]
    said = ask.w.refusal(ask.star(WRAP)(gpt2(ask).it, ["c_attn", other]), *REFUSED)
    got = (other in str(said), "c_attn" in str(said))
    ask.hold(got == (True, False), f"message = {said!r}", f"with {other}, without c_attn")


def bridge_conv1d_wrap_returns_the_names(ask: Asking) -> None:
    depth = ask.rng.choice((11, 12))  # block 10 comes after block 2
    got = ask.w.ask(ask.star(WRAP)(gpt2(ask, n_layer=depth).it, ["c_fc", "attn.c_proj"], r=1))
    ends = ("attn.c_proj", "mlp.c_fc")
    ask.see("names", got, [f"transformer.h.{i}.{end}" for i in range(depth) for end in ends])


def bridge_conv1d_wrap_keeps_the_function_and_the_mode(ask: Asking) -> None:
    model = gpt2(ask)
    given = tokens(ask, model)
    ask.w.do(model.it.eval())
    first = logits(ask, model, given)
    ask.w.do(ask.star(WRAP)(model.it, ["c_attn", "c_proj"], r=3, dropout=0.5))
    told = (first, logits(ask, model, given), ask.kit.modules(model.it))
    was, now, rows = ask.w.ask(told)
    ask.near("logits before - the closed form", was, model.out(given), 1e-11)
    ask.near("change of the logits", now, was, 0.0)
    ask.see("training flags", {row[2] for row in rows}, {False})


def bridge_conv1d_wrap_trains_nothing_else(ask: Asking) -> None:
    model = gpt2(ask)
    names = [f"{name}.lora_{part}" for name in model.names(("c_attn",)) for part in "AB"]
    ask.w.do(ask.star(WRAP)(model.it, ["c_attn"], r=2))
    wte, first = model.it.transformer.wte.weight, model.it.transformer.h[0]
    tied = ask.kit.same(model.it.lm_head.weight, wte)
    fixed = learns(ask, wte, first.ln_1.weight, first.mlp.c_fc.weight, first.attn.c_attn.base.bias)
    rows, one = ask.w.ask((ask.kit.params(model.it), tied))
    got = (sorted(row[0] for row in rows if row[4]), one, fixed)
    ask.see("(what trains, head tied, sums)", got, (sorted(names), True, [False] * 4))


def bridge_conv1d_wrap_nests_nothing(ask: Asking) -> None:
    model, wrap = gpt2(ask), ask.star(WRAP)
    ask.w.do(wrap(model.it, ["c_attn"], r=2))
    said = ask.w.refusal(wrap(model.it, ["c_attn"]), *REFUSED)
    kind = ask.star("LoRAConv1D")
    names, found = ask.w.ask((wrap(model.it, ["c_fc"], r=2), ask.kit.instances(model.it, kind)))
    got = (said is not None, names, found)
    ends = ("c_attn", "c_fc")
    want = (True, model.names(("c_fc",)), sorted(model.names(ends)))
    ask.see("(refused, names of the second wrap, adapters)", got, want)


def bridge_conv1d_wrap_leaves_older_adapters_as_they_are(ask: Asking) -> None:
    model, wrap = gpt2(ask), ask.star(WRAP)
    ask.w.do(wrap(model.it, ["c_attn"], r=2))
    names = model.names(("c_attn",))
    ask.rng.shuffle(names)
    asleep, awake = names
    ask.w.do(model.it.get_submodule(asleep).requires_grad_(False))
    ask.w.do(wrap(model.it, ["c_fc"], r=2))
    got = trainable(ask, model.it)
    train = [awake, *model.names(("c_fc",))]
    ask.see("what trains", got, {f"{name}.lora_{part}" for name in train for part in "AB"})


def bridge_conv1d_wrap_gives_each_what_it_was_given(ask: Asking) -> None:
    model, r, scale, p = gpt2(ask), 3, ask.rng.choice((0.75, 2.0)), 0.75
    options = {"r": r, "alpha": r * scale, "dropout": p}
    ask.w.do(ask.star(WRAP)(model.it, ["c_attn", "c_fc"], **options))
    names, width = model.names(("c_attn", "c_fc")), model.values["transformer.wpe.weight"].shape[1]
    x = torch.eye(width, dtype=torch.float64).repeat(100, 1)  # a row has one 1: kept, or not
    looks = []
    for name in names:
        layer = ask.w.keep(model.it.get_submodule(name))
        for param in (layer.lora_A, layer.lora_B):
            ask.w.do(ask.kit.put(param, ask.torch.ones_like(param)))
        looks.append((layer.r, layer.alpha, layer.scaling, ask.kit.run(layer, x, False)))
    for name, (*fields, y) in zip(names, ask.w.ask(looks), strict=True):
        plain = x @ model.values[f"{name}.weight"] + model.values[f"{name}.bias"]
        dropped = (y - plain).abs().amax(-1).lt(1e-6).double().mean().item()
        told = f"(r, alpha, scaling, share of inputs dropped) of {name} = {(*fields, dropped)}"
        right = fields == [r, r * scale, scale] and 0.6 < dropped < 0.9
        ask.hold(right, told, f"{(r, r * scale, scale, p)}")


def bridge_conv1d_wrap_takes_another_packages_conv1d(ask: Asking) -> None:
    model, r = gpt2(ask), ask.rng.randint(2, 4)
    names = model.names(("c_attn",))
    width = model.sizes(names[0])
    for name in names:
        ask.w.do(KIT.place(model.it, name, conv1d(ask, width, foreign=True).it))
    got = ask.w.ask(ask.star(WRAP)(model.it, ["c_attn"], r=r))
    ask.see("(names, trainable)", (got, _first(ask, model.it)[0]), (names, 2 * r * sum(width)))


def bridge_conv1d_wrap_takes_a_shared_module_once(ask: Asking) -> None:
    model = gpt2(ask)
    names = model.names(("c_attn",))
    ask.w.do(KIT.place(model.it, names[1], model.it.get_submodule(names[0])))
    got = ask.w.keep(ask.star(WRAP)(model.it, ["c_attn"], r=2))
    kind, (one, two) = ask.star("LoRAConv1D"), (model.it.get_submodule(name) for name in names)
    told, found, same = ask.w.ask((got, ask.kit.instances(model.it, kind), ask.kit.same(one, two)))
    ask.see("(names, adapters, one under both)", (told, found, same), (names, names, True))
