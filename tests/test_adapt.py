"""The contract of lab 02: what src/minituner/adapt.py promises. Read it; never edit it.

    pytest -k test_adapt                      your file (as shipped, every test fails, by design)
    pytest -k test_adapt --impl reference     the solution, all green

The oracles are closed forms in float64, worked examples and MiniGPT's own greedy decoding, never
the code under test. Values change with every run; a failing test prints the seed that repeats it.
"""

from __future__ import annotations

import copy
import io
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from minituner.adapt import (
    adapt,
    adapter_parameters,
    adapter_state,
    check_adapters,
    checkpoint,
    clip_,
    evaluate,
    exact_match,
    keep,
    learning_rate,
    load_adapters,
    masked_loss,
    padded,
    predict,
    rehearsed,
    restore,
    train_step,
)
from minituner.messages import tells
from minituner.minigpt import MiniGPT, MiniGPTConfig
from minituner.recipe import IGNORE, Batch, Checkpoint, Pair, Recipe, Run
from minituner.words import explaining, say

explain = explaining("lab/02-adapt-without-forgetting.md")
# float(loss) is as good as loss.item(); torch warns of it once
pytestmark = pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")

BLUEPRINT = "src/minituner/BLUEPRINT-02.md"
VOCAB = 7
STATE = (ValueError, TypeError, KeyError)  # a state that does not fit may be any of these

# --- what the tests build -------------------------------------------------------------------------


class Part(nn.Module):
    """What of a Table trains: a shift of it, and dropout, in a module with a mode of its own."""

    def __init__(self, table: Tensor, dropout: float) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros_like(table))
        self.drop = nn.Dropout(dropout)


class Table(nn.Module):
    """The next token's logits from the last token alone: row table + shift, the table frozen.

    It keeps the inputs and the mode of every call.
    """

    def __init__(self, dropout: float = 0.0, values: Tensor | None = None) -> None:
        super().__init__()
        table = torch.randn(VOCAB, VOCAB, dtype=torch.float64) if values is None else values
        self.lora_table = nn.Parameter(table, requires_grad=False)  # whatever its name says
        self.part = Part(table, dropout)
        self.calls: list[tuple[Tensor, bool]] = []

    def forward(self, tokens: Tensor) -> Tensor:
        self.calls.append((tokens, self.training))
        rows = nn.functional.embedding(tokens, self.lora_table + self.part.shift)
        out: Tensor = self.part.drop(rows)
        return out

    @property
    def shift(self) -> nn.Parameter:
        return self.part.shift


class Momentum(torch.optim.Optimizer):
    """v ← mu v + g, p ← p - lr v: what SGD does, without the second that making one takes.

    As in torch, state_dict() gives the live tensors, and load_state_dict() keeps those it gets.
    """

    def __init__(self, params: Iterable[nn.Parameter], mu: float = 0.0) -> None:
        self.param_groups = [{"params": [param], "lr": 0.0} for param in params]
        self.mu = mu
        self.speeds: dict[int, Tensor] = {}
        self.done = 0

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for group in self.param_groups:
            group["params"][0].grad = None

    def step(self, closure: Any = None) -> Any:  # Any: as torch's own, by overloads
        with torch.enable_grad():
            loss = None if closure is None else closure()
        self.done += 1
        assert self.done <= 200, say("200 steps and no end: is run.step counted?")
        with torch.no_grad():
            for i, group in enumerate(self.param_groups):
                param = group["params"][0]
                if param.grad is not None:
                    speed = self.speeds.setdefault(i, torch.zeros_like(param))
                    speed.mul_(self.mu).add_(param.grad)
                    param.sub_(group["lr"] * speed)
        return loss

    def state_dict(self) -> dict[str, Any]:
        groups = [{"params": [i], "lr": g["lr"]} for i, g in enumerate(self.param_groups)]
        state = {i: {"momentum_buffer": speed} for i, speed in self.speeds.items()}
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if len(state_dict["param_groups"]) != len(self.param_groups):
            raise ValueError("loaded state dict has a different number of parameter groups")
        self.speeds = {i: kept["momentum_buffer"] for i, kept in state_dict["state"].items()}
        for group, kept in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group["lr"] = kept["lr"]


def draw_tokens(count: int) -> list[int]:
    return [random.randrange(VOCAB) for _ in range(count)]


def draw_pairs(count: int) -> list[Pair]:
    return [
        (draw_tokens(random.randint(1, 4)), draw_tokens(random.randint(1, 4))) for _ in range(count)
    ]


def draw_batch(rows: int = 3, seq: int = 5, hidden_share: float = 0.5) -> Batch:
    """Inputs and targets of which about half are hidden, and at least one counts."""
    inputs = torch.randint(VOCAB, (rows, seq))
    targets = torch.randint(VOCAB, (rows, seq))
    hidden = torch.rand(rows, seq) < hidden_share
    hidden[0, 0] = False
    return inputs, targets.masked_fill(hidden, IGNORE)


RECIPE = Recipe(steps=40, pad_id=0, size=6, share=0.5, peak=0.5, warmup=8, max_norm=1e9, every=10)


def draw_run(dropout: float = 0.0, mu: float = 0.0) -> Run:
    """A run on a Table whose shift is not zero, as in the middle of training."""
    model = Table(dropout)
    with torch.no_grad():
        model.shift.copy_(torch.randn(VOCAB, VOCAB))
    generator = torch.Generator().manual_seed(random.randrange(2**31))
    return Run(model, Momentum([model.shift], mu), generator)


def table_of(run: Run) -> Table:
    assert isinstance(run.model, Table)
    return run.model


def values_of(run: Run) -> Tensor:
    return table_of(run).shift.detach().clone()


def saved(state: Checkpoint) -> Checkpoint:
    """Through a file and back, as torch.load(weights_only=True) reads it."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: Checkpoint = torch.load(file, weights_only=True)
    return loaded


def own_checkpoint(run: Run) -> Checkpoint:
    """A checkpoint by this page's own hand, for another moment than the run's."""
    return {
        "step": 17,
        "best": (0.75, 0.5),
        "since": 2,
        "kept": {"part.shift": torch.randn(VOCAB, VOCAB, dtype=torch.float64)},
        "adapters": {"part.shift": torch.randn(VOCAB, VOCAB, dtype=torch.float64)},
        "optimizer": {
            "state": {0: {"momentum_buffer": torch.randn(VOCAB, VOCAB, dtype=torch.float64)}},
            "param_groups": [{"params": [0], "lr": 0.125}],
        },
        "batch_rng": torch.Generator().manual_seed(5).get_state(),
        "torch_rng": torch.Generator().manual_seed(6).get_state(),
    }


# --- what the tests measure -----------------------------------------------------------------------


def gap(got: Tensor, want: Tensor) -> float:
    """max|got - want|; infinite where the shapes differ, so that nothing broadcasts."""
    if got.shape != want.shape:
        return float("inf")
    apart = (got.detach().double() - want.detach().double()).abs()
    return apart.max().item() if apart.numel() else 0.0


def dense_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """The closed form: the mean of logsumexp(z) - z[target], over the targets that count."""
    counts = targets != IGNORE
    z = logits[counts]
    chosen = z[torch.arange(len(z)), targets[counts]]
    return (z.logsumexp(dim=-1) - chosen).mean()


def dense_gradient(weights: Tensor, batch: Batch) -> Tensor:
    """The closed form for a Table: (softmax(z) - onehot) / n, added up at the input's row."""
    inputs, targets = batch[0][batch[1] != IGNORE], batch[1][batch[1] != IGNORE]
    found = weights[inputs].softmax(dim=-1)
    found[torch.arange(len(inputs)), targets] -= 1.0
    return torch.zeros_like(weights).index_add_(0, inputs, found / len(inputs))


def refusal(
    call: Callable[[], object], errors: tuple[type[Exception], ...] = (ValueError, TypeError)
) -> str | None:
    """The message with which call refuses its input, or None when it accepts it."""
    try:
        call()
    except errors as error:
        return str(error)
    return None


