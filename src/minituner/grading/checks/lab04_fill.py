"""Lab 04, task D3: two files that the judge writes, copied into the adapters of a model.

Leaves out: what a file may say at all (lab04_reading.py).
"""

from __future__ import annotations

from minituner.grading.checks.asking import Asking, gap, words
from minituner.grading.checks.lab04_asking import (
    FILES,
    KIT,
    REFUSED,
    TARGETS,
    Model,
    Pairs,
    branched,
    draw_pairs,
    minigpt,
    other,
    refused_whole,
    same_pairs,
    wrong,
)
from minituner.grading.checks.lab04_bytes import CONFIG, crossing, sent, written
from minituner.grading.expr import Expr, tried
from minituner.grading.peer import Raised

ALPHA = 3.0


def _adapted(ask: Asking) -> tuple[Model, Pairs, Expr]:
    """A model there with adapters of the judge's: their values here, and the adapters there."""
    model = minigpt(ask)
    pairs = draw_pairs(ask, model)
    return model, pairs, branched(ask, model.it, pairs, ALPHA)


def _now(there: Expr, names: Pairs) -> dict[str, tuple[Expr, Expr]]:
    """The factors that are there when this is reached."""
    return {name: (there[name].lora_A, there[name].lora_B) for name in names}


def bridge_folder_fill_keeps_the_parameters_that_are_there(ask: Asking) -> None:
    model, own, there = _adapted(ask)
    ask.w.do(model.it.float())
    held = ask.w.keep(_now(there, own))
    pairs = draw_pairs(ask, model)
    ask.w.do(ask.star("fill")(model.it, sent(written(pairs, ALPHA))))
    now = [(name, i, pair[i]) for name, pair in _now(there, own).items() for i in (0, 1)]
    sums = [ask.torch.sum(each).requires_grad for _, _, each in now]
    same = [ask.kit.same(each, held[name][i]) for name, i, each in now]
    bases = {name: there[name].base.weight for name in own}
    got, learnt, kept, weights = ask.w.ask((held, sums, same, bases))
    wanted = {name: (a.float(), b.float()) for name, (a, b) in pairs.items()}
    facts = {
        "values, in the model's dtype": same_pairs(got, wanted),
        "Parameters": kept == [True] * len(kept),
        "they train": learnt == [True] * len(learnt),
        "bases": all(
            gap(weights[name], model.values[f"{name}.weight"].float()) == 0.0 for name in own
        ),
    }
    wrong(ask, "what is not so", facts)


def bridge_folder_fill_refuses_another_models_adapter(ask: Asking) -> None:
    model, own, there = _adapted(ask)
    width = model.sizes("blocks.0.mlp.fc1")[1]
    wide, deep = other(model, d_ff=width + 2), other(model, n_layer=3)
    more = (*TARGETS, "v_proj")
    fill = ask.star("fill")
    cases = {
        "fewer targets": written(draw_pairs(ask, model, 2, ("q_proj",)), ALPHA, ("q_proj",)),
        "more targets": written(draw_pairs(ask, model, 2, more), ALPHA, more),
        "another r": written(draw_pairs(ask, model, 3), 4.5),
        "another alpha": written(draw_pairs(ask, model), 2 * ALPHA),
        "another width": written(draw_pairs(ask, wide), ALPHA),
        "another depth": written(draw_pairs(ask, deep), ALPHA),
    }
    refused_whole(ask, model.it, {k: fill(model.it, sent(v)) for k, v in cases.items()}, FILES)
    for name in own:  # as rsLoRA has one
        ask.w.do(ask.kit.assign(there[name], "scaling", 0.5))
    last = fill(model.it, sent(written(draw_pairs(ask, model), ALPHA)))
    refused_whole(ask, model.it, {"another scaling": last}, FILES)


def bridge_folder_fill_refuses_what_is_not_finite_here(ask: Asking) -> None:
    model, own, _ = _adapted(ask)
    ask.w.do(model.it.half())
    things = {}
    for name, part in ((name, part) for name in own for part in (0, 1)):
        pairs = draw_pairs(ask, model)
        value, sign = pairs[name][part], ask.rng.choice((-1.0, 1.0))
        spot = ask.rng.randrange(value.shape[0]), ask.rng.randrange(value.shape[1])
        value[spot] = sign * ask.rng.uniform(1e5, 1e6)  # float16 ends at 65 504
        call = ask.star("fill")(model.it, sent(written(pairs, ALPHA)))
        things[f"{value[spot]:.0f} into float16, {'AB'[part]} of {name}"] = call
    refused_whole(ask, model.it, things, REFUSED)


def bridge_folder_fill_from_disk(ask: Asking) -> None:
    model, own, there = _adapted(ask)
    pairs, place = draw_pairs(ask, model), words(ask, 1)[0]
    for name, content in written(pairs, ALPHA).items():
        ask.w.do(KIT.lay(place, name, crossing(content)))
    load = ask.star("load_adapter")
    ask.w.do(load(model.it, place))
    got = ask.w.keep({name: list(pair) for name, pair in _now(there, own).items()})
    ask.w.do(KIT.lift(place, CONFIG))
    values, raised = ask.w.ask((got, tried(load(model.it, place))))
    if isinstance(raised, Raised) and not {*FILES, "OSError"} & set(raised.kinds):
        raise raised
    told = (same_pairs(values, pairs), raised is not None)
    ask.see(f"(values as in the folder, refused without {CONFIG})", told, (True, True))
