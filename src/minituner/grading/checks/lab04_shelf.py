"""Lab 04, tasks E2 to E4: attach, switch and detach.

Leaves out: what the rows then get (lab04_several.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from minituner.grading.checks.asking import Asking, gap, words
from minituner.grading.checks.lab04_asking import (
    FILES,
    REFUSED,
    TARGETS,
    all_refused,
    draw_pairs,
    gpt2,
    logits,
    minigpt,
    other,
    same_pairs,
    tokens,
)
from minituner.grading.checks.lab04_bytes import sent, written
from minituner.grading.checks.lab04_several import OTHERS, Held, choose, shelf_of, two
from minituner.grading.expr import Expr, tried

# --- E2: attach -----------------------------------------------------------------------------------


def _attach(ask: Asking, shelf: Expr, name: str, one: Held, ends: Sequence[str] = TARGETS) -> Expr:
    r = len(next(iter(one.pairs.values()))[0])
    return ask.star("attach")(shelf, name, sent(written(one.pairs, one.scaling * r, ends)))


def bridge_several_attach_holds_what_the_files_say(ask: Asking) -> None:
    model = minigpt(ask)
    ask.w.do(model.it.float())
    shelf, held = shelf_of(ask, model, {}), two(ask, model)
    for (name, one), ends in zip(held.items(), (TARGETS, OTHERS), strict=True):
        ask.w.do(_attach(ask, shelf, name, one, ends))
    looks = {name: (shelf.held[name].scaling, shelf.held[name].pairs) for name in held}
    for name, (scaling, pairs) in ask.w.ask(looks).items():
        want = {path: (a.float(), b.float()) for path, (a, b) in held[name].pairs.items()}
        got = (scaling, same_pairs(pairs, want))
        ask.see("(scaling, pairs as written)", got, (held[name].scaling, True))


def bridge_several_attach_changes_nothing_yet(ask: Asking) -> None:
    model = minigpt(ask)
    given, one = tokens(ask, model), Held(1.5, draw_pairs(ask, model))
    first, keys = logits(ask, model, given), ask.w.keep(ask.kit.params(model.it))
    shelf = shelf_of(ask, model, {})
    ask.w.do(_attach(ask, shelf, words(ask, 1)[0], one))
    told = (first, keys, shelf.chosen, logits(ask, model, given), ask.kit.params(model.it))
    was, before, chosen, now, after = ask.w.ask(told)
    got = (gap(now, was), before == after, chosen)
    ask.see("(change of the logits, parameters as before, chosen)", got, (0.0, True, None))


def bridge_several_attach_measures_a_conv1d_the_right_way_round(ask: Asking) -> None:
    model, names = gpt2(ask), words(ask, 2)
    shelf, said = shelf_of(ask, model, {}), []
    places = model.names(("c_fc",))
    rows, columns = model.sizes(places[0])
    for name, d_in, d_out in ((names[0], rows, columns), (names[1], columns, rows)):
        pairs = {place: (ask.randn(2, d_in), ask.randn(d_out, 2)) for place in places}
        told = written(pairs, 3.0, ("c_fc",), None, {"fan_in_fan_out": True})
        said.append(tried(ask.star("attach")(shelf, name, sent(told))))
    *raised, held = ask.w.ask([*map(ask.w.keep, said), shelf.held])
    for one in raised:
        if one is not None and not set(REFUSED) & set(one.kinds):
            raise one
    got = ([one is not None for one in raised], sorted(held))
    what = f"(refused: {rows} to {columns}, {columns} to {rows}; held)"
    ask.see(what, got, ([False, True], names[:1]))


def bridge_several_attach_refuses_as_a_whole(ask: Asking) -> None:
    model = minigpt(ask)
    width = model.sizes("blocks.0.mlp.fc1")[1]
    wide, deep = other(model, d_ff=width + 2), other(model, n_layer=3)
    first, *others = words(ask, 4)
    shelf, one = shelf_of(ask, model, {}), Held(1.5, draw_pairs(ask, model))
    ask.w.do(_attach(ask, shelf, first, one))
    rslora = written(draw_pairs(ask, model), 3.0, TARGETS, None, {"use_rslora": True})
    things = {
        "a name that is taken": _attach(ask, shelf, first, Held(1.5, draw_pairs(ask, model))),
        "another width": _attach(ask, shelf, others[0], Held(1.5, draw_pairs(ask, wide))),
        "another depth": _attach(ask, shelf, others[1], Held(1.5, draw_pairs(ask, deep))),
        "rsLoRA": ask.star("attach")(shelf, others[2], sent(rslora)),
    }
    all_refused(ask, things)
    held, pairs = ask.w.ask((shelf.held, shelf.held[first].pairs))
    got = (sorted(held), same_pairs(pairs, one.pairs))
    ask.see("(held, as before)", got, ([first], True))


# --- E3 and E4: switch and detach -----------------------------------------------------------------


def _empty(ask: Asking, *names: str) -> Expr:
    """A shelf whose adapters have nothing in them."""
    held = {name: ask.given("shelf.Held")(1.0, {}) for name in names}
    return ask.w.keep(ask.given("shelf.Shelf")(ask.nn.Identity(), held=held))


def bridge_several_switch_chooses(ask: Asking) -> None:
    first, second = words(ask, 2)
    shelf, switch = _empty(ask, first, second), ask.star("switch")
    rows = [first, None, second]
    ask.rng.shuffle(rows)
    there, seen = ask.w.keep(list(rows)), []
    for names in (first, None, there, second):
        ask.w.do(switch(shelf, names))
        seen.append(ask.w.keep(ask.kit.deepcopy(shelf.chosen)))
    ask.w.do(switch(shelf, there))
    ask.w.do(there.reverse())
    ask.w.do(there.pop())
    got = ask.w.ask([*seen, shelf.chosen])
    ask.see("chosen after each switch", got, [first, None, rows, second, rows])


def bridge_several_switch_refuses_who_is_not_there(ask: Asking) -> None:
    own, strange = words(ask, 2)
    shelf, switch = _empty(ask, own), ask.star("switch")
    choose(ask, shelf, own)
    cases = (strange, [own, strange], [strange, own], [None, strange])
    said = ask.w.refusals([switch(shelf, names) for names in cases], *FILES)
    got = ([strange in str(message) for message in said], ask.w.ask(shelf.chosen))
    told = f"messages = {said}, chosen = {got[1]!r}"
    ask.hold(got == ([True] * 4, own), told, f"four that name {strange}, {own!r}")


def bridge_several_detach_leaves_no_trace(ask: Asking) -> None:
    gone, stays = words(ask, 2)
    shelf, looks = _empty(ask, gone, stays), []
    choices = (gone, stays, None, [stays, gone, None])
    for chosen in choices:
        ask.w.do(shelf.held.update({gone: ask.given("shelf.Held")(1.0, {})}))
        choose(ask, shelf, chosen)
        ask.w.do(ask.star("detach")(shelf, gone))
        looks.append(ask.w.keep(ask.kit.deepcopy((shelf.held, shelf.chosen))))
    got = [(sorted(held), chosen) for held, chosen in ask.w.ask(looks)]
    want = [([stays], chosen) for chosen in (None, stays, None, [stays, None, None])]
    ask.see("(held, chosen) after detach", got, want)


def bridge_several_detach_gives_the_base_back(ask: Asking) -> None:
    model, name = minigpt(ask), words(ask, 1)[0]
    given = tokens(ask, model)
    first = logits(ask, model, given)
    shelf = shelf_of(ask, model, {name: Held(1.5, draw_pairs(ask, model))})
    choose(ask, shelf, name)
    ask.w.do(ask.star("detach")(shelf, name))
    was, now = ask.w.ask((first, logits(ask, model, given)))
    ask.near("logits of the base, off", was, model.out(given), 1e-11)
    ask.near("change of the logits", now, was, 0.0)


def bridge_several_detach_refuses_who_is_not_there(ask: Asking) -> None:
    own, strange = words(ask, 2)
    shelf = _empty(ask, own)
    choose(ask, shelf, own)
    said = ask.w.refusal(ask.star("detach")(shelf, strange), *FILES)
    held, chosen = ask.w.ask((shelf.held, shelf.chosen))
    got = (said is not None, sorted(held), chosen)
    ask.see("(refused, held, chosen)", got, (True, [own], own))
