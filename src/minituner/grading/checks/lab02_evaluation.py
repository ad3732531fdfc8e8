"""Lab 02, block C: predictions, the mean loss, whole answers, the adapters, the best of them.

Leaves out: training (lab02_loop.py), and checkpoints (lab02_resume.py).
"""

from __future__ import annotations

import torch

from minituner.grading.checks.asking import Asking, equal, gap, words
from minituner.grading.checks.lab02_asking import (
    KIT,
    VOCAB,
    Pairs,
    batch,
    close,
    listed,
    loop,
    loss,
    tokens,
    wrong,
)
from minituner.grading.expr import Expr
from minituner.minigpt import MiniGPT, MiniGPTConfig

# --- C1: the model as it is when it answers -------------------------------------------------------


def adapt_eval_is_without_dropout_and_gradients(ask: Asking) -> None:
    of, (inputs, _) = loop(ask, dropout=0.5), batch(ask)
    before = ask.w.keep(KIT.luck())
    got = ask.w.keep(ask.star("predict")(of.model, inputs))
    told = (got, ask.kit.flag(got), of.model.modes(), before, KIT.luck())
    logits, flag, modes, before, after = ask.w.ask(told)
    ask.near("logits - closed form", logits, of.weights[inputs], 1e-12)
    same = listed(before) == listed(after)
    facts = (flag, modes, same)
    ask.see("requires_grad, train modes, no generator moved", facts, (False, [False], True))


def adapt_eval_puts_every_mode_back(ask: Asking) -> None:
    told, want = [], []
    for whole, part in ((True, True), (False, False), (True, False), (False, True)):
        of, (inputs, _) = loop(ask, dropout=0.5), batch(ask, 2, 3)
        ask.w.do(of.model.train(whole))
        ask.w.do(of.model.part.train(part))
        logits = ask.w.keep(ask.star("predict")(of.model, inputs))
        told.append((logits, ask.kit.modules(of.model)))
        want.append((of.weights[inputs], [whole, part, part]))
    for (logits, rows), (right, modes) in zip(ask.w.ask(told), want, strict=True):
        ask.see(f"modes {modes} afterwards", [row[2] for row in rows], modes)
        ask.near("logits - closed form", logits, right, 1e-12)


# --- C2: the mean loss ----------------------------------------------------------------------------


def adapt_eval_loss_weighs_tokens_not_batches(ask: Asking) -> None:
    of = loop(ask)
    last = batch(ask, 2, ask.rng.randint(3, 8), 0.0)  # all of it counts; of the first, one of two
    batches = [batch(ask, 1, 2, 1.0), batch(ask, 4, 6), last]
    got = ask.w.ask(ask.star("evaluate")(of.model, batches))
    inputs, targets = (torch.cat([part[i].flatten() for part in batches]) for i in (0, 1))
    ask.see("type of the loss", type(got).__name__, "float")
    close(ask, "evaluate", [got], [loss(of.weights[inputs], targets)], 1e-6)


def adapt_eval_loss_leaves_the_model_as_it_was(ask: Asking) -> None:
    of, given, grad = loop(ask, dropout=0.5), batch(ask), ask.randn(VOCAB, VOCAB)
    ask.w.do(ask.kit.assign(of.shift, "grad", grad))
    got = ask.w.keep(ask.star("evaluate")(of.model, [given]))
    told = (got, of.now(ask), ask.kit.slope(of.shift), ask.kit.modules(of.model))
    found, shift, kept, rows = ask.w.ask(told)
    close(ask, "evaluate", [found], [loss(of.weights[given[0]], given[1])], 1e-6)
    facts = {
        "values": gap(shift, of.start) == 0.0,
        "gradient": gap(kept, grad) == 0.0,
        "modes": all(row[2] is True for row in rows),
    }
    wrong(ask, "not as before", facts)


# --- C3: whole answers ----------------------------------------------------------------------------


