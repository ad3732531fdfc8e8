"""Lab 04, task D1: PEFT's two files, as bytes that the judge reads itself.

Leaves out: reading and filling (lab04_reading.py).
"""

from __future__ import annotations

import torch

from minituner.grading.checks.asking import Asking, words
from minituner.grading.checks.lab04_asking import (
    ALPHAS,
    KIT,
    TARGETS,
    Model,
    Pairs,
    all_refused,
    branched,
    conv1d,
    draw_pairs,
    gpt2,
    minigpt,
)
from minituner.grading.checks.lab04_bytes import (
    CONFIG,
    PREFIX,
    WEIGHTS,
    alike,
    config,
    keyed,
    unpacked,
)
from minituner.grading.expr import Expr

FILES = sorted((CONFIG, WEIGHTS))


def _adapted(
    ask: Asking, model: Model, ends: tuple[str, ...] = TARGETS, r: int = 2, alpha: float = 3.0
) -> tuple[Pairs, Expr]:
    """The adapters' values here, and the adapters there."""
    pairs = draw_pairs(ask, model, r, ends)
    return pairs, branched(ask, model.it, pairs, alpha)


def _files(ask: Asking, model: Model, *more: object) -> Expr:
    """What adapter_files makes there, on its way here."""
    return KIT.raw(ask.star("adapter_files")(model.it, *more))


def bridge_folder_files_have_pefts_keys(ask: Asking) -> None:
    for dtype in (torch.float64, torch.bfloat16):
        model, r = minigpt(ask), ask.rng.randint(1, 3)
        pairs, _ = _adapted(ask, model, TARGETS, r)
        ask.w.do(model.it.to(getattr(ask.torch, str(dtype).removeprefix("torch."))))
        told = ask.w.ask(_files(ask, model))
        found, want = unpacked(told), {k: v.to(dtype) for k, v in keyed(pairs).items()}
        got = (sorted(told), alike(found, want))
        ask.see(f"(files, keys that are not as they should be), {dtype}", got, (FILES, []))


def bridge_folder_files_say_all(ask: Asking) -> None:
    model, r, alpha = minigpt(ask), ask.rng.randint(1, 5), ask.rng.choice((1.5, 12.0, 32.0))
    base = "/".join(words(ask, 2))
    _adapted(ask, model, TARGETS, r, alpha)
    told = config(ask.w.ask(_files(ask, model, base)))
    want = {"peft_type": "LORA", "r": r, "lora_alpha": alpha, "bias": "none"}
    want |= {"fan_in_fan_out": False, "base_model_name_or_path": base}
    got = {key: told.get(key, "missing") for key in want}
    ask.hold(got == want, f"settings = {got!s:.300}", f"{want}")


def bridge_folder_files_target_what_is_adapted(ask: Asking) -> None:
    for model, ends in ((minigpt(ask), TARGETS), (gpt2(ask), ("attn.c_proj",))):
        pairs, _ = _adapted(ask, model, ends)
        targets = config(ask.w.ask(_files(ask, model))).get("target_modules")
        right = isinstance(targets, list) and all(isinstance(each, str) for each in targets)
        ask.hold(right, f"target_modules = {targets!r:.200}", "names")
        names = [name for name, _ in model.shell.named_modules()]
        hits = {t: [n for n in names if n == t or n.endswith("." + t)] for t in targets or ()}
        got = (sorted({n for hit in hits.values() for n in hit}), [t for t in hits if not hits[t]])
        ask.see("(hit, targets that hit nothing)", got, (sorted(pairs), []))


def bridge_folder_files_say_which_way_round(ask: Asking) -> None:
    for foreign in (False, True):
        model, r = gpt2(ask), ask.rng.randint(1, 3)
        names = model.names(("c_fc",))
        for name in names if foreign else ():
            ask.w.do(KIT.place(model.it, name, conv1d(ask, model.sizes(name), foreign=True).it))
        _adapted(ask, model, ("c_fc",), r)
        told = ask.w.ask(_files(ask, model))
        A = unpacked(told).get(f"{PREFIX}{names[0]}.lora_A.weight")
        got = (config(told).get("fan_in_fan_out"), None if A is None else list(A.shape))
        what = f"(fan_in_fan_out, shape of an A), {'another package' if foreign else 'our own'}"
        ask.see(what, got, (True, [r, model.sizes(names[0])[0]]))


def bridge_folder_files_refuse_what_one_config_cannot_say(ask: Asking) -> None:
    mixed, plain = gpt2(ask), minigpt(ask)
    _adapted(ask, mixed, ("c_attn",))
    rows, columns = mixed.values["transformer.wte.weight"].shape
    branched(ask, mixed.it, {"lm_head": (ask.randn(2, columns), ask.randn(rows, 2))}, 3.0)
    things = {"no adapters": plain, "a Conv1D and a linear": mixed}
    for what, fields in {
        "two ranks": {"r": 3, "scaling": 1.0},
        "two alphas": {"alpha": 4.0, "scaling": 2.0},
        "another scaling": {"scaling": ask.rng.choice((0.5, 3.0))},
    }.items():
        things[what] = minigpt(ask)
        pairs, there = _adapted(ask, things[what])
        names = list(pairs)
        for name in names if what == "another scaling" else [ask.rng.choice(names)]:
            for field, value in fields.items():
                ask.w.do(ask.kit.assign(there[name], field, value))
    made = ask.star("adapter_files")
    all_refused(ask, {what: made(model.it) for what, model in things.items()})


def bridge_folder_files_have_a_shared_adapter_at_each_name(ask: Asking) -> None:
    model = minigpt(ask)
    names = model.names(("q_proj",))
    pairs, there = _adapted(ask, model, ("0.attn.q_proj",))
    ask.w.do(KIT.place(model.it, names[1], there[names[0]]))
    found = unpacked(ask.w.ask(_files(ask, model)))
    want = keyed(dict.fromkeys(names, pairs[names[0]]))
    ask.see("keys that are not as they should be", alike(found, want), [])


def bridge_folder_files_on_disk_are_two(ask: Asking) -> None:
    place, beside = "/".join(words(ask, 2)), "README.md"
    text = ask.randn(1).to(torch.uint8)
    for _ in range(2):
        model, alpha = minigpt(ask), ask.rng.choice(ALPHAS)
        pairs, _ = _adapted(ask, model, alpha=alpha)
        ask.w.do(ask.star("save_adapter")(model.it, place))
        ask.w.do(KIT.lay(place, beside, text))
    told, folders = ask.w.ask((KIT.on_disk(place), KIT.folders(place.partition("/")[0])))
    ask.see("(folders, files)", (folders, sorted(told)), ([place], sorted((*FILES, beside))))
    settings = config(told)
    got = (settings.get("r"), settings.get("lora_alpha"), alike(unpacked(told), keyed(pairs)))
    ask.see("(r, lora_alpha, keys that are not as they should be)", got, (2, alpha, []))
    ask.near(f"{beside} changed", told[beside], text, 0.0)
