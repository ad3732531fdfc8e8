"""Lab 02, block A: prompts and answers as rows, the loss over what counts, rehearsal.

Leaves out: training (lab02_loop.py).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from minituner.grading.checks.asking import Asking, equal, plain
from minituner.grading.checks.lab02_asking import (
    KIT,
    REFUSED,
    VOCAB,
    Pairs,
    batch,
    listed,
    loss,
    pairs,
    slope,
    tokens,
)
from minituner.grading.expr import Expr
from minituner.recipe import IGNORE

# --- A1: prompts and answers as rows --------------------------------------------------------------


def _rows(given: Pairs, pad: int) -> list[list[list[int]]]:
    """Inputs and targets as BLUEPRINT-02.md has them."""
    longest = max(len(prompt) + len(answer) for prompt, answer in given) - 1
    inputs, targets = [], []
    for prompt, answer in given:
        rest = longest + 1 - len(prompt) - len(answer)
        inputs.append([*prompt, *answer][:-1] + [pad] * rest)
        targets.append([IGNORE] * (len(prompt) - 1) + answer + [IGNORE] * rest)
    return [inputs, targets]


def _padded(ask: Asking, given: Pairs, pad: int) -> list[Tensor]:
    got = ask.w.ask(ask.star("padded")(given, pad))
    ask.see("inputs and targets", [isinstance(part, Tensor) for part in got], [True, True])
    return list(got)


def adapt_data_the_worked_rows(ask: Asking) -> None:
    pad, *ids = ask.rng.sample(range(90), 8)
    given = [(ids[:2], ids[2:5]), (ids[5:6], ids[6:])]
    got = _padded(ask, given, pad)
    equal(ask, f"padded({given}, {pad})", listed(got), _rows(given, pad))
    kinds = [str(part.dtype) for part in got]
    ask.see("dtypes", kinds, ["torch.int64"] * 2, 1)


def adapt_data_rows_of_any_length(ask: Asking) -> None:
    given, pad = pairs(ask, 6), VOCAB + ask.rng.randrange(3)
    got, want = listed(_padded(ask, given, pad)), _rows(given, pad)
    lengths = [[len(row) for row in part] for part in got]
    ask.see("lengths of the rows", lengths, [[len(row) for row in part] for part in want])
    for row, (prompt, answer) in enumerate(given):
        told = [part[row] for part in got]
        rows = [part[row] for part in want]
        equal(ask, f"inputs, targets of ({prompt}, {answer})", told, rows, 1)


def adapt_data_the_place_decides_not_the_value(ask: Asking) -> None:
    pad, one, two = ask.rng.sample(range(VOCAB), 3)
    given = [([pad, one], [pad, pad]), ([two, one, pad], [two, pad]), ([pad], [one])]
    got = _padded(ask, given, pad)
    equal(ask, f"padded({given}, {pad})", listed(got), _rows(given, pad))


def adapt_data_refuses_what_is_empty(ask: Asking) -> None:
    one, two = pairs(ask, 2)
    cases: list[Pairs] = [[], [([], [1]), one], [two, ([1], [])], [one, ([], []), two]]
    refused = [(f"padded({case}, 0)", ask.star("padded")(case, 0), ()) for case in cases]
    ask.all_refused(refused, REFUSED)


# --- A2: the loss over what counts ----------------------------------------------------------------


def adapt_data_loss_is_the_mean_over_what_counts(ask: Asking) -> None:
    logits, (_, targets) = 2 * ask.randn(4, 5, VOCAB), batch(ask, 4, 5)
    got = ask.w.ask(ask.star("masked_loss")(logits, targets))
    want = torch.tensor(loss(logits, targets), dtype=torch.float64)
    ask.near("loss - closed form", got, want, 1e-10)


def adapt_data_loss_of_a_guess_is_log_vocab(ask: Asking) -> None:
    vocab, level = ask.rng.randint(3, 40), ask.rng.uniform(-3, 3)
    targets = torch.full((2, 4), IGNORE)
    targets[0, 0] = targets[1, 2] = vocab - 1
    logits = torch.full((2, 4, vocab), level, dtype=torch.float64)
    got = ask.w.ask(ask.star("masked_loss")(logits, targets))
    got = plain(got)
    right = type(got) is float and abs(got - math.log(vocab)) < 1e-9
    ask.hold(right, f"loss of {vocab} equal logits = {got!r:.80}", f"{math.log(vocab):.6g}")


def adapt_data_loss_sends_no_gradient_where_nothing_counts(ask: Asking) -> None:
    logits, (_, targets) = ask.randn(3, 6, VOCAB), batch(ask, 3, 6)
    leaf = ask.w.keep(ask.kit.leaf(logits))
    ask.w.do(ask.torch.autograd.backward(ask.star("masked_loss")(leaf, targets)))
    got = ask.w.ask(ask.kit.slope(leaf))
    ask.near("gradient - closed form", got, slope(logits, targets), 1e-10)


def adapt_data_loss_refuses_when_nothing_counts(ask: Asking) -> None:
    rows, seq = ask.rng.randint(1, 4), ask.rng.randint(1, 5)
    hidden, logits = torch.full((rows, seq), IGNORE), ask.randn(rows, seq, VOCAB)
    call = ask.star("masked_loss")(logits, hidden)
    ask.refuses(f"masked_loss(logits, all {IGNORE})", call, ("target",), REFUSED)


# --- A3: rehearsal --------------------------------------------------------------------------------


def _known(ask: Asking, first: int, count: int) -> Pairs:
    """Pairs that can be told apart by their first token: first, first + 1, …"""
    return [([first + i, *tokens(ask, 2)], tokens(ask, 2)) for i in range(count)]


def _from(ask: Asking, drawn: object, sources: list[Pairs]) -> list[int]:
    """How many pairs of a batch are of each source, and how many there are."""
    every = [[plain(pair) for pair in source] for source in sources]
    got = plain(drawn)
    ask.see("type(batch)", type(got).__name__, "list")
    return [*(sum(pair in source for pair in got) for source in every), len(got)]


def _draw(ask: Asking, new: Pairs, old: Pairs, size: int, share: float, generator: Expr) -> Expr:
    return ask.star("rehearsed")(new, old, size, share, generator)


def _generator(ask: Asking, seed: int) -> Expr:
    return ask.w.keep(ask.torch.Generator().manual_seed(seed))


def adapt_rehearse_gives_each_its_share(ask: Asking) -> None:
    new, old = _known(ask, 0, 3), _known(ask, 100, 4)
    cases = [(8, 0.25), (8, 0.5), (10, 0.33), (12, 0.9), (5, 0.0), (1, 0.3)]
    cases += [(ask.rng.randint(9, 30), ask.rng.randint(1, 98) / 99)]
    calls = [_draw(ask, new, old, *case, _generator(ask, case[0])) for case in cases]
    for (size, share), drawn in zip(cases, ask.w.ask(calls), strict=True):
        count = round(share * size)
        got = _from(ask, drawn, [old, new])
        ask.see(f"size={size}, share={share:.3g}: old, new, all", got, [count, size - count, size])


def adapt_rehearse_without_a_share_needs_no_old(ask: Asking) -> None:
    new, size = _known(ask, 0, 3), ask.rng.randint(1, 9)
    drawn = ask.w.ask(_draw(ask, new, [], size, 0.0, _generator(ask, 1)))
    ask.see("of new, in all", _from(ask, drawn, [new]), [size, size])


def adapt_rehearse_draws_all_alike(ask: Asking) -> None:
    times, new, old = 300, _known(ask, 0, 5), _known(ask, 100, 6)
    generator = _generator(ask, ask.rng.randrange(2**31))
    drawn = KIT.drawn(times, ask.star("rehearsed"), new, old, 8, 0.5, generator)
    firsts = ask.w.ask(drawn)
    counts = [firsts.count(prompt[0]) for prompt, _ in (*new, *old)]
    want = [times * 4 / len(source) for source in (new, old) for _ in source]
    near = all(0.5 * w < c < 1.5 * w for c, w in zip(counts, want, strict=True))
    ask.hold(near, f"times each pair came = {counts}", f"about {[round(w) for w in want]}")


def adapt_rehearse_draws_from_its_generator_alone(ask: Asking) -> None:
    new, old, seed = _known(ask, 0, 9), _known(ask, 100, 9), ask.rng.randrange(2**31)
    told = []
    for other in ask.rng.sample(range(10**6), 2):
        ask.w.do(ask.kit.seed(other))
        before, generator = ask.w.keep(KIT.luck()), _generator(ask, seed)
        drawn = ask.w.keep([_draw(ask, new, old, 8, 0.5, generator) for _ in range(3)])
        told.append((before, drawn, ask.w.keep(KIT.luck())))
    runs = ask.w.ask(told)
    moved = [listed(before) != listed(after) for before, _, after in runs]
    ask.see("a global generator moved", moved, [False, False])
    one, two = (plain(drawn) for _, drawn, _ in runs)
    got = (one == two, one[0] != one[1])
    ask.see("same seed same batches, two in a row differ", got, (True, True), 1)


def adapt_rehearse_refuses_a_share_outside_its_range(ask: Asking) -> None:
    known, below = _known(ask, 0, 9), -ask.rng.randint(1, 99) / 100
    above = 1 + ask.rng.randint(1, 99) / 100
    bad = [below, 1.0, above, float("nan")]
    calls = [_draw(ask, known, known, 4, share, _generator(ask, 1)) for share in bad]
    refused = [
        (f"share={share:.3g}", call, ("share", share))
        for share, call in zip(bad, calls, strict=True)
    ]
    ask.all_refused(refused, REFUSED)