def _chain(ask: Asking, dropout: float = 0.0) -> tuple[Expr, list[int]]:
    """A model that goes a → b → c → d → e → e, f → a, g → g, whatever came before."""
    ids = ask.rng.sample(range(VOCAB), VOCAB)
    follow = dict(zip(ids, [*ids[1:5], ids[4], ids[0], ids[6]], strict=True))
    table, shift = (ask.randn(VOCAB, VOCAB) / 9 for _ in range(2))
    for one, other in follow.items():
        table[one, other] += 3.0
    return ask.w.keep(KIT.Table(table, shift, dropout)), ids


def adapt_match_counts_whole_answers(ask: Asking) -> None:
    model, (a, b, c, d, e, f, g) = _chain(ask)
    given = [
        ([f, a], [b, c, d, e]),  # right
        ([g, c], [d, e]),  # right
        ([a], [c, d, e]),  # wrong at once
        ([a], [b, d, e]),  # wrong in the middle
        ([f, a], [b, c, d, a]),  # wrong at the end
    ]
    more = ask.rng.randint(1, 6)
    given += ask.rng.choices(given[:2], k=more)
    ask.rng.shuffle(given)
    got = ask.w.ask(ask.star("exact_match")(model, given, g))
    close(ask, "exact_match", [got], [(2 + more) / (5 + more)], 1e-6)


def adapt_match_is_what_greedy_decoding_gives(ask: Asking) -> None:
    sizes = {"block_size": 12, "n_layer": 1, "n_head": 2, "d_model": 8, "d_ff": 8}
    config = MiniGPTConfig(vocab_size=11, tie_head=False, **sizes)
    mini = MiniGPT(config).double()
    state = mini.state_dict()
    for name, value in state.items():  # answers that depend on the whole prompt
        state[name] = ask.randn(*value.shape) / 2 + (".ln" in name or name == "ln_f.weight")
    mini.load_state_dict(state)
    given: Pairs = []
    right = 0
    for i in range(8):
        prompt, count = tokens(ask, ask.rng.randint(1, 5), 10), ask.rng.randint(2, 5)
        said = mini.generate(torch.tensor([prompt]), count, temperature=0.0)[0, len(prompt) :]
        answer = said.tolist()
        if i % 4 == 3:
            where = ask.rng.randrange(count)
            answer[where] = (answer[where] + 1) % config.vocab_size
        right += answer == said.tolist()
        given.append((prompt, answer))
    there = ask.given("minigpt.MiniGPTConfig")(vocab_size=11, tie_head=False, **sizes)
    model = ask.w.keep(ask.given("minigpt.MiniGPT")(there).double())
    ask.w.do(model.load_state_dict(state))
    got = ask.w.ask(ask.star("exact_match")(model, given, 10))
    close(ask, "exact_match on greedy answers, some changed", [got], [right / 8], 1e-6)


def adapt_match_asks_in_eval_mode(ask: Asking) -> None:
    model, (a, b, c, d, e, _, g) = _chain(ask, 0.9)
    got = ask.w.keep(ask.star("exact_match")(model, [([a], [b, c, d, e])] * 20, g))
    share, modes, rows = ask.w.ask((got, model.modes(), ask.kit.modules(model)))
    close(ask, "exact_match", [share], [1.0], 1e-6)
    facts = {"eval mode": modes == [False] * len(modes) and bool(modes)}
    facts["train mode afterwards"] = all(row[2] is True for row in rows)
    wrong(ask, "not so", facts)


# --- C4: the adapters as a dict -------------------------------------------------------------------


