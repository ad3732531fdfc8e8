"""Lab 01, tasks B5 and B6: the bytes that are kept for backward.

Counted here from the table of BLUEPRINT-01.md, one tensor at a time. Leaves out: torch itself; an
upkeep test compares the table with it.
"""

from __future__ import annotations

from minituner.grading.checks.asking import Asking, equal
from minituner.grading.checks.lab01_asking import Sizes, config, default, refused, sizes, small


def counts_saved_full_keeps_the_input(ask: Asking) -> None:
    d, _, rows = sizes(ask)
    kept = ask.star("linear_activations")
    got = ask.w.ask([kept(d, rows), kept(d, rows, mode="full", r=3)])
    equal(ask, f"linear_activations({d}, {rows})", got, [4 * d * rows] * 2)


def counts_saved_frozen_keeps_nothing(ask: Asking) -> None:
    d, _, rows = sizes(ask)
    got = ask.w.ask(ask.star("linear_activations")(d, rows, mode="frozen"))
    equal(ask, f"linear_activations({d}, {rows}, mode='frozen')", got, 0)


def counts_saved_adapter_keeps_the_input_and_h(ask: Asking) -> None:
    d, rows, r = sizes(ask)
    kept = ask.star("linear_activations")
    got = ask.w.ask([kept(d, rows, mode="lora", r=r), kept(d, rows, mode="lora")])
    want = [4 * rows * (d + r), 4 * rows * (d + 8)]
    equal(ask, f"linear_activations({d}, {rows}, mode='lora'), r = {r} and 8:", got, want)


def counts_saved_follows_the_element_size(ask: Asking) -> None:
    d, rows, r = sizes(ask)
    kept, want, calls = ask.star("linear_activations"), [], []
    for size in (8, 2):
        calls.append(kept(d, rows, mode="full", element_size=size))
        calls.append(kept(d, rows, mode="lora", r=r, element_size=size))
        want += [size * rows * d, size * rows * (d + r)]
    equal(ask, "float64 full and lora, bfloat16 full and lora:", ask.w.ask(calls), want)


def counts_saved_refuses_another_mode(ask: Asking) -> None:
    kept, other = ask.star("linear_activations"), ask.rng.choice(("qlora", "half", "none"))
    things = [
        (f"mode={other!r}", kept(8, 4, mode=other), ("mode", other)),
        ("mode='lora', r=0", kept(8, 4, mode="lora", r=0), ("r", "0")),
    ]
    refused(ask, things)


def _kept(size: Sizes, batch: int, seq: int, r: int | None) -> int:
    """Bytes of what the table lists, each tensor once."""
    d, d_ff, layers = size["d_model"], size["d_ff"], size["n_layer"]
    norm, read = d + 2, d  # input, mean, 1/std; what the linears after it read
    block = norm + read + 3 * d + (d + size["n_head"]) + norm + read + 2 * d_ff
    if r is None:
        return 4 * batch * seq * (layers * block + norm + d) + 8 * (batch * seq + seq)
    return 4 * batch * seq * (layers * (block + 6 * r) - norm + norm)  # without the first, the last


def counts_model_full_is_the_closed_form(ask: Asking) -> None:
    size, batch, seq = small(ask), ask.rng.randint(2, 9), ask.rng.randint(5, 20)
    got = ask.w.ask(ask.star("minigpt_activations")(config(ask, size), batch, seq))
    what = f"minigpt_activations(config, {batch}, {seq}), {size}:"
    equal(ask, what, got, _kept(size, batch, seq, None))


def counts_model_with_adapters_is_the_closed_form(ask: Asking) -> None:
    size, batch, seq = small(ask), ask.rng.randint(2, 9), ask.rng.randint(5, 20)
    ranks, sizes = [1, *ask.rng.sample(range(2, 20), 2)], config(ask, size)
    got = ask.w.ask([ask.star("minigpt_activations")(sizes, batch, seq, r=r) for r in ranks])
    what = f"minigpt_activations(config, {batch}, {seq}), r = {ranks}, {size}:"
    equal(ask, what, got, [_kept(size, batch, seq, r) for r in ranks])


def counts_model_default_keeps_more_with_adapters(ask: Asking) -> None:
    batch, seq, usual = ask.rng.randint(2, 30), ask.rng.randint(5, 64), config(ask, default())
    kept, bad = ask.star("minigpt_activations"), -ask.rng.randint(2, 99)
    got = ask.w.ask([kept(usual, batch, seq, r=r) for r in (None, 8)])
    want = [_kept(default(), batch, seq, r) for r in (None, 8)]
    equal(ask, f"a default MiniGPT on ({batch}, {seq}), full, r = 8:", got, want)
    things = [
        ("batch=0", kept(usual, 0, 4), ("batch", "0")),
        (f"r={bad}", kept(usual, 2, 4, r=bad), ("r", f"{bad}")),
    ]
    refused(ask, things, 1)