def random_states() -> tuple[list[int], object]:
    """Torch's global generator and Python's, to see whether somebody drew from them."""
    return torch.get_rng_state().tolist(), random.getstate()


# --- Block A, task A1: prompts and answers as rows ------------------------------------------------


@pytest.mark.task("A1")
def test_adapt_data_the_worked_rows() -> None:
    """([5, 6], [7, 8, 9]) and ([4], [3]) give the rows that BLUEPRINT-02.md shows."""
    inputs, targets = padded([([5, 6], [7, 8, 9]), ([4], [3])], 0)
    got = (inputs.tolist(), targets.tolist())
    want = (
        [[5, 6, 7, 8], [4, 0, 0, 0]],
        [[IGNORE, 7, 8, 9], [3, IGNORE, IGNORE, IGNORE]],
    )
    assert got == want, explain(
        measured=f"padded([([5, 6], [7, 8, 9]), ([4], [3])], 0) = {got}",
        expected=want,
        cause="the targets are not the inputs moved by one, or the prompt or the padding counts",
        read="P1",
    )
    assert (inputs.dtype, targets.dtype) == (torch.int64, torch.int64), explain(
        measured=f"dtypes = {(inputs.dtype, targets.dtype)}",
        expected=(torch.int64, torch.int64),
        cause="tokens are int64: an embedding and a loss want whole numbers",
        read=BLUEPRINT,
    )


@pytest.mark.task("A1")
def test_adapt_data_rows_of_any_length() -> None:
    """Each row reads back as its prompt and answer, and exactly the answer counts."""
    pairs = draw_pairs(6)
    inputs, targets = padded(pairs, VOCAB)
    longest = max(len(prompt) + len(answer) for prompt, answer in pairs) - 1
    assert inputs.shape == targets.shape == (6, longest), explain(
        measured=f"shapes = {tuple(inputs.shape)}, {tuple(targets.shape)}",
        expected=(6, longest),
        cause="a row is as long as the longest pair, less the last token",
        read="P1",
    )
    for row, (prompt, answer) in enumerate(pairs):
        whole = [*prompt, *answer]
        counted = targets[row][targets[row] != IGNORE].tolist()
        where = (targets[row] != IGNORE).nonzero().flatten().tolist()
        got = (inputs[row].tolist(), counted, where)
        first = len(prompt) - 1
        want = (
            whole[:-1] + [VOCAB] * (longest - len(whole) + 1),
            list(answer),
            list(range(first, first + len(answer))),
        )
        assert got == want, explain(
            measured=f"(inputs, targets that count, where) = {got}",
            expected=want,
            cause="the first target that counts stands at the last token of the prompt",
            read="P1",
        )


@pytest.mark.task("A1")
def test_adapt_data_the_place_decides_not_the_value() -> None:
    """A token that equals pad_id counts in an answer, and stays in a prompt."""
    inputs, targets = padded([([0, 2], [0, 0]), ([1, 2, 0], [3, 0])], 0)
    got = (inputs.tolist(), targets.tolist())
    want = ([[0, 2, 0, 0], [1, 2, 0, 3]], [[IGNORE, 0, 0, IGNORE], [IGNORE, IGNORE, 3, 0]])
    assert got == want, explain(
        measured=f"padded([([0, 2], [0, 0]), ([1, 2, 0], [3, 0])], 0) = {got}",
        expected=want,
        cause="targets are masked where they equal pad_id: the end of an answer is never learned",
        read="P1",
    )


@pytest.mark.task("A1")
def test_adapt_data_refuses_what_is_empty() -> None:
    """No pairs, an empty prompt and an empty answer raise ValueError (TypeError will do)."""
    cases: list[list[Pair]] = [[], [([], [1])], [([1], [2]), ([1], [])]]
    for pairs in cases:
        said = refusal(partial(padded, pairs, 0))
        assert said is not None, explain(
            measured=f"padded({pairs}, 0) -> {said!r}",
            expected="ValueError",
            cause="an empty part is not refused: such a row has no first target",
            read=BLUEPRINT,
        )


# --- Block A, task A2: the loss over what counts --------------------------------------------------


@pytest.mark.task("A2")
def test_adapt_data_loss_is_the_mean_over_what_counts() -> None:
    """The loss is the mean of logsumexp(z) - z[target] over the targets that count."""
    logits = torch.randn(3, 5, VOCAB, dtype=torch.float64)
    _, targets = draw_batch()
    got, want = masked_loss(logits, targets), dense_loss(logits, targets)
    assert gap(got, want) < 1e-12, explain(
        measured=f"loss = {got.detach()}, {int((targets != IGNORE).sum())} of 15 targets count",
        expected=f"{want}",
        cause="the sum is divided by all positions, or by none, or a hidden target counts",
        read="P2",
    )


@pytest.mark.task("A2")
def test_adapt_data_loss_of_a_guess_is_log_vocab() -> None:
    """Equal logits cost log(vocab) nats, however many targets count."""
    targets = torch.tensor([[3, IGNORE, IGNORE], [IGNORE, IGNORE, 1]])
    got = float(masked_loss(torch.zeros(2, 3, 5, dtype=torch.float64), targets))
    assert abs(got - math.log(5)) < 1e-12, explain(
        measured=f"loss = {got}",
        expected=f"log(5) = {math.log(5)}",
        cause="the loss is not in nats, or not a mean over the targets that count",
        read="P2",
    )


@pytest.mark.task("A2")
def test_adapt_data_loss_sends_no_gradient_where_nothing_counts() -> None:
    """The gradient is (softmax - onehot) / n where a target counts, and zero elsewhere."""
    logits = torch.randn(3, 5, VOCAB, dtype=torch.float64, requires_grad=True)
    _, targets = draw_batch()
    torch.autograd.backward(masked_loss(logits, targets))
    counts = targets != IGNORE
    want = torch.zeros_like(logits)
    rows = logits.detach()[counts].softmax(dim=-1)
    rows[torch.arange(len(rows)), targets[counts]] -= 1.0
    want[counts] = rows / len(rows)
    found = float("inf") if logits.grad is None else gap(logits.grad, want)
    assert found < 1e-12, explain(
        measured=f"max|gradient - closed form| = {found:.1e}",
        expected="< 1e-12",
        cause="a hidden position sends a gradient, or the loss is cut off from the logits",
        read="P2",
    )


@pytest.mark.task("A2")
def test_adapt_data_loss_refuses_when_nothing_counts() -> None:
    """Targets that are all hidden raise ValueError (TypeError will do); they give no NaN."""
    hidden = torch.full((2, 3), IGNORE)
    said = refusal(partial(masked_loss, torch.zeros(2, 3, VOCAB), hidden))
    assert said is not None and "target" in said, explain(
        measured=f"masked_loss(logits, all {IGNORE}) -> {said!r}",
        expected="ValueError: target …",
        cause="a mean over nothing is NaN, and one such batch makes every parameter NaN",
        read="P2",
    )


# --- Block A, task A3: rehearsal ------------------------------------------------------------------


def numbered(first: int, count: int) -> list[Pair]:
    """Pairs that can be told apart: ([first], [1]), ([first + 1], [1]), …"""
    return [([first + i], [1]) for i in range(count)]


def of(batch: Sequence[Pair], first: int, count: int) -> int:
    """How many of the batch's pairs are among those numbered so."""
    return sum(first <= prompt[0] < first + count for prompt, _ in batch)


@pytest.mark.task("A3")
def test_adapt_rehearse_gives_each_its_share() -> None:
    """A batch is round(share · size) pairs of old and the rest of new, however few there are."""
    new, old = numbered(0, 3), numbered(100, 4)
    for size, share in ((8, 0.25), (8, 0.5), (10, 0.33), (12, 0.9), (5, 0.0), (1, 0.3)):
        batch = rehearsed(new, old, size, share, torch.Generator().manual_seed(size))
        got, want = (of(batch, 100, 4), of(batch, 0, 3), len(batch)), round(share * size)
        assert got == (want, size - want, size), explain(
            measured=f"size={size}, share={share}: (old, new, in all) = {got}",
            expected=(want, size - want, size),
            cause="share is the part of the batch that comes from old; the rest comes from new",
            read="P3",
        )


