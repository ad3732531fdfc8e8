"""What the checks of lab 01 share: sizes, small models there, claims there, and plain numbers.

Leaves out: the claims themselves (lab01_parameters.py, lab01_memory.py, lab01_audit.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from minituner.grading.checks.asking import Asking, Words, plain, words
from minituner.grading.expr import Expr

REFUSED = ("ValueError", "TypeError")
BUCKETS = ("weights", "gradients", "optimizer", "activations")
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")
Sizes = dict[str, int]  # of a MiniGPT


def sizes(ask: Asking) -> tuple[int, int, int]:
    """(in, out, r), no two alike."""
    d_in, d_out = ask.rng.sample(range(40, 400), 2)
    return d_in, d_out, ask.rng.randint(2, 30)


def small(ask: Asking) -> Sizes:
    """Sizes of a MiniGPT that costs little; d_model, d_ff and the rest all differ."""
    rng, n_head = ask.rng, ask.rng.choice((2, 3))
    d_model = n_head * rng.choice((4, 5, 6))
    return {
        "vocab_size": rng.randint(31, 40),
        "block_size": rng.randint(20, 30),
        "n_layer": rng.randint(2, 4),
        "n_head": n_head,
        "d_model": d_model,
        "d_ff": d_model + rng.randint(5, 15),
    }


def default(**sizes: int) -> Sizes:
    """The sizes of a default MiniGPT, some of them others."""
    usual = {"vocab_size": 65, "block_size": 64, "n_layer": 4, "n_head": 4}
    return usual | {"d_model": 64, "d_ff": 256} | sizes


def config(ask: Asking, sizes: Mapping[str, int], **more: object) -> Expr:
    return ask.given("minigpt.MiniGPTConfig")(**sizes, **more)


def minigpt(ask: Asking, sizes: Mapping[str, int], **more: object) -> Expr:
    """A MiniGPT there."""
    return ask.w.keep(ask.given("minigpt.MiniGPT")(config(ask, sizes, **more)))


def entries(sizes: Mapping[str, int]) -> int:
    """Parameters of a MiniGPT whose head is tied: embeddings, blocks, the last norm."""
    d, d_ff = sizes["d_model"], sizes["d_ff"]
    block = 4 * d * d + (d * d_ff + d_ff) + (d_ff * d + d) + 2 * 2 * d
    return (sizes["vocab_size"] + sizes["block_size"]) * d + sizes["n_layer"] * block + 2 * d


def inner(sizes: Mapping[str, int]) -> dict[str, int]:
    """in + out of each linear of a block, by its default target."""
    d, d_ff = sizes["d_model"], sizes["d_ff"]
    return {target: d + d_ff if "fc" in target else 2 * d for target in TARGETS}


def twins(ask: Asking) -> tuple[Expr, list[str]]:
    """A linear (6 to 5) under two names, then another (5 to 4): the model, and the three names."""
    names = [".".join(words(ask, 2)) for _ in range(3)]
    shared, last = ask.w.keep(ask.nn.Linear(6, 5)), ask.nn.Linear(5, 4, bias=False)
    return ask.w.keep(ask.kit.Net(names, [shared, shared, last])), names


def claim(ask: Asking, quantity: str, **fields: object) -> Expr:
    """A claim about nothing published, with an id of its own."""
    own = {"published": 1.0, "step": 0.1} | fields
    who = (f"claim-{ask.rng.randrange(10**9)}", "nobody", "nothing")
    return ask.given("published.Claim")(*who, quantity, **own)


def matrix(ask: Asking, d_in: int, d_out: int, copies: int = 1) -> Expr:
    return ask.given("published.Matrix")(d_in, d_out, copies)


def buckets(ask: Asking, *calls: Expr) -> list[list[Any]]:
    """The four buckets of each Memory that a call gives, in one question."""
    found: list[list[Any]] = ask.w.ask(ask.kit.fields(list(calls), BUCKETS))
    return found


def close(got: Any, want: float, rel: float) -> bool:
    """A number, finite, within a relative distance."""
    got = plain(got)
    return type(got) in (int, float) and math.isclose(got, want, rel_tol=rel)


def refused(ask: Asking, things: Sequence[tuple[str, Expr, Words]], nth: int = 0) -> None:
    """Each raises ValueError or TypeError, with each of its words."""
    ask.all_refused(things, REFUSED, nth)
