"""The contract of lab 01: what src/minituner/counts.py promises. Read it; never edit it.

    pytest tests/test_counts.py                      your file (as shipped, every test fails)
    pytest tests/test_counts.py --impl reference     the solution, all green

The oracles are worked examples, closed forms and torch itself, never the code under test. Sizes
change with every run; a failing test prints the seed that repeats it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache, partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minituner.counts import (
    audit,
    break_even_rank,
    compression_ratio,
    count_params,
    full_finetune_memory,
    linear_activations,
    linear_inventory,
    lora_memory,
    lora_param_count,
    minigpt_activations,
    nf4_bytes,
    qlora_memory,
    truth,
    wrapped_count,
)
from minituner.minigpt import MiniGPT, MiniGPTConfig
from minituner.published import CLAIMS, Claim, Matrix
from minituner.tally import Memory, ParamCount
from minituner.words import explaining

explain = explaining("lab/01-lora-counts.md")

BLUEPRINT = "src/minituner/BLUEPRINT-01.md"
DEFAULT_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")

# --- what the tests build -------------------------------------------------------------------------


def sizes() -> tuple[int, int, int]:
    """(in, out, r), no two alike, so that no two of them can be mixed up unseen."""
    d_in, d_out = random.sample(range(40, 400), 2)
    return d_in, d_out, random.randint(2, 30)


class Special(nn.Linear):
    """Somebody's own kind of nn.Linear."""


class Lookalike(nn.Module):
    """No linear, whatever it calls its sizes."""

    in_features, out_features, bias = 3, 2, None