@pytest.mark.task("A3")
def test_adapt_rehearse_without_a_share_needs_no_old() -> None:
    """With a share of 0 old may be empty."""
    batch = rehearsed(numbered(0, 3), [], 4, 0.0, torch.Generator().manual_seed(1))
    assert (of(batch, 0, 3), len(batch)) == (4, 4), explain(
        measured=f"(of new, in all) = {(of(batch, 0, 3), len(batch))}",
        expected=(4, 4),
        cause="something is drawn from old though its share is 0",
        read="P3",
    )


@pytest.mark.task("A3")
def test_adapt_rehearse_draws_all_alike() -> None:
    """Over many batches each pair of new comes equally often, and each pair of old."""
    new, old = numbered(0, 5), numbered(100, 6)
    generator = torch.Generator().manual_seed(random.randrange(2**31))
    drawn = [prompt[0] for _ in range(400) for prompt, _ in rehearsed(new, old, 8, 0.5, generator)]
    counts = [drawn.count(prompt[0]) for prompt, _ in (*new, *old)]
    want = [320] * 5 + [267] * 6
    near = all(0.5 * w < c < 1.5 * w for c, w in zip(counts, want, strict=True))
    assert near, explain(
        measured=f"times each pair came in 400 batches = {counts}",
        expected=f"about {want}",
        cause="some pairs are never drawn, or more often than others: the first ones, for example",
        read="P3",
    )


@pytest.mark.task("A3")
def test_adapt_rehearse_draws_from_its_generator_alone() -> None:
    """The same generator's state gives the same batches, and no other generator moves."""
    new, old = numbered(0, 9), numbered(100, 9)
    seed = random.randrange(2**31)
    before = random_states()
    runs = []
    for other in (1, 2):
        torch.default_generator.manual_seed(other)
        random.seed(other)
        here = random_states()
        generator = torch.Generator().manual_seed(seed)
        runs.append([rehearsed(new, old, 8, 0.5, generator) for _ in range(3)])
        moved = random_states() != here
        assert not moved, explain(
            measured=f"a global generator moved: {moved}",
            expected=False,
            cause="the batch is drawn from a global generator: dropout and batches then mix",
            read="P3",
        )
    assert before != random_states() and runs[0] == runs[1] and runs[0][0] != runs[0][1], explain(
        measured=f"(same seed same batches, two in a row differ) = "
        f"{(runs[0] == runs[1], runs[0][0] != runs[0][1])}",
        expected=(True, True),
        cause="the batch does not come from generator, or the generator is seeded anew each time",
        read="P3",
    )


@pytest.mark.task("A3")
def test_adapt_rehearse_refuses_a_share_outside_its_range() -> None:
    """A share below 0, of 1 or more, or NaN raises ValueError (TypeError will do), naming it."""
    for bad in (-0.25, 1.0, 1.5, float("nan")):
        pairs = numbered(0, 9)
        said = refusal(partial(rehearsed, pairs, pairs, 4, bad, torch.Generator()))
        assert said is not None and "share" in said and tells(said, bad), explain(
            measured=f"rehearsed(new, old, 4, {bad}, generator) -> {said!r}",
            expected=f"ValueError: share … {bad}",
            cause="share is not checked, or the message does not name it and what it got",
            read=BLUEPRINT,
        )


# --- Block B, task B1: what trains ----------------------------------------------------------------