def adapt_best_state_is_what_trains_by_full_name(ask: Asking) -> None:
    root, inner, base, up = words(ask, 4)
    values = {
        name: ask.randn(*size)
        for name, size in (
            (root, (2, 3)),
            (f"{inner}.{up}.weight", (4, 2)),
            (f"{base}.weight", (3, 4)),
            ("lora_norm.weight", (3,)),
        )
    }
    trained = {root, f"{inner}.{up}.weight"}
    rows = [(name, value, name in trained) for name, value in values.items()]
    ask.rng.shuffle(rows)
    got = ask.w.ask(ask.star("adapter_state")(ask.w.keep(KIT.tree(rows, {}))))
    ask.see("names", sorted(got), sorted(trained))
    for name in trained:
        ask.near(f"state[{name}] - its value", got[name], values[name], 0.0)


def adapt_best_state_is_detached_copies(ask: Asking) -> None:
    of = loop(ask)
    state = ask.w.keep(ask.star("adapter_state")(of.model))
    ask.w.do(ask.kit.add(of.shift, 1.0))
    value, flag = ask.w.ask((state["part.shift"], ask.kit.flag(state["part.shift"])))
    ask.near("state - what it was", value, of.start, 0.0)
    ask.see("requires_grad", flag, False)


# --- C5: the best so far --------------------------------------------------------------------------


def _keep(ask: Asking, run: Expr, learned: float, control: float, lowest: float) -> Expr:
    return ask.w.keep(ask.star("keep")(run, learned, control, lowest))


def adapt_best_is_kept_while_the_control_holds(ask: Asking) -> None:
    of, learned = loop(ask), ask.rng.randint(1, 98) / 99
    control = ask.rng.randint(1, 98) / 99
    ask.w.do(ask.kit.assign(of.it, "since", ask.rng.randint(2, 5)))
    better = _keep(ask, of.it, learned, control, control)
    got = ask.w.ask((better, of.it.best, of.it.since, of.it.kept))
    equal(ask, "better, best, since", got[:3], [True, [learned, control], 0])
    ask.see("names in kept", sorted(got[3]), ["part.shift"])
    ask.near("kept - the adapters", got[3]["part.shift"], of.start, 0.0)


def adapt_best_is_not_what_forgot_more(ask: Asking) -> None:
    of, lowest, since = loop(ask), ask.rng.randint(50, 98) / 99, ask.rng.randint(1, 5)
    best, mark = (0.25, lowest), ask.randn(1)
    for field, value in (("best", best), ("since", since), ("kept", {"part.shift": mark})):
        ask.w.do(ask.kit.assign(of.it, field, value))
    better = _keep(ask, of.it, 1.0, lowest - ask.rng.randint(1, 40) / 99, lowest)
    got = ask.w.ask((better, of.it.best, of.it.since, of.it.kept))
    equal(ask, "better, best, since", got[:3], [False, list(best), since + 1])
    ask.near("kept - what was kept", got[3].get("part.shift"), mark, 0.0)


def adapt_best_compares_learned_first_then_control(ask: Asking) -> None:
    of, lowest = loop(ask), ask.rng.randint(40, 80) / 100
    low, high = 0.5, 0.5 + ask.rng.randint(1, 9) / 200
    top, mid = lowest + 0.1, lowest + 0.05
    told = [(low, top), (high, lowest), (high, lowest), (high, mid), (low, top), (high, mid - 0.02)]
    got = [(_keep(ask, of.it, *one, lowest), ask.w.keep(of.it.since)) for one in told]
    rows, best = ask.w.ask((got, of.it.best))
    want = [[True, 0], [True, 0], [False, 1], [True, 0], [False, 1], [False, 2]]
    equal(ask, f"better, since for {len(told)} evaluations", rows, want)
    equal(ask, "best", best, [high, mid])


def adapt_best_does_not_train_along(ask: Asking) -> None:
    of, learned = loop(ask), ask.rng.randint(50, 98) / 99
    _keep(ask, of.it, learned, 0.9, 0.0)
    ask.w.do(ask.kit.add(of.shift, 1.0))
    _keep(ask, of.it, learned / 2, 0.9, 0.0)
    kept = ask.w.ask(of.it.kept)
    ask.near("kept - adapters at the best", kept.get("part.shift"), of.start, 0.0)
