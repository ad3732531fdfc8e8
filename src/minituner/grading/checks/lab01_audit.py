"""Lab 01, block C: what a figure should be, and whether it holds, on claims of the judge's own.

The published claims are sent anew, in another order and under other ids; which of them hold is
written down here. Leaves out: parameters and memory (lab01_parameters.py, lab01_memory.py).
"""

from __future__ import annotations

from minituner.grading.checks.asking import Asking, equal, plain, shown
from minituner.grading.checks.lab01_asking import claim, close, matrix, refused, sizes
from minituner.grading.expr import Expr
from minituner.published import CLAIMS, Claim

Pair = tuple[str, Expr, float]  # what is asked, the claim, its truth
HOLDS = {
    *("gpt3-r1", "gpt3-fewer", "gpt3-memory", "gpt3-weights", "roberta-base", "gpt2-large"),
    *("llama-7b", "nf4-constants", "nf4-saved", "qlora-full", "zero", "torchtune-7b"),
    *("peft-qwen", "raschka-all", "tutorial-7b-share"),
}


# --- C1: what a figure should be ------------------------------------------------------------------


def _true(ask: Asking, pairs: list[Pair]) -> None:
    """Each to a relative 1e-9."""
    found = ask.w.ask([ask.star("truth")(one) for _, one, _ in pairs])
    ask.see("type(answers)", type(found).__name__, "list")
    wrong = [
        (what, plain(got), want)
        for (what, _, want), got in zip(pairs, found, strict=True)
        if not close(got, want, 1e-9)
    ]
    said = ", ".join(f"{what}: {shown(got)}" for what, got, _ in wrong)
    ask.hold(not wrong, said, f"{[want for *_, want in wrong]}")


def counts_truth_of_entries_and_adapters(ask: Asking) -> None:
    r, kinds = ask.rng.randint(1, 40), ask.rng.randint(2, 3)
    shapes = [(*ask.rng.sample(range(3, 300), 2), ask.rng.randint(2, 9)) for _ in range(kinds)]
    held = tuple(matrix(ask, *shape) for shape in shapes)
    entries = sum(copies * d_in * d_out for d_in, d_out, copies in shapes)
    adapter = sum(copies * r * (d_in + d_out) for d_in, d_out, copies in shapes)
    pairs = [
        ("entries", claim(ask, "entries", matrices=held), float(entries)),
        ("adapter", claim(ask, "adapter", matrices=held, r=r), float(adapter)),
    ]
    _true(ask, pairs)


def counts_truth_of_shares_and_files(ask: Asking) -> None:
    d_in, d_out, r = sizes(ask)
    n, params, size = ask.rng.randint(2, 50), ask.rng.randint(10**6, 10**9), ask.rng.choice((2, 8))
    held, trained = (matrix(ask, d_in, d_out, n),), n * r * (d_in + d_out)
    asked = {
        "share": ({"params": params}, trained / params),
        "fewer": ({"params": params}, params / trained),
        "file": ({"bytes_each": size}, float(size * trained)),
    }
    pairs = [
        (name, claim(ask, name, matrices=held, r=r, **fields), want)
        for name, (fields, want) in asked.items()
    ]
    _true(ask, pairs)


def counts_truth_of_memory(ask: Asking) -> None:
    n, size = ask.rng.randint(10**6, 10**11), ask.rng.choice((2, 4, 12))
    pairs = [
        ("stored", claim(ask, "stored", params=n, bytes_each=size), float(n * size)),
        ("training", claim(ask, "training", params=n), 16.0 * n),
    ]
    _true(ask, pairs)


def counts_truth_of_nf4(ask: Asking) -> None:
    groups = ask.rng.randint(10, 10**5)
    n = 64 * 256 * groups
    saved = "double quantisation"
    pairs = [
        ("constants", claim(ask, "constants", params=n), 8 / 64 + 32 / (64 * 256)),
        (saved, claim(ask, saved, params=n), float(groups * (4 * 256 - 256 - 4))),
    ]
    _true(ask, pairs)


def counts_truth_of_a_quotient(ask: Asking) -> None:
    first, second, n = ask.rng.uniform(1, 9), ask.rng.uniform(20, 99), ask.rng.randint(3, 99)
    pairs = [
        ("quotient", claim(ask, "quotient", parts=(first, second)), first / second),
        ("entries", claim(ask, "entries", matrices=(matrix(ask, n, 3),)), 3.0 * n),
        ("stored", claim(ask, "stored", params=n, bytes_each=2), 2.0 * n),
    ]
    _true(ask, pairs)