class Mixed(nn.Module):
    """Frozen and trained parameters, with names that tell nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.lora_norm = nn.LayerNorm(3).requires_grad_(False)
        self.down = nn.Parameter(torch.randn(2, 3))
        self.base = nn.Linear(3, 4).requires_grad_(False)
        self.inner = nn.ModuleDict({"up": nn.Linear(2, 4, bias=False)})

    @property
    def up(self) -> nn.Parameter:
        return self.get_parameter("inner.up.weight")


@pytest.mark.task("B1")
def test_adapt_loop_takes_what_requires_grad() -> None:
    """The very Parameters that require grad, each once, whatever they are called."""
    model = Mixed()
    model.again = model.inner  # reached twice
    names = {id(param): name for name, param in model.named_parameters()}
    got = [names.get(id(param), "a copy") for param in adapter_parameters(model)]
    assert got == ["down", "inner.up.weight"], explain(
        measured=f"by name = {got}",
        expected=["down", "inner.up.weight"],
        cause="frozen parameters are in the list, or one is missing, twice, or a copy",
        read="P4",
    )


@pytest.mark.task("B1")
def test_adapt_loop_refuses_a_model_in_which_nothing_trains() -> None:
    """No parameter that requires grad: ValueError (TypeError will do)."""
    model = nn.Linear(3, 4).requires_grad_(False)
    said = refusal(lambda: adapter_parameters(model))
    assert said is not None, explain(
        measured=f"adapter_parameters(frozen model) -> {said!r}",
        expected="ValueError",
        cause="an empty list is returned: the loop would run and train nothing",
        read="P4",
    )


# --- Block B, task B2: the learning rate ----------------------------------------------------------


@pytest.mark.task("B2")
def test_adapt_rate_the_worked_schedule() -> None:
    """steps 8, warmup 4, peak 0.8, floor 0.4: 0.2 0.4 0.6 0.8, then 0.8 down to 0.4 at step 8."""
    recipe = Recipe(steps=8, pad_id=0, warmup=4, peak=0.8, floor=0.4)
    got = [learning_rate(step, recipe) for step in (0, 1, 2, 3, 4, 6, 8)]
    want = [0.2, 0.4, 0.6, 0.8, 0.8, 0.6, 0.4]
    near = all(abs(g - w) < 1e-6 for g, w in zip(got, want, strict=True))
    assert near, explain(
        measured=f"rates at steps 0, 1, 2, 3, 4, 6, 8 = {[round(g, 6) for g in got]}",
        expected=want,
        cause="step 0 has (1 / warmup) of the peak, step warmup the peak, step steps the floor",
        read="P5",
    )


@pytest.mark.task("B2")
def test_adapt_rate_falls_along_a_cosine() -> None:
    """From warmup on: floor + (peak - floor) · (1 + cos(π t)) / 2, t from 0 to 1."""
    warmup, after = random.randint(2, 5), random.randint(7, 12)
    peak, floor = random.choice((0.5, 0.01)), random.choice((0.0, 0.001))
    recipe = Recipe(steps=warmup + after, pad_id=0, warmup=warmup, peak=peak, floor=floor)
    got = [learning_rate(warmup + i, recipe) for i in range(after + 1)]
    want = [
        floor + (peak - floor) * (1 + math.cos(math.pi * i / after)) / 2 for i in range(after + 1)
    ]
    far = max(abs(g - w) for g, w in zip(got, want, strict=True)) / peak
    assert far < 1e-6, explain(
        measured=f"max|rate - closed form| / peak = {far:.1e} from step {warmup} on",
        expected="< 1e-6",
        cause="t is not (step - warmup) / (steps - warmup), or the fall is not half a cosine",
        read="P5",
    )


@pytest.mark.task("B2")
def test_adapt_rate_stays_at_the_floor() -> None:
    """After the last step the rate stays at floor; the cosine does not come up again."""
    recipe = Recipe(steps=10, pad_id=0, warmup=2, peak=0.5, floor=0.125)
    got = [learning_rate(step, recipe) for step in (10, 13, 18, 1000)]
    assert all(abs(rate - 0.125) < 1e-6 for rate in got), explain(
        measured=f"rates at steps 10, 13, 18, 1000 of 10 = {got}",
        expected=[0.125] * 4,
        cause="t is not held at 1, so the cosine rises again",
        read="P5",
    )


@pytest.mark.task("B2")
def test_adapt_rate_without_warmup_starts_at_the_peak() -> None:
    """warmup = 0: step 0 has the peak."""
    got = learning_rate(0, Recipe(steps=10, pad_id=0, warmup=0, peak=0.5))
    assert abs(got - 0.5) < 1e-6, explain(
        measured=f"learning_rate(0) = {got}",
        expected=0.5,
        cause="a warmup of 0 still warms up, or ends in a division by zero",
        read="P5",
    )


# --- Block B, task B3: clipping -------------------------------------------------------------------


def with_gradients(*gradients: Sequence[float] | None) -> list[nn.Parameter]:
    """One float64 parameter for each gradient; None leaves one without."""
    found = []
    for values in gradients:
        param = nn.Parameter(torch.zeros(len(values or (0,)), dtype=torch.float64))
        param.grad = None if values is None else torch.tensor(values, dtype=torch.float64)
        found.append(param)
    return found


def gradients_of(params: Sequence[nn.Parameter]) -> list[list[float] | None]:
    return [None if param.grad is None else param.grad.tolist() for param in params]


@pytest.mark.task("B3")
def test_adapt_clip_the_worked_example() -> None:
    """Gradients (3, 4) and (12) have norm 13; clipped to 6.5 they are (1.5, 2) and (6)."""
    params = with_gradients([3.0, 4.0], None, [12.0])
    norm = clip_(params, 6.5)
    got = torch.tensor([g for row in gradients_of(params) for g in row or ()])
    far = gap(got, torch.tensor([1.5, 2.0, 6.0]))
    assert abs(norm - 13.0) < 1e-9 and far < 1e-4 and params[1].grad is None, explain(
        measured=f"norm = {norm}, gradients = {gradients_of(params)}",
        expected="13.0, [[1.5, 2.0], None, [6.0]]",
        cause="each gradient is clipped by itself, or the norm returned is the one afterwards",
        read="P6",
    )


@pytest.mark.task("B3")
def test_adapt_clip_scales_all_alike() -> None:
    """The gradient keeps its direction: all entries are multiplied by max_norm / norm."""
    params = [nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(5))]
    grads = [torch.randn(2, 3) * 9, torch.randn(5)]
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad.clone()
    whole = torch.cat([grad.double().flatten() for grad in grads])
    want = whole.square().sum().sqrt().item()
    limit = want * random.choice((0.25, 0.5))
    norm = clip_((param for param in params), limit)  # a generator can be read once
    found = torch.cat([p.grad.double().flatten() for p in params if p.grad is not None])
    far = gap(found, whole * (limit / want)) / limit
    assert abs(norm / want - 1) < 1e-5 and far < 1e-5, explain(
        measured=f"norm = {norm:.6f}, max|gradient - closed form| / max_norm = {far:.1e}",
        expected=f"{want:.6f}, < 1e-5",
        cause="entries are clamped one by one, or the parameters are read twice from a generator",
        read="P6",
    )


@pytest.mark.task("B3")
def test_adapt_clip_leaves_a_small_gradient_alone() -> None:
    """A norm of at most max_norm changes nothing: a small gradient is never made larger."""
    params = with_gradients([0.3, -0.4], [0.0])
    norm = clip_(params, 2.0)
    got = gradients_of(params)
    assert abs(norm - 0.5) < 1e-9 and got == [[0.3, -0.4], [0.0]], explain(
        measured=f"norm = {norm}, gradients = {got}",
        expected="0.5, [[0.3, -0.4], [0.0]]",
        cause="the gradient is scaled to max_norm even where it is smaller",
        read="P6",
    )


@pytest.mark.task("B3")
def test_adapt_clip_refuses_what_is_not_finite() -> None:
    """NaN or infinity in any gradient raises ValueError (TypeError will do); none is changed."""
    for bad in (float("nan"), float("inf"), float("-inf")):
        params = with_gradients([3.0, 4.0], [bad], [5.0])
        said = refusal(partial(clip_, params, 1.0))
        left = gradients_of(params)
        kept = (left[0], left[2]) == ([3.0, 4.0], [5.0])
        assert said is not None and kept, explain(
            measured=f"a gradient of {bad}: {said!r}, the others as they were: {kept}",
            expected="ValueError, True",
            cause="the norm is not checked before the scaling: NaN spreads to every gradient",
            read="P6",
        )


# --- Block B, task B4: one step -------------------------------------------------------------------


@pytest.mark.task("B4")
def test_adapt_step_is_the_closed_form() -> None:
    """shift ← shift - rate · clipped gradient, at the rate of this very step."""
    for step, tightness in ((3, 0.5), (21, 2.0), (21, 0.5)):
        run = draw_run()
        run.step = step
        batch, before = draw_batch(), values_of(run)
        gradient = dense_gradient(table_of(run).lora_table.detach() + before, batch)
        norm = gradient.square().sum().sqrt().item()
        train_step(run, batch, replace(RECIPE, max_norm=norm * tightness))
        rate = 0.25 if step == 3 else 0.25 * (1 + math.cos(math.pi * 13 / 32))
        want = before - rate * min(1.0, tightness) * gradient
        far = gap(values_of(run), want)
        assert far < 1e-5, explain(
            measured=f"max|shift - closed form| = {far:.1e} after step {step}, "
            f"max_norm = {tightness} of the norm",
            expected="< 1e-5",
            cause="the step is not zero_grad, loss, backward, clip, rate, step, in this order",
            read="P7",
        )


@pytest.mark.task("B4")
def test_adapt_step_forgets_older_gradients() -> None:
    """What an earlier backward left behind plays no part."""
    run = draw_run()
    batch, before = draw_batch(), values_of(run)
    gradient = dense_gradient(table_of(run).lora_table.detach() + before, batch)
    table_of(run).shift.grad = torch.randn_like(before)
    train_step(run, batch, replace(RECIPE, warmup=0))
    far = gap(values_of(run), before - 0.5 * gradient)
    assert far < 1e-5, explain(
        measured=f"max|shift - closed form| = {far:.1e} with an old gradient in place",
        expected="< 1e-5",
        cause="zero_grad is missing, or comes after backward",
        read="P7",
    )


@pytest.mark.task("B4")
def test_adapt_step_returns_the_loss_before_it_and_counts() -> None:
    """The loss is that of the weights before the step, a float; run.step is one higher."""
    run = draw_run()
    run.step = 5
    batch = draw_batch()
    weights = table_of(run).lora_table.detach() + values_of(run)
    want = dense_loss(weights[batch[0]], batch[1]).item()
    got = train_step(run, batch, RECIPE)
    right = type(got) is float and abs(got - want) < 1e-9 and run.step == 6
    assert right, explain(
        measured=f"{type(got).__name__} {got}, run.step = {run.step}",
        expected=f"float {want}, run.step = 6",
        cause="the loss is a tensor, or measured after the step, or the step is not counted",
        read="P7",
    )


@pytest.mark.task("B4")
def test_adapt_step_trains_in_train_mode() -> None:
    """Dropout is on in a step, also after an evaluation left the model in eval."""
    run = draw_run()
    run.model.eval()
    train_step(run, draw_batch(), RECIPE)
    modes = [training for _, training in table_of(run).calls]
    assert modes == [True], explain(
        measured=f"model.training in each forward = {modes}",
        expected=[True],
        cause="the model is not put into train mode, or runs more than once a step",
        read="P7",
    )


@pytest.mark.task("B4")
def test_adapt_step_sets_the_rate_in_every_group() -> None:
    """Every group of the optimiser gets this step's rate; what does not train does not move."""
    model = Table()
    extra = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    model.register_parameter("extra", extra)
    run = Run(model, Momentum([model.shift, extra]), torch.Generator())
    frozen = model.lora_table.detach().clone()
    train_step(run, draw_batch(), RECIPE)
    got = [group["lr"] for group in run.optimizer.param_groups]
    still = torch.equal(model.lora_table, frozen)
    assert all(abs(rate - 0.0625) < 1e-6 for rate in got) and still, explain(
        measured=f"rates = {got}, the frozen table as it was: {still}",
        expected="[0.0625, 0.0625], True",
        cause="only one group's rate is set, or it is the next step's, or a frozen tensor moved",
        read="P7",
    )


