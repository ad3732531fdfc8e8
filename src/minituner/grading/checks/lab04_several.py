"""Lab 04, task E1: several adapters beside one MiniGPT, chosen for a batch or row by row.

Shelves are the given ones; what is on them is put there by the judge. Leaves out: what puts it
there otherwise, and chooses (lab04_shelf.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from minituner.grading.checks.asking import Asking, gap, words
from minituner.grading.checks.lab04_asking import (
    Model,
    Pairs,
    draw_pairs,
    logits,
    minigpt,
    tokens,
)
from minituner.grading.expr import Expr, tried
from minituner.grading.peer import Raised

OTHERS = ("q_proj", "fc2")  # what the second adapter is for


@dataclass(frozen=True)
class Held:
    """An adapter on a shelf, and its values here."""

    scaling: float
    pairs: Pairs

    def there(self, ask: Asking) -> Expr:
        return ask.given("shelf.Held")(self.scaling, self.pairs)


def shelf_of(ask: Asking, model: Model, held: dict[str, Held]) -> Expr:
    """A shelf there whose bases ask the submission's adapted."""
    shelf = ask.w.keep(ask.given("shelf.shelf_for")(model.it, ask.star("adapted")))
    ask.w.do(shelf.held.update({name: one.there(ask) for name, one in held.items()}))
    return shelf


def two(ask: Asking, model: Model) -> dict[str, Held]:
    """Two adapters of other ranks, scales and modules, under names drawn anew."""
    first, second = words(ask, 2)
    return {
        first: Held(ask.rng.choice((0.75, 1.5)), draw_pairs(ask, model)),
        second: Held(0.5, draw_pairs(ask, model, 3, OTHERS)),
    }


def choose(ask: Asking, shelf: Expr, chosen: object) -> None:
    ask.w.do(ask.kit.assign(shelf, "chosen", chosen))


# --- E1: each row its own -------------------------------------------------------------------------


def bridge_several_rows_share_one(ask: Asking) -> None:
    model = minigpt(ask)
    held = two(ask, model)
    shelf, asked = shelf_of(ask, model, held), []
    for name, one in held.items():
        choose(ask, shelf, name)
        for rows in (3, 2):
            given = tokens(ask, model, rows)
            asked.append((name, one, given, logits(ask, model, given), ask.w.keep(shelf.chosen)))
    told = ask.w.ask([(said, chosen) for *_, said, chosen in asked])
    for (name, one, given, *_), (said, chosen) in zip(asked, told, strict=True):
        what = f"logits of {len(given)} rows with {name}, off"
        ask.near(what, said, model.out(given, one.scaling, one.pairs), 1e-11)
        ask.see("chosen then", chosen, name)


def bridge_several_rows_without_one_are_the_base(ask: Asking) -> None:
    model = minigpt(ask)
    given = tokens(ask, model)
    first = logits(ask, model, given)
    shelf, said = shelf_of(ask, model, two(ask, model)), []
    for chosen in (None, [None, None, None]):
        choose(ask, shelf, chosen)
        said.append(logits(ask, model, given))
    want, *got = ask.w.ask([first, *said])
    ask.near("logits of the base, off", want, model.out(given), 1e-11)
    far = [gap(one, want) for one in got]
    ask.see("change of the logits with None, with a None a row", far, [0.0, 0.0])


def bridge_several_rows_have_their_own(ask: Asking) -> None:
    model = minigpt(ask)
    held = two(ask, model)
    first, second = held
    rows: list[str | None] = [second, None, first, second, first]
    ask.rng.shuffle(rows)
    given = tokens(ask, model, len(rows))
    shelf = shelf_of(ask, model, held)
    choose(ask, shelf, rows)
    together = ask.w.ask(logits(ask, model, given))
    want = [_alone(model, given[i : i + 1], held.get(name or "")) for i, name in enumerate(rows)]
    ask.hold(isinstance(together, Tensor) and len(together) == len(rows), "rows", f"{len(rows)}")
    for i, one in enumerate(want):
        ask.near(f"row {i} of {rows}, off", together[i : i + 1], one, 1e-11)


def _alone(model: Model, row: Tensor, held: Held | None) -> Tensor:
    return model.out(row, held.scaling, held.pairs) if held else model.out(row)


def bridge_several_rows_refuse_another_number(ask: Asking) -> None:
    model, name = minigpt(ask), words(ask, 1)[0]
    ends = ("fc2",)
    shelf = shelf_of(ask, model, {name: Held(1.5, draw_pairs(ask, model, 2, ends))})
    calls, cases, block = [], [], ask.rng.randrange(2)
    for end in ("fc2", "fc1"):
        at = f"blocks.{block}.mlp.{end}"
        d_in, d_out = model.sizes(at)
        choices: tuple[list[str | None], ...] = ([name], [name, None, None, None], [])
        for chosen in choices:
            choose(ask, shelf, chosen)
            call = ask.star("adapted")(shelf, at, ask.randn(3, d_in), ask.randn(3, d_out))
            calls.append(ask.w.keep(tried(call)))
            cases.append(f"{chosen} at {at}")
    taken = []
    for case, raised in zip(cases, ask.w.ask(calls), strict=True):
        if isinstance(raised, Raised) and "ValueError" not in raised.kinds:
            raise raised
        taken += [case] if raised is None else []
    ask.see("what passed for 3 rows", taken, [])


def bridge_several_rows_leave_the_output_they_get(ask: Asking) -> None:
    model, name = minigpt(ask), words(ask, 1)[0]
    one = Held(1.5, draw_pairs(ask, model))
    rows: list[str | None] = [name, None]
    ask.rng.shuffle(rows)
    at, (a, b) = ask.rng.choice(list(one.pairs.items()))
    shelf = ask.given("shelf.Shelf")(model.it, held={name: one.there(ask)}, chosen=rows)
    x, out = ask.randn(2, 3, a.shape[1]), ask.randn(2, 3, b.shape[0])
    there = ask.w.keep(ask.torch.clone(out))
    got, after = ask.w.ask((ask.star("adapted")(shelf, at, x, there), there))
    want, row = out.clone(), rows.index(name)
    want[row] += 1.5 * (x[row] @ a.T @ b.T)
    ask.near("change of what was given", after, out, 0.0)
    ask.near("what is returned, off", got, want, 1e-12)