def counts_truth_divides_by_the_unit(ask: Asking) -> None:
    n, part, made = ask.rng.randint(10**8, 10**11), ask.rng.randint(1, 9), []
    units = {"GB": 1e9, "GiB": 2.0**30, "MB": 1e6, "million": 1e6, "billion": 1e9, "": 1.0}
    for unit, size in units.items():
        stored = claim(ask, "stored", params=n, bytes_each=2, unit=unit)
        made.append((f"stored [{unit}]", stored, 2 * n / size))
    share = claim(ask, "quotient", parts=(float(part), 64.0), unit="%")
    counted = claim(ask, "entries", matrices=(matrix(ask, 50, 40, part),), unit="million")
    made.append(("quotient [%]", share, part * 1.5625))
    made.append(("entries [million]", counted, part * 0.002))
    _true(ask, made)


def counts_truth_refuses_an_unknown_quantity(ask: Asking) -> None:
    other = ask.rng.choice(("speed", "latency", "accuracy", "price"))
    call = ask.star("truth")(claim(ask, other, params=9))
    refused(ask, [(f"truth(quantity={other!r})", call, ("quantity", other))])


# --- C2: the audit --------------------------------------------------------------------------------


def _quotient(ask: Asking, value: float, **fields: object) -> Expr:
    return claim(ask, "quotient", parts=(value, 1.0), **fields)


def _holds(ask: Asking, claims: list[Expr]) -> list[bool | None]:
    """What each verdict says; None where that is no yes or no."""
    rows = ask.w.ask(ask.kit.fields(ask.star("audit")(claims), ("holds",)))
    said = [plain(row[0]) for row in rows]
    return [bool(one) if type(one) in (bool, int) else None for one in said]


def _again(ask: Asking, one: Claim) -> Expr:
    """A published claim, its id another."""
    held = tuple(matrix(ask, m.in_features, m.out_features, m.copies) for m in one.matrices)
    return claim(
        ask,
        one.quantity,
        published=one.published,
        step=one.step,
        unit=one.unit,
        relation=one.relation,
        matrices=held,
        r=one.r,
        params=one.params,
        bytes_each=one.bytes_each,
        parts=one.parts,
    )


def counts_audit_of_what_is_published(ask: Asking) -> None:
    order = ask.rng.sample(CLAIMS, len(CLAIMS))
    got = _holds(ask, [_again(ask, one) for one in order])
    ask.see("claims", len(got), len(order))
    pairs = zip(order, got, strict=True)
    wrong = sorted(one.id for one, holds in pairs if holds is not (one.id in HOLDS))
    found = (len(got), sum(holds is True for holds in got), wrong)
    ask.see("(claims, how many hold, misjudged)", found, (len(CLAIMS), len(HOLDS), []))


def counts_audit_judges_at_the_published_step(ask: Asking) -> None:
    for step in (0.001, 0.1, 1.0, 1000.0):
        figure = step * ask.rng.randint(3, 40)
        offs = (-0.6, -0.4, 0.0, 0.4, 0.6)
        claims = [_quotient(ask, figure + off * step, published=figure, step=step) for off in offs]
        what = f"published {figure:g}, step {step:g}, truth off by {offs} steps:"
        equal(ask, what, _holds(ask, claims), [False, True, True, True, False])


def counts_audit_takes_below_and_above_as_said(ask: Asking) -> None:
    figure, offs = float(ask.rng.randint(10, 40)), (-5.0, -0.5, 0.5, 5.0)
    claims = [
        _quotient(ask, figure + off, published=figure, step=2.0, relation=relation)
        for relation in "<>"
        for off in offs
    ]
    what = f"published {figure:g}, < then >, truth off by -5, -0.5, 0.5, 5:"
    want = [True, True, False, False, False, False, True, True]
    equal(ask, what, _holds(ask, claims), want)


def counts_audit_keeps_claims_and_order(ask: Asking) -> None:
    values = ask.rng.sample(range(1, 100), 6)
    claims = [ask.w.keep(_quotient(ask, float(value), unit="%")) for value in values]
    kept = ask.w.keep(claims)
    verdicts, nothing = ask.w.keep(ask.star("audit")(kept.__iter__())), ask.star("audit")([])
    rows, none = ask.w.ask((ask.kit.fields(verdicts, ("truth",)), ask.kit.fields(nothing, ())))
    ask.see("(verdicts, of no claims)", (len(rows), len(none)), (6, 0))
    same = ask.w.ask([ask.kit.same(verdicts[i].claim, one) for i, one in enumerate(claims)])
    right = [close(row[0], 100.0 * value, 1e-9) for row, value in zip(rows, values, strict=True)]
    ask.see("(claim kept, truth)", [*zip(same, right, strict=True)], [(True, True)] * 6)


def counts_audit_refuses_another_relation(ask: Asking) -> None:
    other = ask.rng.choice(("~", "≈", "!=", "≤"))
    call = ask.star("audit")([_quotient(ask, 1.0, relation=other)])
    refused(ask, [(f"audit(relation={other!r})", call, ("relation", other))])