@pytest.mark.task("B4")
def test_adapt_step_refuses_a_gradient_that_is_not_finite() -> None:
    """ValueError (TypeError will do): no parameter has moved, and run.step is as it was."""
    run = draw_run()
    with torch.no_grad():
        table_of(run).lora_table[2, 3] = float("nan")
    before = values_of(run)
    batch = (torch.full((1, 2), 2), torch.ones(1, 2, dtype=torch.int64))
    said = refusal(lambda: train_step(run, batch, RECIPE))
    same = torch.equal(values_of(run), before)
    assert said is not None and same and run.step == 0, explain(
        measured=f"{said!r}, shift as it was: {same}, run.step = {run.step}",
        expected="ValueError, True, run.step = 0",
        cause="the optimiser steps before the norm is known, or the error is swallowed",
        read="P6",
    )


# --- Block C, task C1: the model as it is when it answers -----------------------------------------


@pytest.mark.task("C1")
def test_adapt_eval_is_without_dropout_and_gradients() -> None:
    """The logits are those of eval mode, and they require no grad."""
    run = draw_run(dropout=0.5)
    model = table_of(run).train()
    inputs = torch.randint(VOCAB, (3, 4))
    before = random_states()
    got = predict(model, inputs)
    far = gap(got, (model.lora_table + model.shift).detach()[inputs])
    facts = (got.requires_grad, [mode for _, mode in model.calls], random_states() == before)
    assert far == 0.0 and facts == (False, [False], True), explain(
        measured=f"max|logits - closed form| = {far:.1e}, "
        f"(requires_grad, modes, no generator moved) = {facts}",
        expected="0.0, (False, [False], True)",
        cause="the model is asked in train mode, or the logits carry the graph along",
        read="P8",
    )


@pytest.mark.task("C1")
def test_adapt_eval_puts_every_mode_back() -> None:
    """Each module is in the mode it was in, also where a part differs from the whole."""
    for whole, part in ((True, True), (False, False), (True, False), (False, True)):
        model = Table(0.5).train(whole)
        model.part.train(part)
        want = [module.training for module in model.modules()]
        predict(model, torch.randint(VOCAB, (2, 3)))
        got = [module.training for module in model.modules()]
        assert got == want, explain(
            measured=f"modes afterwards = {got}",
            expected=want,
            cause="model.train() at the end wakes parts that were in eval, or the model itself",
            read="P8",
        )


# --- Block C, task C2: the mean loss --------------------------------------------------------------


@pytest.mark.task("C2")
def test_adapt_eval_loss_weighs_tokens_not_batches() -> None:
    """The mean over the tokens that count of all batches, however they are cut."""
    run = draw_run()
    weights = table_of(run).lora_table.detach() + values_of(run)
    batches = [draw_batch(1, 2, 1.0), draw_batch(4, 6), draw_batch(2, 3, 0.0)]  # 1 of 2, 6 of 6
    inputs = torch.cat([part[0].flatten() for part in batches])
    targets = torch.cat([part[1].flatten() for part in batches])
    got, want = evaluate(run.model, batches), dense_loss(weights[inputs], targets).item()
    assert type(got) is float and abs(got - want) < 1e-6, explain(
        measured=f"evaluate = {got}",
        expected=f"{want}",
        cause="the batches' means are averaged: a small batch then weighs as much as a large one",
        read="P2",
    )


@pytest.mark.task("C2")
def test_adapt_eval_loss_leaves_the_model_as_it_was() -> None:
    """Values, gradients and modes are as before, and dropout was off."""
    run = draw_run(dropout=0.5)
    model = table_of(run).train()
    gradient = torch.randn_like(values_of(run))
    model.shift.grad = gradient.clone()
    before, batch = values_of(run), draw_batch()
    got = evaluate(model, [batch])
    want = dense_loss((model.lora_table + before).detach()[batch[0]], batch[1]).item()
    same = (
        torch.equal(values_of(run), before),
        model.shift.grad is not None and torch.equal(model.shift.grad, gradient),
        all(module.training for module in model.modules()),
    )
    assert abs(got - want) < 1e-6 and same == (True, True, True), explain(
        measured=f"loss = {got}, (values, gradient, modes as before) = {same}",
        expected=f"{want}, (True, True, True)",
        cause="an evaluation trains, clears gradients, or leaves the model in another mode",
        read="P8",
    )


# --- Block C, task C3: whole answers --------------------------------------------------------------


def chain() -> Table:
    """A model that goes 1 → 2 → 3 → 4 → 0 → 0, whatever came before."""
    values = torch.zeros(VOCAB, VOCAB, dtype=torch.float64)
    for token, follower in ((1, 2), (2, 3), (3, 4), (4, 0), (0, 0), (5, 1), (6, 6)):
        values[token, follower] = 1.0
    return Table(values=values)


@pytest.mark.task("C3")
def test_adapt_match_counts_whole_answers() -> None:
    """One wrong token, first, in the middle or last, makes the pair wrong, and weighs as much."""
    pairs: list[Pair] = [
        ([5, 1], [2, 3, 4, 0]),  # right
        ([6, 3], [4, 0]),  # right
        ([1], [3, 4, 0]),  # wrong at once
        ([1], [2, 4, 0]),  # wrong in the middle
        ([5, 1], [2, 3, 4, 1]),  # wrong at the end: the model stops, the answer goes on
    ]
    got = exact_match(chain(), pairs, VOCAB - 1)
    assert abs(got - 0.4) < 1e-6, explain(
        measured=f"exact_match = {got}",
        expected=0.4,
        cause="right tokens are counted instead of right answers, or the last token is left out",
        read="P9",
    )


@pytest.mark.task("C3")
def test_adapt_match_is_what_greedy_decoding_gives() -> None:
    """The answers of MiniGPT.generate at temperature 0 are right; changed ones are wrong."""
    config = MiniGPTConfig(
        vocab_size=11, block_size=12, n_layer=1, n_head=2, d_model=8, d_ff=8, tie_head=False
    )
    model = MiniGPT(config).double()
    with torch.no_grad():  # a model whose answers depend on the whole prompt
        for param in model.parameters():
            param.add_(torch.randn_like(param) * 0.5)
    pairs: list[Pair] = []
    for i in range(8):
        prompt = [random.randrange(10) for _ in range(random.randint(1, 5))]
        count = random.randint(2, 5)
        answer = model.generate(torch.tensor([prompt]), count, temperature=0.0)[0, len(prompt) :]
        if i % 4 == 3:
            where = random.randrange(count)
            answer[where] = (answer[where] + 1) % config.vocab_size
        pairs.append((prompt, answer.tolist()))
    got = exact_match(model, pairs, 10)
    assert abs(got - 0.75) < 1e-6, explain(
        measured=f"exact_match = {got} on 6 answers of generate(temperature=0) and 2 changed ones",
        expected=0.75,
        cause="the padding is read, or the logits are taken at the wrong place",
        read="P9",
    )


@pytest.mark.task("C3")
def test_adapt_match_asks_in_eval_mode() -> None:
    """Dropout is off, and the modes are afterwards as before."""
    model = chain().train()
    model.part.drop.p = 0.9
    got = exact_match(model, [([1], [2, 3, 4, 0])] * 20, 6)
    modes = {mode for _, mode in model.calls}
    facts = (got, modes, all(module.training for module in model.modules()))
    assert facts == (1.0, {False}, True), explain(
        measured=f"(exact_match, modes in forward, train mode afterwards) = {facts}",
        expected=(1.0, {False}, True),
        cause="the model is asked in train mode, so dropout answers with it",
        read="P8",
    )


# --- Block C, task C4: the adapters as a dict -----------------------------------------------------