class Adapter(nn.Module):
    """LoRA as in lab 00, as far as counting goes: a frozen base, A and B beside it."""

    def __init__(self, base: nn.Linear, r: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.A = nn.Parameter(base.weight.new_ones(r, base.in_features))
        self.B = nn.Parameter(base.weight.new_ones(base.out_features, r))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        return out + 0.5 * F.linear(F.linear(x, self.A), self.B)


def small_config() -> MiniGPTConfig:
    """Sizes of a MiniGPT that a test can afford; d_model, d_ff and the rest all differ."""
    n_head = random.choice((2, 3))
    d_model = n_head * random.choice((4, 5, 6))
    return MiniGPTConfig(
        vocab_size=random.randint(31, 40),
        block_size=random.randint(20, 30),
        n_layer=random.randint(2, 4),
        n_head=n_head,
        d_model=d_model,
        d_ff=d_model + random.randint(5, 15),
    )


def decoys() -> nn.Module:
    """Linears to find among names that only look like a target, and modules of other kinds."""
    tree = nn.Module()
    tree.q_proj, tree.xq_proj, tree.q_projection = (nn.Linear(5, 4) for _ in range(3))
    tree.q_proj_norm = nn.LayerNorm(4)
    tree.block = nn.ModuleDict({"q_proj": Special(7, 3), "fc1": nn.Linear(6, 9, bias=False)})
    tree.mlp = nn.ModuleDict({"fc1": nn.Linear(3, 8)})
    tree.xmlp = nn.ModuleDict({"fc1": nn.Linear(2, 2)})
    tree.conv = nn.ModuleDict({"q_proj": nn.Conv1d(5, 4, 1)})
    tree.seq = nn.ModuleDict({"q_proj": nn.Sequential(nn.Linear(4, 4))})
    return tree


def twins() -> nn.Module:
    """One linear (6 to 5) under two names, and another (5 to 4) apart."""
    model, shared = nn.Module(), nn.Linear(6, 5)
    model.left = nn.ModuleDict({"one": shared})
    model.right = nn.ModuleDict({"other": shared})
    model.last = nn.ModuleDict({"out": nn.Linear(5, 4, bias=False)})
    return model


@cache
def gpt2_small() -> nn.Module:
    """GPT-2 small's parameters, without memory for them; nothing changes it, so one will do."""
    with torch.device("meta"):
        model, d = nn.Module(), 768
        model.wte, model.wpe = nn.Embedding(50257, d), nn.Embedding(1024, d)
        shapes = ((d, 3 * d), (d, d), (d, 4 * d), (4 * d, d))
        model.h = nn.ModuleList(nn.ModuleList(nn.Linear(*s) for s in shapes) for _ in range(12))
        model.norms = nn.ModuleList(nn.LayerNorm(d) for _ in range(2 * 12 + 1))
        model.lm_head = nn.Linear(d, 50257, bias=False)
        model.lm_head.weight = model.wte.weight
    return model


def claim(quantity: str, **fields: object) -> Claim:
    """A claim of our own, about nothing published."""
    plain = Claim("made-up", "nobody", "nothing", quantity, published=1.0, step=0.1)
    return replace(plain, **fields)  # type: ignore[arg-type]  # the fields are named by each test


def matrices() -> tuple[Matrix, ...]:
    """Two or three kinds of matrix, each several times."""
    sides = [random.sample(range(3, 300), 2) for _ in range(random.randint(2, 3))]
    return tuple(Matrix(d_in, d_out, random.randint(2, 9)) for d_in, d_out in sides)


# --- what the tests measure -----------------------------------------------------------------------


def split(model: nn.Module) -> tuple[int, int]:
    """(trainable, frozen) by identity: each Parameter once."""
    every = {id(p): p for p in model.parameters()}.values()
    return (
        sum(math.prod(p.shape) for p in every if p.requires_grad),
        sum(math.prod(p.shape) for p in every if not p.requires_grad),
    )


def pair(count: ParamCount) -> tuple[int, int]:
    return count.trainable, count.frozen


def buckets(memory: Memory) -> tuple[int, int, int, int]:
    return memory.weights, memory.gradients, memory.optimizer, memory.activations


def wrapped(model: nn.Module, r: int, names: Iterable[str]) -> nn.Module:
    """model with an Adapter at each of the names, and all else frozen."""
    model.requires_grad_(False)
    for name in names:
        parent, _, child = name.rpartition(".")
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        setattr(model.get_submodule(parent), child, Adapter(linear, r))
    return model


def kept(module: nn.Module, x: Tensor) -> int:
    """Bytes that torch keeps for backward, each storage once, parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    found: dict[int, torch.UntypedStorage] = {}  # held, so that no address is used again

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = module(x)
    assert isinstance(out, Tensor)
    return sum(storage.nbytes() for storage in found.values())


def refusal(call: Callable[[], object]) -> str | None:
    """The message with which call refuses its input, or None when it accepts it."""
    try:
        call()
    except (ValueError, TypeError) as error:
        return str(error)
    return None


def names_it(call: Callable[[], object], *words: str) -> tuple[str | None, bool]:
    """What call says when it refuses, and whether that has all the words."""
    said = refusal(call)
    return said, said is not None and all(word in said for word in words)


# --- Block A, task A1: one adapter ----------------------------------------------------------------


@pytest.mark.task("A1")
def test_counts_adapter_is_r_times_in_plus_out() -> None:
    """A (r, in) and B (out, r) together have r (in + out) entries."""
    d_in, d_out, r = sizes()
    got = lora_param_count(d_in, d_out, r)
    want = torch.empty(r, d_in).numel() + torch.empty(d_out, r).numel()
    assert got == want, explain(
        measured=f"lora_param_count({d_in}, {d_out}, {r}) = {got}",
        expected=want,
        cause="an adapter is two matrices, (r, in) and (out, r), and nothing else",
        read="P1",
    )


@pytest.mark.task("A1")
def test_counts_adapter_worked_examples() -> None:
    """64 × 64 at r = 8: 1024; 64 × 256 at 8: 2560; 768 × 2304 at 4: 12 288; r may be large."""
    asked = ((64, 64, 8), (64, 256, 8), (768, 2304, 4), (2, 3, 7))
    got = [lora_param_count(*one) for one in asked]
    assert got == [1024, 2560, 12_288, 35], explain(
        measured=f"{list(asked)} -> {got}",
        expected=[1024, 2560, 12_288, 35],
        cause="an adapter is two matrices, (r, in) and (out, r), and nothing else",
        read="P1",
    )


@pytest.mark.task("A1")
def test_counts_adapter_refuses_a_size_below_one() -> None:
    """in_features, out_features or r below 1 raises ValueError, naming it and the value."""
    good = {"in_features": 4, "out_features": 3, "r": 2}
    for name, bad in (("in_features", 0), ("out_features", -5), ("r", 0), ("r", -3)):
        call = partial(lora_param_count, **(good | {name: bad}))
        said, right = names_it(call, name, str(bad))
        assert right, explain(
            measured=f"lora_param_count({name}={bad}) -> {said!r}",
            expected=f"ValueError: {name} … {bad}",
            cause="a size is not checked, or the message lacks its name and the value it got",
            read=BLUEPRINT,
        )


# --- task A2: the inventory -----------------------------------------------------------------------


@pytest.mark.task("A2")
def test_counts_inventory_lists_names_shapes_and_bias() -> None:
    """Each linear is listed by dotted name, in, out and bias, in the model's order."""
    d_in, d_out, _ = sizes()
    inner = nn.Sequential(nn.Linear(d_out, d_in, bias=False), nn.GELU(), nn.Linear(d_in, d_in))
    model = nn.Sequential(nn.Linear(d_in, d_out), nn.LayerNorm(d_out), inner)
    asked = (model, nn.Linear(d_in, d_out, bias=False))
    got = [
        [(s.name, s.in_features, s.out_features, s.bias) for s in linear_inventory(m)]
        for m in asked
    ]
    want = [
        [("0", d_in, d_out, True), ("2.0", d_out, d_in, False), ("2.2", d_in, d_in, True)],
        [("", d_in, d_out, False)],
    ]
    assert got == want, explain(
        measured=got,
        expected=want,
        cause="a linear, or its name, in, out or bias, is wrong, or the order is not the model's",
        read="P2",
    )


@pytest.mark.task("A2")
def test_counts_inventory_takes_subclasses_and_no_other_kind() -> None:
    """A subclass of nn.Linear is a linear; Conv1d, Embedding and lookalikes are not."""
    model = nn.ModuleDict(
        {
            "own": Special(3, 2),
            "conv": nn.Conv1d(3, 2, 1),
            "emb": nn.Embedding(5, 3),
            "norm": nn.LayerNorm(3),
            "linear_like": Lookalike(),
        }
    )
    got = [shape.name for shape in linear_inventory(model)]
    assert got == ["own"], explain(
        measured=got,
        expected=["own"],
        cause="a module's kind is told by type(…) == or by its attributes; use isinstance",
        read="P2",
    )


@pytest.mark.task("A2")
def test_counts_inventory_lists_a_module_with_two_names_once() -> None:
    """A linear reached under two names is one module: listed once, under the first of them."""
    got = [shape.name for shape in linear_inventory(twins())]
    assert got == ["left.one", "last.out"], explain(
        measured=got,
        expected=["left.one", "last.out"],
        cause="names are listed, not modules: a linear with two names is listed twice",
        read="P2",
    )


@pytest.mark.task("A2")
def test_counts_inventory_of_minigpt_has_the_tied_head() -> None:
    """A MiniGPT has six linears a layer and lm_head, which is listed though its weight is tied."""
    config = small_config()
    got = [shape.name for shape in linear_inventory(MiniGPT(config))]
    parts = [f"attn.{letter}_proj" for letter in "qkvo"] + ["mlp.fc1", "mlp.fc2"]
    want = [f"blocks.{i}.{part}" for i in range(config.n_layer) for part in parts] + ["lm_head"]
    assert got == want, explain(
        measured=got,
        expected=want,
        cause="a linear whose weight is shared is left out; two modules with one weight are two",
        read="P2",
    )


# --- task A3: what a model has --------------------------------------------------------------------


@pytest.mark.task("A3")
def test_counts_totals_split_by_requires_grad() -> None:
    """trainable and frozen follow each parameter's own flag, whatever module it hangs on."""
    d_in, d_out, _ = sizes()
    model = nn.Sequential(nn.Linear(d_in, d_out), nn.LayerNorm(d_out), nn.Embedding(7, d_in))
    model.register_parameter("gate", nn.Parameter(torch.ones(11)))
    for param in model.parameters():
        param.requires_grad_(random.random() < 0.5)
    next(model.parameters()).requires_grad_(True)
    got, want = pair(count_params(model)), split(model)
    assert got == want, explain(
        measured=f"(trainable, frozen) = {got}",
        expected=want,
        cause="a parameter is on the wrong side of requires_grad, or is not counted at all",
        read="P3",
    )


@pytest.mark.task("A3")
def test_counts_totals_take_a_tied_parameter_once() -> None:
    """A head that is the embedding counts once: a default MiniGPT has 207 296 parameters."""
    tied = MiniGPT(MiniGPTConfig())
    untied = MiniGPT(MiniGPTConfig(tie_head=False)).requires_grad_(False)
    got = pair(count_params(tied)), pair(count_params(untied))
    assert got == ((207_296, 0), (0, 207_296 + 65 * 64)), explain(
        measured=f"(tied, untied) = {got}",
        expected=((207_296, 0), (0, 207_296 + 65 * 64)),
        cause="a Parameter that has two names is counted twice",
        read="P3",
    )


@pytest.mark.task("A3")
def test_counts_totals_leave_buffers_out() -> None:
    """Running means and other buffers are no parameters."""
    d = random.randint(5, 50)
    model = nn.Sequential(nn.Linear(d, d, bias=False), nn.BatchNorm1d(d))
    model.register_buffer("mask", torch.ones(d, d))
    got = pair(count_params(model))
    assert got == (d * d + 2 * d, 0), explain(
        measured=f"(trainable, frozen) = {got}",
        expected=(d * d + 2 * d, 0),
        cause="buffers are counted: state_dict() holds them, parameters() does not",
        read="P3",
    )


@pytest.mark.task("A3")
def test_counts_totals_of_gpt2_small() -> None:
    """GPT-2 small has 124 439 808 parameters."""
    got = count_params(gpt2_small()).total
    assert got == 124_439_808, explain(
        measured=got,
        expected=124_439_808,
        cause="a Parameter that has two names is counted twice",
        read="P3",
    )


# --- task A4: what wrapping would give ------------------------------------------------------------


@pytest.mark.task("A4")
def test_counts_wrapped_minigpt_trains_36864() -> None:
    """A default MiniGPT at the defaults: 36 864 trainable, 9216 a layer, and 207 296 frozen."""
    got = [pair(wrapped_count(MiniGPT(MiniGPTConfig(n_layer=n)))) for n in (4, 1)]
    frozen = 207_296 - 3 * (4 * 64 * 64 + 2 * 64 * 256 + 256 + 64 + 4 * 64)
    want = [(36_864, 207_296), (9216, frozen)]
    assert got == want, explain(
        measured=f"4 and 1 layers: (trainable, frozen) = {got}",
        expected=want,
        cause="a default is another, a target is missed, or more than A and B is called trainable",
        read="P4",
    )


@pytest.mark.task("A4")
def test_counts_wrapped_equals_a_model_really_wrapped() -> None:
    """For any targets and rank it is what counting a wrapped model gives."""
    config, r = small_config(), random.randint(1, 9)
    targets = random.sample(DEFAULT_TARGETS, 2)
    got = pair(wrapped_count(MiniGPT(config), r, targets))
    model = MiniGPT(config)
    found = [n for n, _ in model.named_modules() if any(n.endswith("." + t) for t in targets)]
    want = split(wrapped(model, r, found))
    assert got == want, explain(
        measured=f"wrapped_count(model, {r}, {targets}) = {got}",
        expected=want,
        cause="trainable is r (in + out) for each matched linear; frozen is all that is there now",
        read="P4",
    )


@pytest.mark.task("A4")
def test_counts_wrapped_matches_at_a_dot_and_linears_only() -> None:
    """q_proj matches q_proj and block.q_proj, no xq_proj, q_projection, Conv1d or Sequential."""
    r = random.randint(1, 5)
    got = wrapped_count(decoys(), r, ("q_proj", "mlp.fc1")).trainable
    want = r * ((5 + 4) + (7 + 3) + (3 + 8))
    assert got == want, explain(
        measured=f"trainable = {got}",
        expected=want,
        cause="the match is not at a dot, a subclass is missed, or another kind is taken",
        read="P4",
    )


@pytest.mark.task("A4")
def test_counts_wrapped_takes_a_linear_of_two_names_or_targets_once() -> None:
    """One adapter a module: two names, two overlapping targets, or a target for its second name."""
    r = random.randint(2, 6)
    asked = (("one", "other"), ("other",), ("out", "last.out"))
    got = [wrapped_count(twins(), r, targets).trainable for targets in asked]
    want = [11 * r, 11 * r, 9 * r]
    assert got == want, explain(
        measured=f"{list(asked)} -> {got}",
        expected=want,
        cause="names or targets are counted, not modules, or a second name is never looked at",
        read="P4",
    )


@pytest.mark.task("A4")
def test_counts_wrapped_gives_a_tied_head_an_adapter_of_its_own() -> None:
    """A linear whose weight is tied gets its adapter, and the weight is frozen once."""
    config, r = small_config(), random.randint(1, 9)
    two = nn.ModuleDict({"one": nn.Linear(6, 4), "other": nn.Linear(6, 4)})
    two["other"].weight = two["one"].weight
    got = [
        pair(wrapped_count(MiniGPT(config), r, ("lm_head",))),
        pair(wrapped_count(two, r, ("one", "other"))),
    ]
    head = r * (config.d_model + config.vocab_size)
    want = [(head, sum(split(MiniGPT(config)))), (2 * r * (6 + 4), 6 * 4 + 2 * 4)]
    assert got == want, explain(
        measured=f"lm_head, and two linears with one weight, r = {r}: {got}",
        expected=want,
        cause="a linear whose weight is shared is left out; two modules with one weight are two",
        read="P4",
    )


@pytest.mark.task("A4")
def test_counts_wrapped_frozen_is_all_that_was_there() -> None:
    """Frozen is every parameter of the model, whatever its flag says now."""
    config = small_config()
    model = MiniGPT(config)
    total = sum(split(model))
    got = [wrapped_count(model, 2, ("q_proj",)).frozen]
    for param in model.parameters():
        param.requires_grad_(random.random() < 0.5)
    got.append(wrapped_count(model, 2, ("q_proj",)).frozen)
    got.append(wrapped_count(model.requires_grad_(False), 2, ("q_proj",)).frozen)
    assert got == [total] * 3, explain(
        measured=f"all trainable, some, none: frozen = {got}",
        expected=[total] * 3,
        cause="frozen counts only what is frozen already, or leaves out what is no target",
        read="P4",
    )


@pytest.mark.task("A4")
def test_counts_wrapped_names_the_unmatched_target() -> None:
    """A target that matches no linear raises ValueError and is named; so does r below 1."""
    for targets, words in (
        (("q_proj", "c_attn"), ("c_attn",)),
        (("gate_proj", "xq", "fc1"), ("gate_proj", "xq")),
        (("ln1",), ("ln1",)),
    ):
        said, right = names_it(partial(wrapped_count, MiniGPT(small_config()), 2, targets), *words)
        assert right, explain(
            measured=f"wrapped_count(model, 2, {targets}) -> {said!r}",
            expected=f"ValueError: {', '.join(words)}",
            cause="a target that matches no linear passes in silence, or is not named",
            read="P4",
        )
    for bad, some in ((0, ("q_proj",)), (-2, ())):
        said, right = names_it(
            partial(wrapped_count, MiniGPT(small_config()), bad, some), "r", str(bad)
        )
        assert right, explain(
            measured=f"wrapped_count(model, {bad}, {some}) -> {said!r}",
            expected=f"ValueError: r … {bad}",
            cause="a size is not checked, or the message lacks its name and the value it got",
            read=BLUEPRINT,
        )


@pytest.mark.task("A4")
def test_counts_wrapped_changes_nothing() -> None:
    """Modules, parameters, values, flags and mode of the model stay as they are."""
    model = MiniGPT(small_config()).eval()
    model.blocks[0].requires_grad_(False)
    modules = dict(model.named_modules(remove_duplicate=False))
    before = {n: (p, p.detach().clone(), p.requires_grad) for n, p in model.named_parameters()}
    wrapped_count(model, 3)
    now = dict(model.named_parameters())
    changed = sorted(before.keys() ^ now.keys()) + [
        name
        for name, (param, value, flag) in before.items()
        if now.get(name) is not param
        or param.requires_grad != flag
        or not torch.equal(value, param)
    ]
    same = dict(model.named_modules(remove_duplicate=False)) == modules and not model.training
    assert (changed, same) == ([], True), explain(
        measured=f"(changed parameters, modules as before) = {(changed[:3], same)}",
        expected=([], True),
        cause="the model is wrapped or frozen in order to count; compute the count instead",
        read="P4",
    )


# --- tasks A5 and A6: against the weight ----------------------------------------------------------


@pytest.mark.task("A5")
def test_counts_ratio_is_weight_over_adapter() -> None:
    """in · out / (r (in + out)): 4096 × 4096 at r = 8 has 256 times as many as its adapter."""
    d_in, d_out, r = sizes()
    asked = ((4096, 4096, 8), (64, 64, 64), (d_in, d_out, r))
    got = [compression_ratio(*one) for one in asked]
    want = [256.0, 0.5, d_in * d_out / (r * d_in + r * d_out)]
    assert all(math.isclose(g, w, rel_tol=1e-12) for g, w in zip(got, want, strict=True)), explain(
        measured=f"{list(asked)} -> {got}",
        expected=want,
        cause="the ratio is upside down, rounded, or not of the weight alone against the adapter",
        read="P1",
    )
    said, right = names_it(partial(compression_ratio, 4, 3, 0), "r", "0")
    assert right, explain(
        measured=f"compression_ratio(4, 3, 0) -> {said!r}",
        expected="ValueError: r … 0",
        cause="a size is not checked, or the message lacks its name and the value it got",
        read=BLUEPRINT,
    )


@pytest.mark.task("A6")
def test_counts_even_is_the_smallest_rank_that_is_no_smaller() -> None:
    """At that rank r (in + out) reaches in · out; one rank lower it does not."""
    exact = random.randint(3, 40)
    for d_in, d_out in ((2 * exact, 2 * exact), (3 * exact, 6 * exact), sizes()[:2]):
        got = break_even_rank(d_in, d_out)
        want = next(r for r in range(1, d_in + d_out) if r * (d_in + d_out) >= d_in * d_out)
        assert got == want, explain(
            measured=f"break_even_rank({d_in}, {d_out}) = {got}",
            expected=want,
            cause="in · out / (in + out) is not rounded up, or is raised where it is whole",
            read="P5",
        )


@pytest.mark.task("A6")
def test_counts_even_worked_examples() -> None:
    """64 × 64: 32; 64 × 256: 52; 768 × 2304: 576; 4096 × 4096: 2048; and no size below 1."""
    asked = ((64, 64), (64, 256), (768, 2304), (4096, 4096), (1, 1), (3, 4))
    got = [break_even_rank(*one) for one in asked]
    assert got == [32, 52, 576, 2048, 1, 2], explain(
        measured=f"{list(asked)} -> {got}",
        expected=[32, 52, 576, 2048, 1, 2],
        cause="in · out / (in + out) is not rounded up, or is raised where it is whole",
        read="P5",
    )
    said, right = names_it(partial(break_even_rank, 5, 0), "out_features", "0")
    assert right, explain(
        measured=f"break_even_rank(5, 0) -> {said!r}",
        expected="ValueError: out_features … 0",
        cause="a size is not checked, or the message lacks its name and the value it got",
        read=BLUEPRINT,
    )


# --- Block B, task B1: full fine-tuning -----------------------------------------------------------


@pytest.mark.task("B1")
def test_counts_full_in_float32_is_4_4_8() -> None:
    """float32 with Adam: 4 bytes a weight, 4 a gradient, 8 for two moments; nothing else."""
    n = random.randint(1000, 10**9)
    got = [buckets(full_finetune_memory(n)), buckets(full_finetune_memory(n, optimizer="adam"))]
    want = [(4 * n, 4 * n, 8 * n, 0)] * 2
    assert got == want, explain(
        measured=f"full_finetune_memory({n}) = {got[0]}",
        expected=want[0],
        cause="a bucket is wrong: weights 4, gradients 4, Adam's two float32 moments 8 together",
        read="P6",
    )


@pytest.mark.task("B1")
def test_counts_full_mixed_is_2_2_12() -> None:
    """Mixed precision: 2 and 2 bytes, and Adam keeps 12, a float32 copy of the weights included."""
    n = random.randint(1000, 10**9)
    got = buckets(full_finetune_memory(n, mixed=True))
    assert got == (2 * n, 2 * n, 12 * n, 0), explain(
        measured=f"full_finetune_memory({n}, mixed=True) = {got}",
        expected=(2 * n, 2 * n, 12 * n, 0),
        cause="the float32 copy of the weights is forgotten, or is not counted in optimizer",
        read="P6",
    )


@pytest.mark.task("B1")
def test_counts_full_with_sgd_keeps_no_moments() -> None:
    """SGD without momentum keeps nothing in float32, and the float32 copy in mixed precision."""
    n = random.randint(1000, 10**9)
    got = [buckets(full_finetune_memory(n, optimizer="sgd", mixed=m)) for m in (False, True)]
    want = [(4 * n, 4 * n, 0, 0), (2 * n, 2 * n, 4 * n, 0)]
    assert got == want, explain(
        measured=f"float32, mixed: {got}",
        expected=want,
        cause="SGD without momentum has no moments; in mixed precision the float32 copy stays",
        read="P6",
    )


@pytest.mark.task("B1")
def test_counts_full_passes_activations_on() -> None:
    """activations are bytes already: they come out as they went in, and count in the total."""
    n, act = random.randint(1000, 10**6), random.randint(1, 10**9)
    got = [full_finetune_memory(n, mixed=m, activations=act) for m in (False, True)]
    seen = [(memory.activations, memory.total) for memory in got]
    assert seen == [(act, 16 * n + act)] * 2, explain(
        measured=f"(activations, total) = {seen}",
        expected=[(act, 16 * n + act)] * 2,
        cause="activations are dropped, scaled or counted in another bucket",
        read=BLUEPRINT,
    )


@pytest.mark.task("B1")
def test_counts_full_refuses_what_makes_no_sense() -> None:
    """Another optimizer, or params or activations below 0, raises ValueError, naming it."""
    for call, words in (
        (partial(full_finetune_memory, 10, optimizer="adamw8bit"), ("optimizer", "adamw8bit")),
        (partial(full_finetune_memory, -7), ("params", "-7")),
        (partial(full_finetune_memory, 10, activations=-1), ("activations", "-1")),
    ):
        said, right = names_it(call, *words)
        assert right, explain(
            measured=f"full_finetune_memory(…) -> {said!r}",
            expected=f"ValueError: {' … '.join(words)}",
            cause="an argument is not checked, or the message lacks its name and the value it got",
            read=BLUEPRINT,
        )
    zero = buckets(full_finetune_memory(0))
    assert zero == (0, 0, 0, 0), explain(
        measured=f"full_finetune_memory(0) = {zero}",
        expected=(0, 0, 0, 0),
        cause="the check refuses 0; only what is below 0 is wrong",
        read=BLUEPRINT,
    )


# --- task B2: adapters on a frozen base -----------------------------------------------------------


@pytest.mark.task("B2")
def test_counts_small_frozen_costs_its_weights_alone() -> None:
    """A frozen parameter costs weight_bytes (4, or 2): no gradient, no moments, no copy."""
    n = random.randint(1000, 10**9)
    got = [buckets(lora_memory(n, 0)), buckets(lora_memory(n, 0, weight_bytes=2))]
    want = [(4 * n, 0, 0, 0), (2 * n, 0, 0, 0)]
    assert got == want, explain(
        measured=f"weight_bytes 4, 2: {got}",
        expected=want,
        cause="a frozen parameter has its weight only: no gradient, and Adam keeps nothing for it",
        read="P7",
    )


@pytest.mark.task("B2")
def test_counts_small_adapters_are_float32_throughout() -> None:
    """Each trainable parameter costs 4 + 4 + 8 bytes with Adam, whatever the base is stored in."""
    frozen, n = random.randint(10**6, 10**9), random.randint(1000, 10**6)
    got = [buckets(lora_memory(frozen, n, weight_bytes=size)) for size in (4, 2)]
    want = [(size * frozen + 4 * n, 4 * n, 8 * n, 0) for size in (4, 2)]
    assert got == want, explain(
        measured=f"weight_bytes 4, 2: {got}",
        expected=want,
        cause="the adapters' own weights are left out, or take the base's size instead of float32",
        read="P7",
    )


@pytest.mark.task("B2")
def test_counts_small_with_sgd_and_activations() -> None:
    """optimizer and activations mean what they mean in full_finetune_memory."""
    frozen, n, act = (random.randint(1000, 10**6) for _ in range(3))
    got = buckets(lora_memory(frozen, n, optimizer="sgd", activations=act))
    want = (4 * (frozen + n), 4 * n, 0, act)
    assert got == want, explain(
        measured=f"lora_memory({frozen}, {n}, optimizer='sgd', activations={act}) = {got}",
        expected=want,
        cause="optimizer or activations is lost on the way",
        read="P7",
    )


@pytest.mark.task("B2")
def test_counts_small_refuses_what_makes_no_sense() -> None:
    """Another optimizer or weight_bytes, or a count below 0, raises ValueError, naming it."""
    for call, words in (
        (partial(lora_memory, 10, 2, optimizer="adagrad"), ("optimizer", "adagrad")),
        (partial(lora_memory, 10, 2, weight_bytes=3), ("weight_bytes", "3")),
        (partial(lora_memory, -9, 2), ("frozen", "-9")),
        (partial(lora_memory, 10, -2), ("trainable", "-2")),
    ):
        said, right = names_it(call, *words)
        assert right, explain(
            measured=f"lora_memory(…) -> {said!r}",
            expected=f"ValueError: {' … '.join(words)}",
            cause="an argument is not checked, or the message lacks its name and the value it got",
            read=BLUEPRINT,
        )


# --- tasks B3 and B4: four bits -------------------------------------------------------------------


@pytest.mark.task("B3")
def test_counts_nf4_keeps_a_float32_a_block() -> None:
    """Without double quantisation: half a byte a parameter, and 4 bytes for each block."""
    blocks, block = random.randint(10, 5000), random.choice((32, 64, 128))
    got = nf4_bytes(blocks * block, block_size=block, double_quant=False)
    want = blocks * (block // 2 + 4)
    assert got == want, explain(
        measured=f"nf4_bytes({blocks * block}, {block}, double_quant=False) = {got}",
        expected=want,
        cause="the constants are forgotten: each block keeps one float32 absmax beside its codes",
        read="P8",
    )


@pytest.mark.task("B3")
def test_counts_nf4_double_quantisation_keeps_a_byte_a_block() -> None:
    """With it: one byte for each block, and 4 bytes for each double_block_size blocks."""
    groups, many, block = random.randint(2, 50), random.choice((16, 256)), random.choice((32, 64))
    n = groups * many * block
    got = nf4_bytes(n, block, True, many)
    want = n // 2 + groups * many + 4 * groups
    assert got == want, explain(
        measured=f"nf4_bytes({n}, {block}, True, {many}) = {got}",
        expected=want,
        cause="double quantisation keeps 8 bits a block and a float32 for each group of blocks",
        read="P8",
    )


@pytest.mark.task("B3")
def test_counts_nf4_rounds_each_part_up() -> None:
    """An odd code, a block begun and a group begun count whole: 3 parameters take 7 bytes."""
    asked = ((3, 64, True, 256), (3, 64, False, 256), (65, 64, True, 1), (64 * 257, 64, True, 256))
    got = [nf4_bytes(*one) for one in asked]
    want = [2 + 1 + 4, 2 + 4, 33 + 2 + 8, 64 * 257 // 2 + 257 + 8]
    assert got == want, explain(
        measured=f"{list(asked)} -> {got}",
        expected=want,
        cause="a part is rounded down, or the sum is rounded instead of each part",
        read="P8",
    )


@pytest.mark.task("B3")
def test_counts_nf4_by_default_takes_4127_bits_a_thousand() -> None:
    """The defaults are blocks of 64 with double quantisation over 256: 4.127 bits a parameter."""
    n = 64 * 256 * random.randint(100, 10_000)
    got = (8 * nf4_bytes(n) / n, 8 * nf4_bytes(n, double_quant=False) / n)
    want = (4 + 8 / 64 + 32 / (64 * 256), 4.5)
    assert got == want, explain(
        measured=f"bits a parameter, with and without double quantisation = {got}",
        expected=want,
        cause="a default is another: block_size 64, double_quant True, double_block_size 256",
        read="P8",
    )


@pytest.mark.task("B3")
def test_counts_nf4_refuses_what_makes_no_sense() -> None:
    """params below 0 or a block size below 1 raises ValueError, naming it; no params take 0."""
    for call, words in (
        (partial(nf4_bytes, -8), ("params", "-8")),
        (partial(nf4_bytes, 8, block_size=0), ("block_size", "0")),
        (partial(nf4_bytes, 8, double_block_size=-2), ("double_block_size", "-2")),
    ):
        said, right = names_it(call, *words)
        assert right, explain(
            measured=f"nf4_bytes(…) -> {said!r}",
            expected=f"ValueError: {' … '.join(words)}",
            cause="an argument is not checked, or the message lacks its name and the value it got",
            read=BLUEPRINT,
        )
    assert nf4_bytes(0) == 0, explain(
        measured=f"nf4_bytes(0) = {nf4_bytes(0)}",
        expected=0,
        cause="a part is rounded up from nothing: no parameters need no block",
        read="P8",
    )


@pytest.mark.task("B4")
def test_counts_quantised_weights_are_nf4_and_16_bits_and_float32() -> None:
    """quantised in NF4 with its constants, others at 2 bytes, trainable at 4."""
    groups, others, n = (random.randint(10, 1000) for _ in range(3))
    got = qlora_memory(64 * 256 * groups, others, n).weights
    want = groups * (64 * 128 + 256 + 4) + 2 * others + 4 * n
    assert got == want, explain(
        measured=f"qlora_memory({64 * 256 * groups}, {others}, {n}).weights = {got}",
        expected=want,
        cause="a part of the weights is left out or has the wrong size: NF4, then 2 bytes, then 4",
        read="P7",
    )


@pytest.mark.task("B4")
def test_counts_quantised_adapters_train_in_float32() -> None:
    """Gradients and moments belong to trainable alone; optimizer and activations are passed on."""
    base, others, n, act = (random.randint(1000, 10**6) for _ in range(4))
    got = [buckets(qlora_memory(base, others, n, activations=act))[1:]]
    got.append(buckets(qlora_memory(base, others, n, optimizer="sgd"))[1:])
    want = [(4 * n, 8 * n, act), (4 * n, 0, 0)]
    assert got == want, explain(
        measured=f"(gradients, optimizer, activations): adam, sgd = {got}",
        expected=want,
        cause="what is frozen has a gradient or moments, or optimizer or activations is lost",
        read="P7",
    )


@pytest.mark.task("B4")
def test_counts_quantised_llama_7b_worked() -> None:
    """LLaMA-7B, all linears at r = 16: 3.34 GB of NF4, 0.52 GB in 16 bits, 0.64 GB of adapters."""
    layers = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11_008)
    adapters = 32 * 16 * (4 * (4096 + 4096) + 3 * (4096 + 11_008))
    got = buckets(qlora_memory(layers, 6_738_415_616 - layers, adapters))
    want = (4_025_499_648, 159_907_840, 319_815_680, 0)
    assert got == want, explain(
        measured=f"qlora_memory({layers}, …, {adapters}) = {got}",
        expected=want,
        cause="a part of the weights is left out or has the wrong size: NF4, then 2 bytes, then 4",
        read="P7",
    )
    for call, words in (
        (partial(qlora_memory, 10, 2, 1, optimizer="adagrad"), ("optimizer", "adagrad")),
        (partial(qlora_memory, 10, -2, 1), ("others", "-2")),
    ):
        said, right = names_it(call, *words)
        assert right, explain(
            measured=f"qlora_memory(…) -> {said!r}",
            expected=f"ValueError: {' … '.join(words)}",
            cause="an argument is not checked, or the message lacks its name and the value it got",
            read=BLUEPRINT,
        )


# --- tasks B5 and B6: activations -----------------------------------------------------------------


def deep_input(d_in: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, int]:
    """What an earlier layer hands on: it asks for a gradient. And its rows."""
    shape = random.choice(((5,), (3, 4), (2, 3, 4)))
    return torch.randn(*shape, d_in, dtype=dtype, requires_grad=True), math.prod(shape)


@pytest.mark.task("B5")
def test_counts_saved_full_keeps_the_input() -> None:
    """A linear that trains keeps x, as torch does."""
    d_in, d_out, _ = sizes()
    x, rows = deep_input(d_in)
    got = [linear_activations(d_in, rows), linear_activations(d_in, rows, mode="full", r=3)]
    want = kept(nn.Linear(d_in, d_out), x)
    assert got == [want] * 2, explain(
        measured=f"linear_activations({d_in}, {rows}) = {got[0]}",
        expected=want,
        cause="the gradient of W needs x, in · tokens numbers; the output and W are not kept",
        read="P9",
    )


@pytest.mark.task("B5")
def test_counts_saved_frozen_keeps_nothing() -> None:
    """A frozen linear keeps nothing: the gradient of x needs W alone."""
    d_in, d_out, _ = sizes()
    x, rows = deep_input(d_in)
    got = linear_activations(d_in, rows, mode="frozen")
    want = kept(nn.Linear(d_in, d_out).requires_grad_(False), x)
    assert got == want, explain(
        measured=f"linear_activations({d_in}, {rows}, mode='frozen') = {got}",
        expected=want,
        cause="only the gradient of W needs x, and a frozen W has none",
        read="P9",
    )


@pytest.mark.task("B5")
def test_counts_saved_adapter_keeps_the_input_and_h() -> None:
    """Frozen with an adapter at rank r: x again, and h = A x; 8 is the default rank."""
    d_in, d_out, r = sizes()
    x, rows = deep_input(d_in)
    got = [
        linear_activations(d_in, rows, mode="lora", r=r),
        linear_activations(d_in, rows, mode="lora"),
    ]
    want = [kept(Adapter(nn.Linear(d_in, d_out), rank), x) for rank in (r, 8)]
    assert got == want, explain(
        measured=f"linear_activations({d_in}, {rows}, mode='lora'), r = {r} and 8: {got}",
        expected=want,
        cause="the gradient of A needs x, that of B needs h = A x: in + r numbers a token",
        read="P9",
    )


@pytest.mark.task("B5")
def test_counts_saved_follows_the_element_size() -> None:
    """Bytes are numbers times element_size: 8 in float64, 2 in bfloat16."""
    d_in, d_out, r = sizes()
    got, want = [], []
    for dtype, size in ((torch.float64, 8), (torch.bfloat16, 2)):
        x, rows = deep_input(d_in, dtype)
        base = nn.Linear(d_in, d_out, dtype=dtype)
        got.append(linear_activations(d_in, rows, mode="full", element_size=size))
        want.append(kept(base, x))
        got.append(linear_activations(d_in, rows, mode="lora", r=r, element_size=size))
        want.append(kept(Adapter(base, r), x))
    assert got == want, explain(
        measured=f"float64 full and lora, bfloat16 full and lora: {got}",
        expected=want,
        cause="element_size is not used, or not for everything that is kept",
        read="P9",
    )


@pytest.mark.task("B5")
def test_counts_saved_refuses_another_mode() -> None:
    """A mode but full, frozen and lora, or rank 0 with lora, raises ValueError, naming it."""
    for call, words in (
        (partial(linear_activations, 8, 4, mode="qlora"), ("mode", "qlora")),
        (partial(linear_activations, 8, 4, mode="lora", r=0), ("r", "0")),
    ):
        said, right = names_it(call, *words)
        assert right, explain(
            measured=f"linear_activations(…) -> {said!r}",
            expected=f"ValueError: {' … '.join(words)}",
            cause="an argument is not checked, or the message lacks its name and the value it got",
            read=BLUEPRINT,
        )


def itemised(config: MiniGPTConfig, batch: int, seq: int, r: int | None) -> int:
    """The table of BLUEPRINT-01.md, one tensor at a time, in bytes."""
    d, d_ff, full = config.d_model, config.d_ff, r is None
    numbers = 0  # float32, a token
    for layer in range(config.n_layer):
        if full or layer > 0:
            numbers += d + 1 + 1  # ln1: input, mean, 1/std
        numbers += d  # what q, k and v read
        numbers += d + d + d  # q, k, v
        numbers += d + config.n_head  # attention's output, log-sum-exp
        numbers += d + 1 + 1  # ln2
        numbers += d + d_ff + d_ff  # what fc1, GELU and fc2 read
        numbers += 0 if r is None else r + r + r + r + r + r  # h of six adapters
    numbers += d + 1 + 1  # ln_f
    numbers += d if full else 0  # what the head reads
    ids = batch * seq + seq if full else 0  # int64
    return batch * seq * numbers * 4 + ids * 8


@pytest.mark.task("B6")
def test_counts_model_full_is_the_closed_form() -> None:
    """Full fine-tuning keeps what the table lists, each tensor once."""
    config, batch, seq = small_config(), random.randint(2, 9), random.randint(5, 20)
    got = minigpt_activations(config, batch, seq)
    want = itemised(config, batch, seq, None)
    assert got == want, explain(
        measured=f"minigpt_activations(config, {batch}, {seq}) = {got}, {config}",
        expected=want,
        cause="a row of the table is missing, or counted twice: q, k and v read one tensor",
        read="P10",
    )


@pytest.mark.task("B6")
def test_counts_model_with_adapters_is_the_closed_form() -> None:
    """With adapters h is added; the first norm, the head's input and the ids are not kept."""
    config, batch, seq = small_config(), random.randint(2, 9), random.randint(5, 20)
    ranks = [1, *random.sample(range(2, 20), 2)]
    got = [minigpt_activations(config, batch, seq, r=r) for r in ranks]
    want = [itemised(config, batch, seq, r) for r in ranks]
    assert got == want, explain(
        measured=f"minigpt_activations(config, {batch}, {seq}), r = {ranks}: {got}, {config}",
        expected=want,
        cause="h of the six adapters is missing, or something is kept that nothing trainable needs",
        read="P10",
    )


@pytest.mark.task("B6")
def test_counts_model_default_keeps_more_with_adapters() -> None:
    """A default MiniGPT on (3, 64) keeps 3 272 192 bytes in full, 3 317 760 with r = 8."""
    got = [minigpt_activations(MiniGPTConfig(), 3, 64, r=r) for r in (None, 8)]
    assert got == [3_272_192, 3_317_760], explain(
        measured=f"full, r = 8: {got}",
        expected=[3_272_192, 3_317_760],
        cause="a row of the table is missing, or counted twice: q, k and v read one tensor",
        read="P10",
    )
    for call, words in (
        (partial(minigpt_activations, MiniGPTConfig(), 0, 4), ("batch", "0")),
        (partial(minigpt_activations, MiniGPTConfig(), 2, 4, r=-1), ("r", "-1")),
    ):
        said, right = names_it(call, *words)
        assert right, explain(
            measured=f"minigpt_activations(…) -> {said!r}",
            expected=f"ValueError: {' … '.join(words)}",
            cause="an argument is not checked, or the message lacks its name and the value it got",
            read=BLUEPRINT,
        )


# --- Block C, task C1: what a figure should be ----------------------------------------------------


def astray(pairs: list[tuple[Claim, float]]) -> list[tuple[str, str, float, float]]:
    """(quantity, unit, truth, expected) of each claim whose truth is another."""
    got = [(c.quantity, c.unit, truth(c), want) for c, want in pairs]
    return [row for row in got if not math.isclose(row[2], row[3], rel_tol=1e-9)]


@pytest.mark.task("C1")
def test_counts_truth_of_entries_and_adapters() -> None:
    """Matrices count copies times: in · out entries each, r (in + out) adapter parameters each."""
    shapes, r = matrices(), random.randint(1, 40)
    entries = adapter = 0
    for shape in shapes:
        for _ in range(shape.copies):
            entries += shape.in_features * shape.out_features
            adapter += r * shape.in_features + r * shape.out_features
    pairs = [
        (claim("entries", matrices=shapes), float(entries)),
        (claim("adapter", matrices=shapes, r=r), float(adapter)),
    ]
    wrong = astray(pairs)
    assert wrong == [], explain(
        measured=[f"{name}{unit and f' [{unit}]'}: {got}" for name, unit, got, _ in wrong],
        expected=[want for *_, want in wrong],
        cause="copies is not used, or a matrix is left out",
        read="P11",
    )


@pytest.mark.task("C1")
def test_counts_truth_of_shares_and_files() -> None:
    """share is adapter / params, fewer its inverse, file adapter · bytes_each."""
    d_in, d_out, r = sizes()
    n, params = random.randint(2, 50), random.randint(10**6, 10**9)
    shapes, trained = (Matrix(d_in, d_out, n),), n * r * (d_in + d_out)
    pairs = [
        (claim("share", matrices=shapes, r=r, params=params), trained / params),
        (claim("fewer", matrices=shapes, r=r, params=params), params / trained),
        (claim("file", matrices=shapes, r=r, bytes_each=2), 2.0 * trained),
    ]
    wrong = astray(pairs)
    assert wrong == [], explain(
        measured=[f"{name}{unit and f' [{unit}]'}: {got}" for name, unit, got, _ in wrong],
        expected=[want for *_, want in wrong],
        cause="the quotient is upside down, or of other things than adapter and params",
        read="P11",
    )


@pytest.mark.task("C1")
def test_counts_truth_of_memory() -> None:
    """stored is params · bytes_each; training is 16 bytes each, the float32 copy included."""
    n, size = random.randint(10**6, 10**11), random.choice((2, 4, 12))
    pairs = [
        (claim("stored", params=n, bytes_each=size), float(n * size)),
        (claim("training", params=n), 16.0 * n),
    ]
    wrong = astray(pairs)
    assert wrong == [], explain(
        measured=[f"{name}{unit and f' [{unit}]'}: {got}" for name, unit, got, _ in wrong],
        expected=[want for *_, want in wrong],
        cause="training is mixed precision with Adam: 2 + 2 + 12 bytes",
        read="P6",
    )


@pytest.mark.task("C1")
def test_counts_truth_of_nf4() -> None:
    """constants are 0.127 bits a parameter; double quantisation saves 0.373 bits on each."""
    groups = random.randint(10, 10**5)
    n = 64 * 256 * groups
    pairs = [
        (claim("constants", params=n), 8 / 64 + 32 / (64 * 256)),
        (claim("double quantisation", params=n), float(groups * (4 * 256 - 256 - 4))),
    ]
    wrong = astray(pairs)
    assert wrong == [], explain(
        measured=[f"{name}{unit and f' [{unit}]'}: {got}" for name, unit, got, _ in wrong],
        expected=[want for *_, want in wrong],
        cause="constants are the bits beyond the 4 of each code, double quantised",
        read="P8",
    )


@pytest.mark.task("C1")
def test_counts_truth_of_a_quotient() -> None:
    """quotient is the first of parts over the second; the other fields may be empty."""
    first, second = random.uniform(1, 9), random.uniform(20, 99)
    pairs = [
        (claim("quotient", parts=(first, second)), first / second),
        (claim("entries", matrices=(Matrix(7, 3),)), 21.0),
        (claim("stored", params=9, bytes_each=2), 18.0),
    ]
    wrong = astray(pairs)
    assert wrong == [], explain(
        measured=[f"{name}{unit and f' [{unit}]'}: {got}" for name, unit, got, _ in wrong],
        expected=[want for *_, want in wrong],
        cause="it is upside down, or fields that a quantity does not use are read",
        read="P11",
    )


@pytest.mark.task("C1")
def test_counts_truth_divides_by_the_unit() -> None:
    """The figure is in the claim's unit: a GB is 10⁹, a GiB 2³⁰, 1 % is 0.01."""
    n = random.randint(10**8, 10**11)
    pairs = [
        (claim("stored", params=n, bytes_each=2, unit=unit), 2 * n / size)
        for unit, size in (("GB", 10**9), ("GiB", 2**30), ("MB", 10**6), ("", 1))
    ]
    pairs.append((claim("quotient", parts=(3.0, 64.0), unit="%"), 4.6875))
    pairs.append((claim("entries", matrices=(Matrix(50, 40, 3),), unit="million"), 0.006))
    wrong = astray(pairs)
    assert wrong == [], explain(
        measured=[f"{name}{unit and f' [{unit}]'}: {got}" for name, unit, got, _ in wrong],
        expected=[want for *_, want in wrong],
        cause="the figure is not divided by UNITS[claim.unit], once",
        read="P11",
    )


@pytest.mark.task("C1")
def test_counts_truth_refuses_an_unknown_quantity() -> None:
    """A quantity that published.QUANTITIES does not list raises ValueError, naming it."""
    said, right = names_it(partial(truth, claim("speed", params=9)), "quantity", "speed")
    assert right, explain(
        measured=f"truth(quantity='speed') -> {said!r}",
        expected="ValueError: quantity … speed",
        cause="an argument is not checked, or the message lacks its name and the value it got",
        read=BLUEPRINT,
    )


# --- task C2: the audit ---------------------------------------------------------------------------

RIGHT = {
    *("gpt3-r1", "gpt3-fewer", "gpt3-memory", "gpt3-weights", "roberta-base", "gpt2-large"),
    *("llama-7b", "nf4-constants", "nf4-saved", "qlora-full", "zero", "torchtune-7b"),
    *("peft-qwen", "raschka-all", "tutorial-7b-share"),
}


def quotient(value: float, **fields: object) -> Claim:
    return claim("quotient", parts=(value, 1.0), **fields)


@pytest.mark.task("C2")
def test_counts_audit_of_what_is_published() -> None:
    """Of the 29 published claims 15 hold, and 14 do not."""
    verdicts = audit(CLAIMS)
    wrong = sorted({v.claim.id for v in verdicts if v.holds} ^ RIGHT)
    got = (len(verdicts), sum(1 for v in verdicts if v.holds), wrong)
    assert got == (29, 15, []), explain(
        measured=f"(claims, how many hold, misjudged) = {got}",
        expected=(29, 15, []),
        cause="a claim is judged wrongly: its truth, its unit, its step or its relation",
        read="P12",
    )


@pytest.mark.task("C2")
def test_counts_audit_judges_at_the_published_step() -> None:
    """A figure holds when the truth is at most half a step away, above or below."""
    for step in (0.001, 0.1, 1.0, 1000.0):
        figure = step * random.randint(3, 40)
        offs = (-0.6, -0.4, 0.0, 0.4, 0.6)
        claims = [quotient(figure + off * step, published=figure, step=step) for off in offs]
        got = [bool(verdict.holds) for verdict in audit(claims)]
        assert got == [False, True, True, True, False], explain(
            measured=f"published {figure:g}, step {step:g}, truth off by {offs} steps: {got}",
            expected=[False, True, True, True, False],
            cause="the distance is not compared with half of the claim's own step, on both sides",
            read="P12",
        )


@pytest.mark.task("C2")
def test_counts_audit_takes_below_and_above_as_said() -> None:
    """ "<" holds when the truth is below the figure, ">" when above; no step softens them."""
    figure, step = float(random.randint(10, 40)), 2.0
    claims = [
        quotient(figure + off, published=figure, step=step, relation=relation)
        for relation in "<>"
        for off in (-5.0, -0.5, 0.5, 5.0)
    ]
    got = [bool(verdict.holds) for verdict in audit(claims)]
    want = [True, True, False, False, False, False, True, True]
    assert got == want, explain(
        measured=f"published {figure:g}, < then >, truth off by -5, -0.5, 0.5, 5: {got}",
        expected=want,
        cause="a relation is ignored, turned round, or softened by the step",
        read="P12",
    )


@pytest.mark.task("C2")
def test_counts_audit_keeps_claims_and_order() -> None:
    """One verdict a claim, in order, with the very claim and its truth; any iterable will do."""
    values = random.sample(range(1, 100), 6)
    claims = [quotient(float(value), unit="%") for value in values]
    verdicts = audit(iter(claims))
    same = len(verdicts) == 6 and all(v.claim is c for v, c in zip(verdicts, claims, strict=True))
    truths = [round(verdict.truth, 6) for verdict in verdicts]
    got = (same, truths, len(audit([])))
    want = (True, [100.0 * value for value in values], 0)
    assert got == want, explain(
        measured=f"(claims kept, truths, len(audit([]))) = {got}",
        expected=want,
        cause="a verdict is missing, out of order, or its truth is not in the claim's unit",
        read="P12",
    )


@pytest.mark.task("C2")
def test_counts_audit_refuses_another_relation() -> None:
    """A relation that is not =, < or > raises ValueError, naming it."""
    said, right = names_it(partial(audit, [quotient(1.0, relation="~")]), "relation", "~")
    assert right, explain(
        measured=f"audit(relation='~') -> {said!r}",
        expected="ValueError: relation … ~",
        cause="an argument is not checked, or the message lacks its name and the value it got",
        read=BLUEPRINT,
    )