@pytest.mark.task("C4")
def test_adapt_best_state_is_what_trains_by_full_name() -> None:
    """Exactly the parameters that require grad, each by a full dotted name."""
    model = Mixed()
    state = adapter_state(model)
    got = {name: tuple(value.shape) for name, value in state.items()}
    want = {"down": (2, 3), "inner.up.weight": (4, 2)}
    assert got == want and torch.equal(state["down"], model.down), explain(
        measured=f"names and shapes = {got}",
        expected=want,
        cause="frozen tensors are in the state, or a name has lost its path",
        read="P10",
    )


@pytest.mark.task("C4")
def test_adapt_best_state_is_detached_copies() -> None:
    """Training on changes no state that was taken before."""
    model = Mixed()
    state = adapter_state(model)
    before = {name: value.detach().clone() for name, value in state.items()}
    with torch.no_grad():
        model.down.add_(1.0)
    same = all(torch.equal(state[name], before[name]) for name in before)
    tied = [name for name, value in state.items() if value.requires_grad]
    assert same and not tied, explain(
        measured=f"the state as it was: {same}, entries that require grad = {tied}",
        expected="True, []",
        cause="detach() alone shares memory: the state trains along with the model",
        read="P10",
    )


# --- Block C, task C5: the best so far ------------------------------------------------------------


@pytest.mark.task("C5")
def test_adapt_best_is_kept_while_the_control_holds() -> None:
    """control ≥ lowest and a higher learned: best, kept and since change, and True comes back."""
    run = draw_run()
    run.since = 3
    want = values_of(run)
    got = (keep(run, 0.5, 0.9, 0.9), run.best, run.since)
    kept = list(run.kept) == ["part.shift"] and torch.equal(run.kept["part.shift"], want)
    assert got == (True, (0.5, 0.9), 0) and kept, explain(
        measured=f"(better, best, since) = {got}, kept is the adapters: {kept}",
        expected="(True, (0.5, 0.9), 0), True",
        cause="a first evaluation at the limit is not kept, or since is not set back to 0",
        read="P10",
    )


@pytest.mark.task("C5")
def test_adapt_best_is_not_what_forgot_more() -> None:
    """control < lowest is never kept, however much was learned; since counts it."""
    run = draw_run()
    run.best, run.since = (0.25, 0.9), 1
    run.kept = {"part.shift": torch.zeros(1)}
    got = (keep(run, 1.0, 0.85, 0.9), run.best, run.since, run.kept["part.shift"].numel())
    assert got == (False, (0.25, 0.9), 2, 1), explain(
        measured=f"(better, best, since, numbers kept) = {got}",
        expected=(False, (0.25, 0.9), 2, 1),
        cause="the best is chosen by learned alone: it has forgotten what the control measures",
        read="P10",
    )


@pytest.mark.task("C5")
def test_adapt_best_compares_learned_first_then_control() -> None:
    """Higher learned wins; at equal learned the higher control wins; equal in both is no better."""
    run = draw_run()
    told = [(0.5, 1.0), (0.55, 0.9), (0.55, 0.9), (0.55, 0.95), (0.5, 1.0), (0.55, 0.92)]
    got = [(keep(run, learned, control, 0.9), run.since) for learned, control in told]
    want = [(True, 0), (True, 0), (False, 1), (True, 0), (False, 1), (False, 2)]
    assert (got, run.best) == (want, (0.55, 0.95)), explain(
        measured=f"(better, since) for {told} = {got}",
        expected=want,
        cause="a tie counts as better, or the control decides before learned, or never",
        read="P10",
    )


@pytest.mark.task("C5")
def test_adapt_best_does_not_train_along() -> None:
    """What is kept stays as it was while training goes on."""
    run = draw_run()
    want = values_of(run)
    keep(run, 0.5, 0.9, 0.0)
    with torch.no_grad():
        table_of(run).shift.add_(1.0)
    keep(run, 0.25, 0.9, 0.0)
    got = gap(run.kept["part.shift"], want)
    assert got == 0.0, explain(
        measured=f"max|kept - adapters at the best| = {got:.1e}",
        expected=0.0,
        cause="kept shares memory with the model, or is taken anew though it is no better",
        read="P10",
    )


# --- Block D, task D1: does a state fit? ----------------------------------------------------------


def mixed_state() -> dict[str, Tensor]:
    return {"down": torch.randn(2, 3), "inner.up.weight": torch.randn(4, 2)}


@pytest.mark.task("D1")
def test_adapt_resume_check_takes_what_fits() -> None:
    """A state with the adapters' names and shapes is no error."""
    said = refusal(lambda: check_adapters(Mixed(), mixed_state()))
    assert said is None, explain(
        measured=f"check_adapters(model, its own names and shapes) -> {said!r}",
        expected=None,
        cause="frozen parameters are asked for, or values are compared instead of shapes",
        read="P11",
    )


@pytest.mark.task("D1")
def test_adapt_resume_check_names_every_misfit() -> None:
    """One ValueError (or TypeError, KeyError) names what is missing, unexpected, of other shape."""
    state = mixed_state()
    state["outer.up.weight"] = state.pop("inner.up.weight")
    state["down"] = torch.randn(1, 3)  # copy_ would broadcast it
    said = refusal(lambda: check_adapters(Mixed(), state), STATE)
    silent = [n for n in ("outer.up.weight", "inner.up.weight", "down") if n not in str(said)]
    assert said is not None and not silent, explain(
        measured=f"check_adapters -> {said!r}",
        expected="ValueError: … down … inner.up.weight … outer.up.weight",
        cause="names are compared one way only, shapes are not, or the first misfit hides the rest",
        read="P11",
    )


@pytest.mark.task("D1")
def test_adapt_resume_check_looks_at_each_kind_alone() -> None:
    """A missing name, an unexpected one and another shape are each enough."""
    missing, unexpected, shape = mixed_state(), mixed_state(), mixed_state()
    del missing["down"]
    unexpected["base.weight"] = torch.randn(4, 3)
    shape["inner.up.weight"] = torch.randn(2, 4)
    for state, name in ((missing, "down"), (unexpected, "base.weight"), (shape, "inner.up.weight")):
        said = refusal(partial(check_adapters, Mixed(), state), STATE)
        assert said is not None and name in said, explain(
            measured=f"check_adapters with {name} wrong -> {said!r}",
            expected=f"ValueError: … {name}",
            cause="names are compared one way only, or shapes are not compared",
            read="P11",
        )


# --- Block D, task D2: a state into the model -----------------------------------------------------


@pytest.mark.task("D2")
def test_adapt_resume_load_copies_into_the_parameters() -> None:
    """The values arrive in the very Parameters that were there, and nothing is shared."""
    model = Mixed()
    before = [(id(param), param.requires_grad) for param in model.parameters()]
    state = mixed_state()
    want = {name: value.clone() for name, value in state.items()}
    load_adapters(model, state)
    for value in state.values():
        value.add_(1.0)
    got = (
        max(gap(model.down, want["down"]), gap(model.up, want["inner.up.weight"])),
        [(id(param), param.requires_grad) for param in model.parameters()] == before,
    )
    assert got == (0.0, True), explain(
        measured=f"(max|parameter - state|, the same Parameters and flags) = {got}",
        expected=(0.0, True),
        cause="a new Parameter is put in place, or its memory is the state's",
        read="P11",
    )


@pytest.mark.task("D2")
def test_adapt_resume_load_refuses_before_it_writes() -> None:
    """What does not fit raises ValueError (or TypeError, KeyError), and nothing is written."""
    model = Mixed()
    before = model.down.detach().clone()
    for name, value in (("inner.up.weight", torch.randn(1, 2)), ("stranger", torch.randn(1))):
        state = mixed_state() | {name: value}
        said = refusal(partial(load_adapters, model, state), STATE)
        same = torch.equal(model.down, before)
        assert said is not None and name in said and same, explain(
            measured=f"{said!r}, the model as it was: {same}",
            expected=f"ValueError: … {name}, True",
            cause="entries are written one by one, and the check comes too late",
            read="P11",
        )


# --- Block D, task D3: a checkpoint ---------------------------------------------------------------


@pytest.mark.task("D3")
def test_adapt_resume_checkpoint_holds_all_there_is() -> None:
    """Every value of the run, the optimiser's and both generators', through a file and back."""
    run = draw_run(mu=0.9)
    run.step, run.best, run.since = 12, (0.5, 0.75), 3
    run.kept = {"part.shift": torch.randn(2, 2)}
    optimizer = run.optimizer
    assert isinstance(optimizer, Momentum)
    optimizer.speeds[0] = torch.randn(VOCAB, VOCAB, dtype=torch.float64)
    optimizer.param_groups[0]["lr"] = 0.375
    torch.rand(3)
    torch.rand(2, generator=run.generator)
    rngs = (run.generator.get_state(), torch.get_rng_state())
    state = saved(checkpoint(run))
    wrong = []
    if set(state) != set(Checkpoint.__annotations__):
        wrong.append(f"keys: {sorted(state)}")
    else:
        held: Any = state["optimizer"]
        facts = {
            "step": state["step"] == 12,
            "best": tuple(state["best"]) == (0.5, 0.75),
            "since": state["since"] == 3,
            "kept": gap(state["kept"]["part.shift"], run.kept["part.shift"]) == 0.0,
            "adapters": gap(state["adapters"]["part.shift"], values_of(run)) == 0.0,
            "optimizer": held["param_groups"][0]["lr"] == 0.375
            and gap(held["state"][0]["momentum_buffer"], optimizer.speeds[0]) == 0.0,
            "batch_rng": torch.equal(state["batch_rng"], rngs[0]),
            "torch_rng": torch.equal(state["torch_rng"], rngs[1]),
        }
        wrong = [name for name, right in facts.items() if not right]
    assert not wrong, explain(
        measured=f"entries that are missing or not the run's: {wrong}",
        expected=[],
        cause="a checkpoint leaves something out that the next step depends on",
        read="P12",
    )


@pytest.mark.task("D3")
def test_adapt_resume_checkpoint_does_not_train_along() -> None:
    """Training on changes no checkpoint that was taken before, the optimiser's part included."""
    run = draw_run(mu=0.9)
    optimizer = run.optimizer
    assert isinstance(optimizer, Momentum)
    optimizer.speeds[0] = torch.randn(VOCAB, VOCAB, dtype=torch.float64)
    state = checkpoint(run)
    before = copy.deepcopy(state)
    with torch.no_grad():
        table_of(run).shift.add_(1.0)
    optimizer.speeds[0].add_(1.0)
    run.step, run.kept = 99, {}
    torch.rand(3)
    torch.rand(3, generator=run.generator)
    held: Any = state["optimizer"]
    then: Any = before["optimizer"]
    same = {
        "step": state["step"] == before["step"],
        "adapters": gap(state["adapters"]["part.shift"], before["adapters"]["part.shift"]) == 0,
        "optimizer": gap(held["state"][0]["momentum_buffer"], then["state"][0]["momentum_buffer"])
        == 0,
        "batch_rng": torch.equal(state["batch_rng"], before["batch_rng"]),
        "torch_rng": torch.equal(state["torch_rng"], before["torch_rng"]),
    }
    changed = [name for name, unchanged in same.items() if not unchanged]
    assert not changed, explain(
        measured=f"entries that changed with the run: {changed}",
        expected=[],
        cause="state_dict() hands out the live tensors: the checkpoint trains along",
        read="P12",
    )


@pytest.mark.task("D3")
def test_adapt_resume_checkpoint_changes_nothing() -> None:
    """Taking a checkpoint moves no generator and no value."""
    run = draw_run()
    before = (values_of(run), random_states(), run.generator.get_state())
    checkpoint(run)
    same = (
        torch.equal(values_of(run), before[0]),
        random_states() == before[1],
        torch.equal(run.generator.get_state(), before[2]),
    )
    assert same == (True, True, True), explain(
        measured=f"(adapters, global generators, the run's generator) as before = {same}",
        expected=(True, True, True),
        cause="a generator is drawn from or seeded while its state is taken",
        read="P12",
    )


# --- Block D, task D4: a checkpoint put back ------------------------------------------------------


@pytest.mark.task("D4")
def test_adapt_resume_restore_puts_all_back() -> None:
    """Every value of the checkpoint is the run's afterwards, in the objects that were there."""
    run = draw_run(mu=0.9)
    model, optimizer, generator = run.model, run.optimizer, run.generator
    assert isinstance(optimizer, Momentum)
    shift, state = table_of(run).shift, saved(own_checkpoint(run))
    restore(run, state)
    held: Any = state["optimizer"]
    facts = {
        "step": run.step == 17,
        "best": tuple(run.best) == (0.75, 0.5),
        "since": run.since == 2,
        "kept": set(run.kept) == {"part.shift"}
        and gap(run.kept["part.shift"], state["kept"]["part.shift"]) == 0.0,
        "adapters": gap(shift, state["adapters"]["part.shift"]) == 0.0,
        "optimizer": optimizer.param_groups[0]["lr"] == 0.125
        and 0 in optimizer.speeds
        and gap(optimizer.speeds[0], held["state"][0]["momentum_buffer"]) == 0.0,
        "batch_rng": torch.equal(run.generator.get_state(), state["batch_rng"]),
        "torch_rng": torch.equal(torch.get_rng_state(), state["torch_rng"]),
        "objects": run.model is model
        and run.optimizer is optimizer
        and run.generator is generator
        and table_of(run).shift is shift
        and optimizer.param_groups[0]["params"][0] is shift,
    }
    wrong = [name for name, right in facts.items() if not right]
    assert not wrong, explain(
        measured=f"what is not as the checkpoint has it: {wrong}",
        expected=[],
        cause="an entry is not put back, or into a new object that nobody else holds",
        read="P12",
    )


@pytest.mark.task("D4")
def test_adapt_resume_restore_leaves_the_checkpoint_alone() -> None:
    """Training on after a restore changes nothing in the checkpoint: it can be restored again."""
    run = draw_run(mu=0.9)
    state = saved(own_checkpoint(run))
    before = copy.deepcopy(state)
    restore(run, state)
    optimizer = run.optimizer
    assert isinstance(optimizer, Momentum)
    with torch.no_grad():
        table_of(run).shift.add_(1.0)
    for speed in optimizer.speeds.values():
        speed.add_(1.0)
    held: Any = state["optimizer"]
    then: Any = before["optimizer"]
    far = max(
        gap(held["state"][0]["momentum_buffer"], then["state"][0]["momentum_buffer"]),
        gap(state["adapters"]["part.shift"], before["adapters"]["part.shift"]),
    )
    assert far == 0.0, explain(
        measured=f"max change in the checkpoint = {far:.1e}",
        expected=0.0,
        cause="load_state_dict keeps the tensors it is given: give it a copy",
        read="P12",
    )


@pytest.mark.task("D4")
def test_adapt_resume_restore_refuses_as_a_whole() -> None:
    """Adapters or an optimiser that do not fit are a ValueError, and the run is as it was."""
    other, groups = own_checkpoint(draw_run()), own_checkpoint(draw_run())
    other["adapters"] = {"part.shift": torch.randn(VOCAB, 1, dtype=torch.float64)}
    groups["optimizer"] = {"state": {}, "param_groups": [{"params": [0]}, {"params": [1]}]}
    for what, state in (("adapters", other), ("optimizer", groups)):
        run = draw_run(mu=0.9)
        optimizer = run.optimizer
        assert isinstance(optimizer, Momentum)
        before = (values_of(run), random_states(), run.generator.get_state())
        said = refusal(partial(restore, run, state), STATE)
        same = (
            torch.equal(values_of(run), before[0])
            and random_states() == before[1]
            and torch.equal(run.generator.get_state(), before[2])
            and (run.step, run.since, run.kept, optimizer.speeds) == (0, 0, {}, {})
            and optimizer.param_groups[0]["lr"] == 0.0
        )
        assert said is not None and same, explain(
            measured=f"{what} of another run: {said!r}, the run as it was: {same}",
            expected="ValueError, True",
            cause="something is written before all that may be refused has been checked",
            read="P11",
        )


# --- Block D, task D5: the whole run --------------------------------------------------------------


NEW: list[Pair] = [([1], [2, 0]), ([3], [4, 0])]
OLD: list[Pair] = [([5, 5], [6, 0]), ([5, 6], [1, 0]), ([5, 2], [3, 0])]


@pytest.mark.task("D5")
def test_adapt_resume_equals_the_undisturbed_run() -> None:
    """Stopped, saved, loaded into a run built anew and gone on: the same numbers, bit by bit."""
    recipe = replace(RECIPE, steps=24, every=5, patience=99, max_norm=0.5)
    seed = random.randrange(2**31)

    def built() -> Run:
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        return draw_run(dropout=0.25, mu=0.9)

    def measure(model: nn.Module) -> tuple[float, float]:
        return exact_match(model, NEW, 0), -evaluate(model, [padded(OLD, 0)])

    whole = built()
    losses = adapt(whole, NEW, OLD, recipe, measure)
    first = built()
    stopped = adapt(first, NEW, OLD, recipe, measure, until=13)
    state = saved(checkpoint(first))
    second = built()
    torch.rand(7)
    restore(second, state)
    went_on = adapt(second, NEW, OLD, recipe, measure)
    facts = {
        "losses": stopped + went_on == losses,
        "how many": (len(stopped), len(went_on)) == (13, 11),
        "adapters": torch.equal(values_of(second), values_of(whole)),
        "best": tuple(second.best) == tuple(whole.best),
        "kept": all(torch.equal(second.kept[name], whole.kept[name]) for name in whole.kept),
        "step, since": (second.step, second.since) == (whole.step, whole.since),
    }
    wrong = [name for name, right in facts.items() if not right]
    assert not wrong, explain(
        measured=f"what differs from the undisturbed run: {wrong}",
        expected=[],
        cause="something that the next step depends on is not in the checkpoint, or not put back",
        read="P12",
    )


@pytest.mark.task("D5")
def test_adapt_resume_measures_on_time() -> None:
    """measure is asked whenever run.step is a multiple of `every`, and after the last step."""
    run = draw_run()
    run.step = 3
    asked = []

    def measure(model: nn.Module) -> tuple[float, float]:
        asked.append(run.step)
        return float(run.step), 1.0

    losses = adapt(run, NEW, OLD, replace(RECIPE, steps=13, every=4), measure)
    got = (asked, len(losses), run.step, tuple(run.best))
    want = ([4, 8, 12, 13], 10, 13, (13.0, 1.0))
    assert got == want, explain(
        measured=f"(asked after steps, losses, run.step, best) = {got}",
        expected=want,
        cause="evaluations are counted from this call instead of run.step, or the last is left out",
        read="P12",
    )


@pytest.mark.task("D5")
def test_adapt_resume_until_stops_and_asks_nothing_extra() -> None:
    """until ends the call at that step; it is no evaluation, and beyond recipe.steps nothing."""
    run = draw_run()
    asked = []

    def measure(model: nn.Module) -> tuple[float, float]:
        asked.append(run.step)
        return 1.0, 1.0

    recipe = replace(RECIPE, steps=8, every=5, warmup=3)
    counts = [len(adapt(run, NEW, OLD, recipe, measure, until=until)) for until in (3, 7, 20, None)]
    assert (counts, asked) == ([3, 4, 1, 0], [5, 8]), explain(
        measured=f"(steps for until = 3, 7, 20, None; asked after) = {(counts, asked)}",
        expected=([3, 4, 1, 0], [5, 8]),
        cause="until counts steps of this call, or an interruption changes when measure is asked",
        read="P12",
    )


@pytest.mark.task("D5")
def test_adapt_resume_ends_when_patience_does() -> None:
    """patience evaluations in a row without a better one end the run, also one taken up again."""
    run = draw_run()
    told = iter([(0.1, 1.0), (0.2, 1.0), (0.9, 0.5), (0.2, 1.0), (0.3, 0.4), (0.9, 1.0)])
    recipe = replace(RECIPE, steps=100, every=2, patience=3, lowest=0.9)
    losses = adapt(run, NEW, OLD, recipe, lambda model: next(told, (0.0, 1.0)))
    again = adapt(run, NEW, OLD, recipe, lambda model: next(told, (0.0, 1.0)))
    got = (len(losses), len(again), run.since, tuple(run.best))
    assert got == (10, 0, 3, (0.2, 1.0)), explain(
        measured=f"(steps, steps when called again, since, best) = {got}",
        expected=(10, 0, 3, (0.2, 1.0)),
        cause="the run goes on though nothing gets better, or lowest is not passed on",
        read="P10",
    )


@pytest.mark.task("D5")
def test_adapt_resume_rehearses_in_every_batch() -> None:
    """Each batch has size rows, round(share · size) of them from old, padded with pad_id."""
    run = draw_run()
    recipe = replace(RECIPE, steps=6, size=8, share=0.25, pad_id=6, warmup=1)
    adapt(run, NEW, OLD, recipe, lambda model: (0.0, 0.0))
    rows = [(len(tokens), int((tokens[:, 0] == 5).sum())) for tokens, _ in table_of(run).calls]
    padding = {int(row[-1]) for tokens, _ in table_of(run).calls for row in tokens if row[0] != 5}
    assert (rows, padding) == ([(8, 2)] * 6, {6}), explain(
        measured=f"(rows, from old) of each batch = {rows}, short rows end in {padding}",
        expected=f"{[(8, 2)] * 6}, {{6}}",
        cause="the batches are not drawn by rehearsed with the recipe's size, share and pad_id",
        read="P3",
    )


@pytest.mark.task("D5")
def test_adapt_resume_draws_with_the_runs_own_generator() -> None:
    """The batches follow from run.generator: another seed gives others, a global seed does not."""
    drawn = []
    for seed, elsewhere in ((1, 5), (1, 6), (2, 6)):
        run = draw_run()
        run.generator.manual_seed(seed)
        torch.default_generator.manual_seed(elsewhere)
        adapt(run, NEW, OLD, replace(RECIPE, steps=9), lambda model: (0.0, 0.0))
        drawn.append([tokens.tolist() for tokens, _ in table_of(run).calls])
    got = (drawn[0] == drawn[1], drawn[1] == drawn[2])
    assert got == (True, False), explain(
        measured=f"(same batches with another global seed, with another generator) = {got}",
        expected=(True, False),
        cause="the batches are drawn with a generator that is not run.generator",
        read="P3",
    )


@pytest.mark.task("D5")
def test_adapt_resume_learns_and_keeps_the_last_adapters() -> None:
    """The new pairs are learned; the model holds the last adapters, and kept the best ones."""
    run = draw_run()
    recipe = replace(RECIPE, steps=60, peak=4.0, every=20, size=12, share=0.0)
    seen: list[Tensor] = []

    def measure(model: nn.Module) -> tuple[float, float]:
        seen.append(values_of(run))
        return (0.5, 1.0) if len(seen) == 2 else (0.0, 1.0)

    losses = adapt(run, NEW, [], recipe, measure)
    weights = table_of(run).lora_table.detach() + values_of(run)
    follow = [int(weights[token].argmax()) for token in (1, 2, 3, 4)]
    facts = {
        "learned": follow == [2, 0, 4, 0] and losses[-1] < losses[0] / 4,
        "last": len(seen) == 3 and torch.equal(values_of(run), seen[2]),
        "kept": torch.equal(run.kept["part.shift"], seen[1]),
    }
    wrong = [name for name, right in facts.items() if not right]
    assert not wrong, explain(
        measured=f"what is not so: {wrong}, losses {losses[0]:.2f} to {losses[-1]:.2f}",
        expected=[],
        cause="the loop trains nothing, or puts the best back, so that a run cannot go on",
        read="P10",
    )
