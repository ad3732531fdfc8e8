"""The contract of lab 04: what src/minituner/bridge.py promises. Read it; never edit it.

    pytest -k test_bridge                      your file (as shipped, every test fails, by design)
    pytest -k test_bridge --impl reference     the solution, all green

The oracles are closed forms in float64, worked examples and safetensors itself, never the code
under test; transformers and PEFT are not needed. Values change with every run; a failing test
prints the seed that repeats it.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize

from minituner.adapters import Base, adapters_of, place, sizes
from minituner.bridge import (
    LoRAConv1D,
    LoRAParametrization,
    adapted,
    adapter_files,
    attach,
    detach,
    fill,
    load_adapter,
    read_adapter,
    save_adapter,
    switch,
    unwrap_merged,
    wrap_gpt2_with_lora,
)
from minituner.gpt2 import GPT2, Block, Conv1D, GPT2Config, hollow_gpt2, is_conv1d
from minituner.minigpt import MiniGPT, MiniGPTConfig
from minituner.settings import CONFIG, PREFIX, WEIGHTS, Files, Settings, to_files
from minituner.shelf import Held, Names, Shelf, shelf_for
from minituner.words import explaining

explain = explaining("lab/04-real-models.md")

BLUEPRINT = "src/minituner/BLUEPRINT-04.md"
SMALL = GPT2Config(vocab_size=11, n_positions=6, n_embd=8, n_layer=2, n_head=2)
MINI = MiniGPTConfig(vocab_size=11, block_size=6, n_layer=2, n_head=2, d_model=8, d_ff=12)
GPT2_SMALL = 124_439_808  # parameters
TARGETS = ("q_proj", "mlp.fc1")  # of a MiniGPT: two linears a block, the second not square
Pairs = dict[str, tuple[Tensor, Tensor]]

# --- what the tests build -------------------------------------------------------------------------


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def draw_conv1d(rows: int = 5, columns: int = 7) -> Conv1D:
    """A Conv1D from rows to columns features, its bias not zero."""
    layer = Conv1D(columns, rows).double()
    with torch.no_grad():
        layer.weight.copy_(draw(rows, columns))
        layer.bias.copy_(draw(columns))
    return layer


def foreign_conv1d(rows: int = 5, columns: int = 7) -> Conv1D:
    """One of another package: a class of that name, with those attributes, and not ours."""
    layer: Conv1D = type("Conv1D", (nn.Module,), {"forward": Conv1D.forward})()
    layer.nf = columns
    layer.weight, layer.bias = nn.Parameter(draw(rows, columns)), nn.Parameter(draw(columns))
    return layer


def draw_gpt2() -> GPT2:
    return GPT2(SMALL).double()


def draw_minigpt() -> MiniGPT:
    return MiniGPT(MINI).double()


def draw_tokens(rows: int = 3) -> Tensor:
    return torch.randint(11, (rows, 5))


class Branch(nn.Module):
    """An adapter by this page's own hand, for a linear or a Conv1D, its A and B random.

    As lab 00's, it has what an Adapter has and is none by its class.
    """

    def __init__(self, base: Base, r: int = 2, alpha: float = 3.0) -> None:
        super().__init__()
        rows, columns = base.weight.T.shape if is_conv1d(base) else base.weight.shape
        self.base, self.r, self.alpha, self.scaling = base, r, alpha, alpha / r
        self.lora_A = nn.Parameter(torch.randn(r, columns, dtype=base.weight.dtype))
        self.lora_B = nn.Parameter(torch.randn(rows, r, dtype=base.weight.dtype))
        base.requires_grad_(False)
        self.merges = 0

    def update(self) -> Tensor:
        """scaling · B A, laid out as the base's weight."""
        found = self.scaling * (self.lora_B @ self.lora_A)
        return found.T if is_conv1d(self.base) else found

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + self.scaling * (x @ self.lora_A.T @ self.lora_B.T)
        return out

    def merge_(self) -> None:
        self.merges += 1
        with torch.no_grad():
            self.base.weight.add_(self.update())
            self.lora_A.zero_()
            self.lora_B.zero_()


def branched(model: nn.Module, *ends: str, r: int = 2, alpha: float = 3.0) -> dict[str, Branch]:
    """Put a Branch in the place of each module whose name has one of the ends."""
    found = {}
    for name, module in list(model.named_modules()):
        if name.endswith(tuple("." + end for end in ends)):
            assert isinstance(module, nn.Linear) or is_conv1d(module)
            found[name] = Branch(module, r, alpha)
            place(model, name, found[name])
    return found


@cache
def outline(config: MiniGPTConfig) -> MiniGPT:
    """A MiniGPT for its names and sizes alone; nothing changes it, so one will do."""
    return MiniGPT(config)


def draw_pairs(model: nn.Module, r: int = 2, ends: tuple[str, ...] = TARGETS) -> Pairs:
    """Random A and B for each module of a MiniGPT whose name has one of the ends."""
    return {
        name: (draw(r, module.in_features), draw(module.out_features, r))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.endswith(tuple("." + end for end in ends))
    }


def tensors_of(pairs: Pairs) -> dict[str, Tensor]:
    """Pairs under the keys that the file has for them."""
    return {
        f"{PREFIX}{name}.lora_{part}.weight": value
        for name, pair in pairs.items()
        for part, value in zip("AB", pair, strict=True)
    }


def draw_files(
    r: int = 2,
    alpha: float = 3.0,
    targets: tuple[str, ...] = TARGETS,
    config: MiniGPTConfig = MINI,
) -> tuple[dict[str, bytes], Pairs]:
    """The files of a random adapter for a MiniGPT of this config, and what is in them."""
    pairs = draw_pairs(outline(config), r, targets)
    return to_files(Settings(r, alpha, targets), tensors_of(pairs)), pairs


def changed(files: Files, **settings: object) -> dict[str, bytes]:
    """The files with other settings in CONFIG; one that is set to ... is left out."""
    config = json.loads(files[CONFIG]) | settings
    told = {key: value for key, value in config.items() if value is not ...}
    return {**files, CONFIG: json.dumps(told).encode()}


def with_tensors(files: Files, tensors: Mapping[str, Tensor]) -> dict[str, bytes]:
    return {**files, WEIGHTS: safetensors.torch.save(dict(tensors))}


def shelved(model: nn.Module, **adapters: tuple[float, Pairs]) -> Shelf:
    """A shelf that holds adapters, put there without the code under test."""
    shelf = shelf_for(model, adapted)
    shelf.held.update({name: Held(scale, pairs) for name, (scale, pairs) in adapters.items()})
    return shelf


# --- what the tests measure -----------------------------------------------------------------------


def gap(got: Tensor, want: Tensor) -> float:
    """max|got - want|; infinite where the shapes differ, so that nothing broadcasts."""
    if got.shape != want.shape:
        return float("inf")
    apart = (got.detach().double() - want.detach().double()).abs()
    return apart.max().item() if apart.numel() else 0.0


def trainable(model: nn.Module) -> int:
    return sum(param.numel() for param in model.parameters() if param.requires_grad)


def total(model: nn.Module) -> int:
    return sum(param.numel() for param in model.parameters())


def refusal(
    call: Callable[[], object], errors: tuple[type[Exception], ...] = (ValueError, TypeError)
) -> str | None:
    """The message with which call refuses its input, or None when it accepts it."""
    try:
        call()
    except errors as error:
        return str(error)
    return None


def ended(call: Callable[[], object], errors: Sequence[type[Exception]] = (ValueError,)) -> str:
    """How call ends: the name of which of these errors, of another one, or "accepted"."""
    try:
        call()
    except NotImplementedError:
        raise
    except Exception as error:
        known = (kind.__name__ for kind in errors if isinstance(error, kind))
        return next(known, type(error).__name__)
    return "accepted"


def unlike(
    errors: Sequence[type[Exception]], calls: Mapping[str, Callable[[], object]]
) -> dict[str, str]:
    """The cases that end otherwise than in one of these errors."""
    ends = {case: ended(call, errors) for case, call in calls.items()}
    names = {kind.__name__ for kind in errors}
    return {case: end for case, end in ends.items() if end not in names}


def differences(got: Mapping[str, Tensor], want: Mapping[str, Tensor]) -> list[str]:
    """What is in one file and not in the other, or is something else: two of each kind will do."""
    missing = [f"no {key}" for key in want if key not in got]
    extra = [f"too many: {key}" for key in got if key not in want]
    others = []
    for key in sorted(want.keys() & got.keys()):
        one, other = got[key], want[key]
        if (one.shape, one.dtype) != (other.shape, other.dtype):
            others.append(f"{key}: {tuple(one.shape)}, {one.dtype}")
        elif not torch.equal(one, other):
            others.append(f"{key}: other values")
    return sorted(missing)[:2] + sorted(extra)[:2] + others[:2]


FILES = (ValueError, TypeError, KeyError)  # files that do not fit may be any of these


def logits(model: nn.Module, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        out: Tensor = model(tokens)
    return out


def logits_with(plain: MiniGPT, tokens: Tensor, scaling: float, pairs: Pairs) -> Tensor:
    """What a MiniGPT that is on no shelf gives with the updates in its weights: the closed form."""
    weights: dict[str, Tensor] = dict(plain.named_parameters())
    weights |= {
        f"{name}.weight": weights[f"{name}.weight"] + scaling * (b @ a)
        for name, (a, b) in pairs.items()
    }
    with torch.no_grad():
        out: Tensor = functional_call(plain, weights, (tokens,))
    return out


# --- Block A, task A1: a Conv1D as the base -------------------------------------------------------


@pytest.mark.task("A1")
def test_bridge_conv1d_layer_has_what_an_adapter_has() -> None:
    """A is (r, in) and B (out, r), B zero and A not, in the base's dtype; scaling is alpha / r."""
    for dtype in (torch.float64, torch.bfloat16):
        rows, columns, r = random.randint(3, 9), random.randint(10, 14), random.randint(2, 5)
        base = draw_conv1d(rows, columns).to(dtype)
        layer = LoRAConv1D(base, r=r, alpha=3.5)  # r = 3 at alpha = 3 would hide a 1 / scaling
        got = (tuple(layer.lora_A.shape), tuple(layer.lora_B.shape))
        want = ((r, rows), (columns, r))
        assert got == want, explain(
            measured=f"(A, B) of {rows} -> {columns} features, r = {r}: {got}",
            expected=want,
            cause="a Conv1D's weight is (in_features, out_features), not the other way round",
            read="P1",
        )
        facts = {
            "base is kept": layer.base is base,
            "r and alpha are kept": (layer.r, layer.alpha) == (r, 3.5),
            "scaling is alpha / r": layer.scaling == 3.5 / r,
            "scaling is a float": type(layer.scaling) is float,
            "A and B have the base's dtype": layer.lora_A.dtype == layer.lora_B.dtype == dtype,
            "B is zero": not layer.lora_B.detach().any(),
            "A is not zero": bool(layer.lora_A.detach().any()),
            "|A| <= 1/sqrt(in)": layer.lora_A.detach().abs().max().item() <= 1.01 / math.sqrt(rows),
        }
        wrong = [name for name, right in facts.items() if not right]
        assert not wrong, explain(
            measured=f"what is not so: {wrong}",
            expected=[],
            cause="a field of lab 00's LoRALinear is missing or has another value here",
            read=BLUEPRINT,
        )


@pytest.mark.task("A1")
def test_bridge_conv1d_layer_trains_two_matrices_and_saves_four_tensors() -> None:
    """Of the layer's parameters exactly lora_A and lora_B require grad; its state has four keys."""
    layer = LoRAConv1D(draw_conv1d(), r=2)
    trains = sorted(name for name, param in layer.named_parameters() if param.requires_grad)
    keys = sorted(layer.state_dict())
    want = (["lora_A", "lora_B"], ["base.bias", "base.weight", "lora_A", "lora_B"])
    assert (trains, keys) == want, explain(
        measured=f"(trains, state) = {(trains, keys)}",
        expected=want,
        cause="the base is not frozen, or something else is a parameter or a buffer",
        read="P2",
    )


@pytest.mark.task("A1")
def test_bridge_conv1d_layer_follows_the_bases_mode() -> None:
    """Around a base in eval mode the whole layer is in eval mode, around one in train mode not."""
    got = []
    for mode in (True, False):
        layer = LoRAConv1D(draw_conv1d().train(mode), dropout=0.5)
        got.append({module.training for module in layer.modules()})
    assert got == [{True}, {False}], explain(
        measured=f"training flags around a base in train mode, in eval mode = {got}",
        expected=[{True}, {False}],
        cause="a new module is born in train mode: its dropout works in a model that is in eval",
        read="P2",
    )


@pytest.mark.task("A1")
def test_bridge_conv1d_layer_knows_its_base_by_what_it_is() -> None:
    """A Conv1D of another package, as transformers has one, and a class made of ours are bases."""
    theirs, derived = foreign_conv1d(), type("Projection", (Conv1D,), {})(7, 5)
    said = [refusal(partial(LoRAConv1D, base, r=2)) for base in (theirs, derived)]
    assert said == [None, None], explain(
        measured=f"refusals of another package's Conv1D, of a class made of ours = {said}",
        expected=[None, None],
        cause="isinstance knows this package's Conv1D alone, a name no class made of it: "
        "ask is_conv1d",
        read="P3",
    )


@pytest.mark.task("A1")
def test_bridge_conv1d_layer_refuses_what_is_none() -> None:
    """An nn.Linear is a TypeError; r below 1 and a dropout outside [0, 1) are ValueErrors."""
    others = {"Linear": nn.Linear(4, 4), "Embedding": nn.Embedding(4, 4)}
    others |= {"nn.Conv1d": nn.Conv1d(4, 4, 1)}
    bases = {name: partial(LoRAConv1D, other) for name, other in others.items()}
    calls = {f"r = {r}": partial(LoRAConv1D, draw_conv1d(), r=r) for r in (0, -1)}
    for p in (1.0, -0.1, math.nan):
        calls[f"dropout = {p}"] = partial(LoRAConv1D, draw_conv1d(), dropout=p)
    wrong = unlike([TypeError], bases) | unlike([ValueError], calls)
    assert not wrong, explain(
        measured=f"what ends otherwise than it should: {wrong}",
        expected="TypeError for a base, ValueError for r and dropout",
        cause="something is not checked, or too late: a square nn.Linear fits without an error",
        read="P3",
    )


# --- Block A, task A2: forward --------------------------------------------------------------------


def draw_layer(rows: int = 5, columns: int = 7, r: int = 3, alpha: float = 4.5) -> LoRAConv1D:
    """A LoRAConv1D in float64 whose B is not zero."""
    layer = LoRAConv1D(draw_conv1d(rows, columns), r=r, alpha=alpha)
    with torch.no_grad():
        layer.lora_B.copy_(draw(columns, r))
    return layer


def closed(layer: LoRAConv1D, x: Tensor) -> Tensor:
    """x W + b + (alpha / r) x Aᵀ Bᵀ."""
    weight, bias = layer.base.weight.detach(), layer.base.bias.detach()
    a, b = layer.lora_A.detach(), layer.lora_B.detach()
    return x @ weight + bias + (layer.alpha / layer.r) * (x @ a.T @ b.T)


@pytest.mark.task("A2")
def test_bridge_conv1d_forward_is_the_closed_form() -> None:
    """y = x W + b + (alpha / r) x Aᵀ Bᵀ to 1e-12 in float64, for any leading axes."""
    for lead in ((), (4,), (2, 3)):
        layer, x = draw_layer(), draw(*lead, 5)
        far = gap(layer(x), closed(layer, x))
        assert far <= 1e-12, explain(
            measured=f"max|y - (x W + b + (alpha/r) x A^T B^T)| = {far:.1e} for x {tuple(x.shape)}",
            expected="<= 1e-12",
            cause="the base's part or the scale is missing, or a matrix is applied transposed",
            read="P1",
        )


@pytest.mark.task("A2")
def test_bridge_conv1d_forward_is_the_base_at_first() -> None:
    """Before training the output is the base's, bit by bit, with dropout too."""
    base, x = draw_conv1d(), draw(4, 5)
    far = gap(LoRAConv1D(base, r=3, dropout=0.5)(x), base(x))
    assert far == 0.0, explain(
        measured=f"max|y - base(x)| = {far:.1e}",
        expected=0.0,
        cause="B is not zero, or dropout or the scale reaches the base's part",
        read="P2",
    )


@pytest.mark.task("A2")
def test_bridge_conv1d_forward_has_the_closed_gradients() -> None:
    """dA and dB are those of (alpha / r) x Aᵀ Bᵀ, and the base gets none."""
    layer, x, g = draw_layer(), draw(4, 5), draw(4, 7)
    torch.autograd.backward((layer(x) * g).sum())
    scale, a, b = layer.alpha / layer.r, layer.lora_A.detach(), layer.lora_B.detach()
    want = {"lora_A": scale * (g @ b).T @ x, "lora_B": scale * g.T @ (x @ a.T)}
    got = {name: param.grad for name, param in layer.named_parameters()}
    far = [gap(grad, want[name]) for name, grad in got.items() if grad is not None]
    found = sorted(name for name, grad in got.items() if grad is not None)
    assert found == ["lora_A", "lora_B"] and max(far) <= 1e-11, explain(
        measured=f"gradients of {found}, max error = {max(far, default=math.inf):.1e}",
        expected="['lora_A', 'lora_B'], <= 1e-11",
        cause="the scale is wrong, a factor is cut off from the branch, or the base trains along",
        read="P2",
    )


@pytest.mark.task("A2")
def test_bridge_conv1d_forward_drops_the_branchs_input_alone() -> None:
    """In train mode dropout is on the branch's input; in eval mode there is none."""
    base, x = draw_conv1d(1, 2), torch.ones(200, 1).double()
    layer = LoRAConv1D(base, r=2, alpha=2.0, dropout=0.5)
    with torch.no_grad():
        layer.lora_A.fill_(1.0)
        layer.lora_B.fill_(0.5)
        branch, still = layer.train()(x) - base(x), layer.eval()(x) - base(x)
    rows = sorted({tuple(round(value, 9) for value in row) for row in branch.tolist()})
    kept = sorted({tuple(round(value, 9) for value in row) for row in still.tolist()})
    want = ([(0.0, 0.0), (2.0, 2.0)], [(1.0, 1.0)])
    assert (rows, kept) == want, explain(
        measured=f"(rows the branch gives for a 1 in train mode, in eval mode) = {(rows, kept)}",
        expected=want,
        cause="dropout is missing, or stands elsewhere than on the branch's input, or stays on in "
        "eval mode",
        read="P2",
    )


# --- Block A, task A3: fold -----------------------------------------------------------------------


@pytest.mark.task("A3")
def test_bridge_conv1d_folds_the_closed_form() -> None:
    """merge_ adds (alpha / r) (B A)ᵀ to the weight and zeroes A and B; the output stays."""
    for rows, columns in ((5, 7), (6, 6)):
        layer, x = draw_layer(rows, columns), draw(4, rows)
        before, weight = closed(layer, x), layer.base.weight.detach().clone()
        a, b = layer.lora_A.detach().clone(), layer.lora_B.detach().clone()
        layer.merge_()
        far = gap(layer.base.weight, weight + (layer.alpha / layer.r) * (b @ a).T)
        assert far <= 1e-12, explain(
            measured=f"max|W - (W0 + (alpha/r) (B A)^T)| = {far:.1e} at {rows} x {columns}",
            expected="<= 1e-12",
            cause="the update lacks its scale or transpose: in a square layer nothing complains",
            read="P1",
        )
        got = (bool(layer.lora_A.detach().any()), bool(layer.lora_B.detach().any()))
        kept = gap(closed(layer, x), before)
        assert got == (False, False) and kept <= 1e-11, explain(
            measured=f"A and B not zero: {got}; max change of the output = {kept:.1e}",
            expected="(False, False); <= 1e-11",
            cause="A and B stay, and the update then counts twice",
            read="P4",
        )


@pytest.mark.task("A3")
def test_bridge_conv1d_folds_once() -> None:
    """A second merge_ changes nothing."""
    layer = draw_layer()
    layer.merge_()
    once = layer.base.weight.detach().clone()
    layer.merge_()
    far = gap(layer.base.weight, once)
    assert far == 0.0, explain(
        measured=f"max change by the second merge_ = {far:.1e}",
        expected=0.0,
        cause="the update is added again with each call",
        read="P4",
    )


@pytest.mark.task("A3")
def test_bridge_conv1d_folds_with_one_rounding() -> None:
    """In bfloat16 the sum is taken in float32 and rounded once; 1 % of the entries may differ."""
    base = draw_conv1d(40, 50).to(torch.bfloat16)
    layer = LoRAConv1D(base, r=3, alpha=4.5)
    with torch.no_grad():
        layer.lora_A.copy_(torch.randn(3, 40))
        layer.lora_B.copy_(torch.randn(50, 3))
    exact = (
        base.weight.detach().double()
        + 1.5 * (layer.lora_B.detach().double() @ layer.lora_A.detach().double()).T
    )
    layer.merge_()
    off = (layer.base.weight.detach() != exact.to(torch.bfloat16)).double().mean().item()
    got = (off <= 0.01, layer.base.weight.dtype)
    assert got == (True, torch.bfloat16), explain(
        measured=f"share of entries that are not the rounded sum = {off:.3f}, {got[1]}",
        expected="<= 0.01, torch.bfloat16",
        cause="the update is rounded to bfloat16 before it is added: bits are lost twice",
        read="P4",
    )


@pytest.mark.task("A3")
def test_bridge_conv1d_folds_into_a_frozen_leaf() -> None:
    """After merge_ the base's weight is a frozen Parameter still, and the bias what it was."""
    layer = draw_layer()
    bias = layer.base.bias.detach().clone()
    layer.merge_()
    weight = layer.base.weight
    got = (isinstance(weight, nn.Parameter), weight.requires_grad, weight.is_leaf)
    far = gap(layer.base.bias, bias)
    assert (got, far) == ((True, False, True), 0.0), explain(
        measured=f"weight is a (Parameter, requires_grad, leaf) = {got}, bias moved by {far:.1e}",
        expected="(True, False, True), 0.0",
        cause="the sum is not written into the weight: a new Parameter trains, a graph is kept",
        read="P2",
    )


# --- Block A, task A4: wrap GPT-2 -----------------------------------------------------------------


@pytest.mark.task("A4")
def test_bridge_conv1d_wrap_counts_gpt2_small() -> None:
    """At r = 4: c_attn 147,456; with attn.c_proj 221,184; with a careless c_proj 405,504."""
    sets = (["c_attn"], ["c_attn", "attn.c_proj"], ["c_attn", "c_proj"], ["c_proj"])
    got: list[object] = []
    for targets in sets:
        model = hollow_gpt2()
        said = refusal(partial(wrap_gpt2_with_lora, model, targets, r=4))
        got.append(said or (trainable(model), total(model) - trainable(model)))
    want = [(count, GPT2_SMALL) for count in (147_456, 221_184, 405_504, 258_048)]
    assert got == want, explain(
        measured=f"(trainable, frozen) of {sets} = {got}",
        expected=want,
        cause="others are wrapped than those whose name ends in the target, at a dot, or the rest "
        "is not frozen",
        read="P5",
    )


@pytest.mark.task("A4")
def test_bridge_conv1d_wrap_refuses_what_matches_nothing() -> None:
    """No match, a target without one, no target: ValueError, and nothing is changed."""
    others: tuple[list[str], ...] = (["attn_c"], ["proj"], ["lm_head"], ["c_attn", "ln_1"], [])
    model = draw_gpt2()
    modules = [id(module) for module in model.modules()]
    for targets in (["q_proj"], ["c_attn", "q_proj"], *others):
        end = ended(partial(wrap_gpt2_with_lora, model, targets))
        same = [id(module) for module in model.modules()] == modules
        got = (end, same, trainable(model), total(model))
        want = ("ValueError", True, total(model), total(model))
        assert got == want, explain(
            measured=f"{targets}: (ends in, modules as before, trainable, of) = {got}",
            expected=want,
            cause="a target that matches nothing passes, or is refused when the model is changed "
            "already",
            read="P5",
        )


@pytest.mark.task("A4")
def test_bridge_conv1d_wrap_names_the_target_that_misses() -> None:
    """The message has the target that matched nothing, and not the one that did."""
    said = refusal(partial(wrap_gpt2_with_lora, draw_gpt2(), ["c_attn", "gate_proj"])) or ""
    got = ("gate_proj" in said, "c_attn" in said)
    assert got == (True, False), explain(
        measured=f"message = {said!r}",
        expected="with gate_proj, without c_attn",
        cause="whoever mistypes one of several targets is not told which",
        read="P5",
    )


@pytest.mark.task("A4")
def test_bridge_conv1d_wrap_returns_the_names() -> None:
    """It returns the dotted names that were wrapped, in the model's order."""
    got = wrap_gpt2_with_lora(hollow_gpt2(), ["c_fc", "attn.c_proj"], r=1)
    want = [f"transformer.h.{i}.{end}" for i in range(12) for end in ("attn.c_proj", "mlp.c_fc")]
    assert got == want, explain(
        measured=f"names = {got}",
        expected=want,
        cause="a name is missing, or is not the full one, or comes in another order",
        read=BLUEPRINT,
    )


@pytest.mark.task("A4")
def test_bridge_conv1d_wrap_keeps_the_function_and_the_mode() -> None:
    """A wrapped model gives the same logits, bit by bit; one in eval mode stays in it."""
    model, tokens = draw_gpt2().eval(), draw_tokens()
    before = logits(model, tokens)
    wrap_gpt2_with_lora(model, ["c_attn", "c_proj"], r=3, dropout=0.5)
    far = gap(logits(model, tokens), before)
    modes = {module.training for module in model.modules()}
    assert (far, modes) == (0.0, {False}), explain(
        measured=f"max change of the logits = {far:.1e}, training flags = {modes}",
        expected="0.0, {False}",
        cause="a wrapped layer is not its base at first, or the model leaves eval mode",
        read="P2",
    )


@pytest.mark.task("A4")
def test_bridge_conv1d_wrap_trains_nothing_else() -> None:
    """Embeddings, norms, biases and the tied head are frozen, and stay tied."""
    model = draw_gpt2()
    wrap_gpt2_with_lora(model, ["c_attn"], r=2)
    named = [name for name, param in model.named_parameters() if param.requires_grad]
    tied = model.lm_head.weight is model.transformer.wte.weight
    got = (sorted({name.rpartition(".")[2] for name in named}), len(named), tied)
    assert got == (["lora_A", "lora_B"], 4, True), explain(
        measured=f"(what trains, how many, head tied) = {got}",
        expected=(["lora_A", "lora_B"], 4, True),
        cause="only the targets are frozen: embeddings and norms go on training",
        read="P5",
    )


@pytest.mark.task("A4")
def test_bridge_conv1d_wrap_nests_nothing() -> None:
    """The same target again is refused; another target wraps what that one names, and no more."""
    model = draw_gpt2()
    wrap_gpt2_with_lora(model, ["c_attn"], r=2)
    said = refusal(partial(wrap_gpt2_with_lora, model, ["c_attn"]))
    names = wrap_gpt2_with_lora(model, ["c_fc"], r=2)
    inner = [name for name in adapters_of(model) if ".base" in name]
    got = (said is not None, inner, len(adapters_of(model)), len(names))
    assert got == (True, [], 4, 2), explain(
        measured=f"(refused, nested, adapters, names of the second wrap) = {got}",
        expected=(True, [], 4, 2),
        cause="a base inside an adapter is wrapped, or an older adapter counts as a new one",
        read="P5",
    )


@pytest.mark.task("A4")
def test_bridge_conv1d_wrap_leaves_older_adapters_as_they_are() -> None:
    """A second wrap leaves the first adapters training, and frozen the one that was frozen."""
    model = draw_gpt2()
    first, second = wrap_gpt2_with_lora(model, ["c_attn"], r=2)
    model.get_submodule(first).requires_grad_(False)
    new = wrap_gpt2_with_lora(model, ["c_fc"], r=2)
    got = [name for name, param in model.named_parameters() if param.requires_grad]
    want = [f"{name}.lora_{part}" for name in sorted([second, *new]) for part in "AB"]
    assert sorted(got) == want, explain(
        measured=f"what trains = {sorted(got)}",
        expected=want,
        cause="the second wrap freezes what the first one made, or wakes what was put to rest",
        read="P5",
    )


@pytest.mark.task("A4")
def test_bridge_conv1d_wrap_gives_each_what_it_was_given() -> None:
    """Each new adapter has the r, the alpha and the dropout that were asked for."""
    model = draw_gpt2()
    names = wrap_gpt2_with_lora(model, ["c_attn", "c_fc"], r=3, alpha=6.0, dropout=0.75)
    wrong = {}
    for name in names:
        layer = model.get_submodule(name)
        assert isinstance(layer, LoRAConv1D)
        with torch.no_grad():
            layer.lora_A.fill_(1.0)
            layer.lora_B.fill_(1.0)
            x = torch.eye(8, dtype=torch.float64).repeat(100, 1)  # a row has one 1: kept, or not
            dropped = (layer(x) - layer.base(x)).abs().amax(-1).lt(1e-6).double().mean().item()
        found = (layer.r, layer.alpha, layer.scaling, 0.6 < dropped < 0.9)
        if found != (3, 6.0, 2.0, True):
            wrong[name] = (*found[:3], round(dropped, 2))
    assert not wrong, explain(
        measured=f"(r, alpha, scaling, share of inputs dropped) = {wrong}",
        expected="(3, 6.0, 2.0, 0.75) everywhere",
        cause="an argument is not passed on, and the default stands in for it",
        read=BLUEPRINT,
    )


@pytest.mark.task("A4")
def test_bridge_conv1d_wrap_takes_another_packages_conv1d() -> None:
    """In a model of transformers every Conv1D is of another class, and is wrapped all the same."""
    model = draw_gpt2()
    for block in model.transformer.h:
        assert isinstance(block, Block)
        block.attn.c_attn = foreign_conv1d(8, 24)
    said = refusal(partial(wrap_gpt2_with_lora, model, ["c_attn"], r=2))
    got = (said, len(adapters_of(model)), trainable(model))
    assert got == (None, 2, 128), explain(
        measured=f"(refusal, adapters, trainable) = {got}",
        expected=(None, 2, 128),
        cause="isinstance knows this package's Conv1D alone: ask is_conv1d",
        read="P3",
    )


@pytest.mark.task("A4")
def test_bridge_conv1d_wrap_takes_a_shared_module_once() -> None:
    """A Conv1D that is reached under two names becomes one adapter under both."""
    model = draw_gpt2()
    first, second = (f"transformer.h.{i}.attn.c_attn" for i in (0, 1))
    place(model, second, model.get_submodule(first))
    names = wrap_gpt2_with_lora(model, ["c_attn"], r=2)
    found = model.get_submodule(first)
    one = isinstance(found, LoRAConv1D) and model.get_submodule(second) is found
    assert (len(names), one) == (2, True), explain(
        measured=f"(names, one adapter under both) = {(len(names), one)}",
        expected=(2, True),
        cause="named_modules() leaves out the second name unless remove_duplicate is False, or "
        "each name gets an adapter",
        read=BLUEPRINT,
    )


# --- Block B: the weight as a function ------------------------------------------------------------


def draw_bases() -> dict[str, Base]:
    """A linear and two Conv1Ds, all from 5 to 7 features."""
    linear = nn.Linear(5, 7).double()
    return {"Linear": linear, "Conv1D": draw_conv1d(), "transformers' Conv1D": foreign_conv1d()}


def registered(layer: Base, r: int = 3, alpha: float = 4.5) -> LoRAParametrization:
    """A parametrization on the layer's weight, its B not zero."""
    added = LoRAParametrization(layer, r, alpha)
    with torch.no_grad():
        added.lora_B.copy_(draw(sizes(layer)[1], r))
    parametrize.register_parametrization(layer, "weight", added)
    return added


@pytest.mark.task("B1")
def test_bridge_parametrize_factors_fit_the_layer() -> None:
    """For a linear and a Conv1D alike A is (r, in) and B (out, r), in the weight's dtype."""
    for dtype in (torch.float64, torch.bfloat16):
        for kind, layer in draw_bases().items():
            added = LoRAParametrization(layer.to(dtype), r=3, alpha=4.5)
            shapes = {name: tuple(param.shape) for name, param in added.named_parameters()}
            dtypes = [param.dtype for param in added.parameters()]
            got = (shapes, added.scaling, dtypes)
            want = ({"lora_A": (3, 5), "lora_B": (7, 3)}, 1.5, [dtype, dtype])
            assert got == want, explain(
                measured=f"(factors, scaling, dtypes) for a {kind} = {got}",
                expected=want,
                cause="the factors do not follow the layer, scaling is not alpha / r, or there is "
                "another parameter",
                read="P6",
            )


@pytest.mark.task("B1")
def test_bridge_parametrize_factors_begin_as_lab_00s() -> None:
    """B is zero, A is not: its values are within 1/sqrt(in), as nn.Linear inits a weight."""
    for kind, layer in draw_bases().items():
        added = LoRAParametrization(layer, r=8)
        largest = (added.lora_A.detach().abs().max().item(), bool(added.lora_B.detach().any()))
        got = (0.0 < largest[0] <= 1.01 / math.sqrt(5), largest[1])
        assert got == (True, False), explain(
            measured=f"max|A| = {largest[0]:.3f}, B not zero: {largest[1]}, for a {kind}",
            expected=f"above 0, at most {1 / math.sqrt(5):.3f}; False",
            cause="B is not zero, or A is, or A has another spread than a new nn.Linear",
            read=BLUEPRINT,
        )


@pytest.mark.task("B1")
def test_bridge_parametrize_factors_train_alone() -> None:
    """Weight and bias are frozen; registered, the layer trains A and B alone."""
    for kind, layer in draw_bases().items():
        added = LoRAParametrization(layer, r=3)
        parametrize.register_parametrization(layer, "weight", added)
        got = sorted(name for name, param in layer.named_parameters() if param.requires_grad)
        want = [f"parametrizations.weight.0.lora_{part}" for part in "AB"]
        assert got == want, explain(
            measured=f"what trains in a {kind} = {got}",
            expected=want,
            cause="parametrize keeps the weight as `original`: freeze it, and the bias with it",
            read="P6",
        )


@pytest.mark.task("B1")
def test_bridge_parametrize_factors_refuse_a_rank_below_one() -> None:
    """r = 0 is a ValueError, and the layer still trains."""
    layer = nn.Linear(5, 7)
    got = (ended(partial(LoRAParametrization, layer, r=0)), trainable(layer))
    assert got == ("ValueError", 42), explain(
        measured=f"(r = 0 ends in, trainable) = {got}",
        expected=("ValueError", 42),
        cause="r is not checked, or only after the layer has been changed",
        read=BLUEPRINT,
    )


@pytest.mark.task("B2")
def test_bridge_parametrize_weight_is_the_wrappers_function() -> None:
    """Output and gradients are those of base plus branch, to 1e-12 in float64, in both modes."""
    layers = draw_bases() | {"square Conv1D": draw_conv1d(6, 6)}  # it hides a transpose
    for kind, layer in layers.items():
        weight = layer.weight.detach().T if is_conv1d(layer) else layer.weight.detach()
        assert layer.bias is not None
        bias, added = layer.bias.detach(), registered(layer)
        columns, rows = sizes(layer)
        x, g = draw(4, columns), draw(4, rows)
        a = added.lora_A.detach().clone().requires_grad_()
        b = added.lora_B.detach().clone().requires_grad_()
        want = x @ weight.T + bias + 1.5 * (x @ a.T @ b.T)
        got, still = layer(x), layer.eval()(x).detach()
        torch.autograd.backward([(one * g).sum() for one in (got, want) if one.requires_grad])
        grads = (added.lora_A.grad, added.lora_B.grad)
        far = [gap(got, want), gap(still, want)] + [
            math.inf if mine is None or true is None else gap(mine, true)
            for mine, true in zip(grads, (a.grad, b.grad), strict=True)
        ]
        assert max(far[:2]) <= 1e-12 and max(far) <= 1e-11, explain(
            measured=f"max error of (output, output in eval mode, dA, dB) for a {kind} = "
            f"{[float(f'{error:.1e}') for error in far]}",
            expected="<= 1e-12, 1e-12, 1e-11, 1e-11",
            cause="the weight, the scale or the transpose is missing, or a factor is cut off from "
            "the weight",
            read="P6",
        )


@pytest.mark.task("B2")
def test_bridge_parametrize_weight_is_the_old_one_at_first() -> None:
    """Before training the layer's weight is the one it had, bit by bit."""
    for kind, layer in draw_bases().items():
        before = layer.weight.detach().clone()
        parametrize.register_parametrization(layer, "weight", LoRAParametrization(layer))
        far = gap(layer.weight, before)
        assert far == 0.0, explain(
            measured=f"max change of the weight of a {kind} = {far:.1e}",
            expected=0.0,
            cause="the parametrization gives the update alone, or a copy that was rounded",
            read="P6",
        )


@pytest.mark.task("B2")
def test_bridge_parametrize_weight_folds_into_a_plain_layer() -> None:
    """Taken off with leave_parametrized, the layer is plain again, and gives what it gave."""
    for name, layer in draw_bases().items():
        kind, x = type(layer), draw(4, 5)
        registered(layer)
        before = layer(x).detach()
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
        got = (type(layer) is kind, sorted(layer.state_dict()), gap(layer(x), before) <= 1e-12)
        assert got == (True, ["bias", "weight"], True), explain(
            measured=f"(class as before, state, same output) of a {name} = {got}",
            expected=(True, ["bias", "weight"], True),
            cause="the adapted weight has another shape or dtype, or forward keeps something",
            read="P6",
        )


# --- Block C: unwrap ------------------------------------------------------------------------------


@pytest.mark.task("C1")
def test_bridge_unwrap_puts_the_bases_back() -> None:
    """The very bases stand in their places again, no adapter is left, the state's keys are old."""
    for model, ends in ((draw_minigpt(), TARGETS), (draw_gpt2(), ("c_attn", "c_fc"))):
        keys, kinds = list(model.state_dict()), [type(module) for module in model.modules()]
        bases = {name: branch.base for name, branch in branched(model, *ends).items()}
        unwrap_merged(model)
        facts = {
            "the same modules": all(model.get_submodule(n) is b for n, b in bases.items()),
            "their classes": [type(module) for module in model.modules()] == kinds,
            "no adapter": not adapters_of(model),
            "keys": list(model.state_dict()) == keys,
        }
        wrong = [name for name, right in facts.items() if not right]
        assert not wrong, explain(
            measured=f"what is not as before: {wrong}",
            expected=[],
            cause="new layers are built, or adapters stay in place and go on costing time",
            read="P7",
        )


@pytest.mark.task("C1")
def test_bridge_unwrap_keeps_the_function() -> None:
    """The logits are those of the adapted model to 1e-12 in float64, merged before or not."""
    for merged_before in (False, True):
        for model, ends in ((draw_minigpt(), TARGETS), (draw_gpt2(), ("c_attn", "c_proj"))):
            found, tokens = branched(model, *ends), draw_tokens()
            before = logits(model, tokens)
            for branch in found.values():
                if merged_before:
                    branch.merge_()
            unwrap_merged(model)
            far = gap(logits(model, tokens), before)
            assert far <= 1e-11, explain(
                measured=f"max change of the logits = {far:.1e}, merged before: {merged_before}",
                expected="<= 1e-11",
                cause="the update is lost, or added twice",
                read="P7",
            )


@pytest.mark.task("C1")
def test_bridge_unwrap_returns_the_names() -> None:
    """It returns the dotted names of what it unwrapped, in the model's order."""
    model = MiniGPT(replace(MINI, n_layer=11))  # block 10 comes after block 2
    want = list(branched(model, *TARGETS))
    got = unwrap_merged(model)
    assert got == want, explain(
        measured=f"names = {got}",
        expected=want,
        cause="a name is missing, or is not the full one, or comes in another order",
        read=BLUEPRINT,
    )


@pytest.mark.task("C1")
def test_bridge_unwrap_wakes_nothing() -> None:
    """The bases stay frozen, and every module in its mode."""
    model = draw_minigpt().eval()
    branched(model, *TARGETS)
    model.requires_grad_(False)
    unwrap_merged(model)
    got = (trainable(model), {module.training for module in model.modules()})
    assert got == (0, {False}), explain(
        measured=f"(trainable, training flags) = {got}",
        expected=(0, {False}),
        cause="a new layer or a new Parameter is born trainable and in train mode",
        read="P7",
    )


@pytest.mark.task("C1")
def test_bridge_unwrap_refuses_when_there_is_nothing() -> None:
    """A model without adapters is a ValueError: it is unwrapped already, or was never wrapped."""
    said = refusal(partial(unwrap_merged, draw_minigpt()))
    assert said is not None, explain(
        measured=f"unwrap_merged(a plain model) -> {said!r}",
        expected="ValueError",
        cause="what matches nothing passes in silence",
        read="P5",
    )


@pytest.mark.task("C1")
def test_bridge_unwrap_refuses_a_tied_weight() -> None:
    """A base that shares its weight, as a tied head does, is refused before anything is merged."""
    gpt2, mini = draw_gpt2(), draw_minigpt()
    head = branched(gpt2, "c_attn")
    gpt2.lm_head = head["head"] = Branch(gpt2.lm_head)  # type: ignore[assignment]  # it stands in
    one, two = (branch.base for branch in branched(mini, "q_proj").values())
    two.weight = one.weight
    cases = {"the head and the embedding": gpt2, "two linears": mini}
    for case, model in cases.items():
        before = {name: value.clone() for name, value in model.state_dict().items()}
        adapters = len(adapters_of(model))
        said = refusal(partial(unwrap_merged, model))
        after = model.state_dict()
        same = all(name in after and torch.equal(after[name], before[name]) for name in before)
        got = (said is not None, same, len(adapters_of(model)))
        assert got == (True, True, adapters), explain(
            measured=f"(refused, every value as before, adapters) where {case} are tied = {got}",
            expected=(True, True, adapters),
            cause="one tensor is the weight of two modules: merging into one changes the other",
            read="P8",
        )


@pytest.mark.task("C1")
def test_bridge_unwrap_takes_a_shared_module_at_each_name() -> None:
    """An adapter under two names is merged and leaves both."""
    model, tokens = draw_minigpt(), draw_tokens()
    linear = model.get_submodule("blocks.0.attn.q_proj")
    assert isinstance(linear, nn.Linear)
    shared = Branch(linear)
    for i in (0, 1):
        place(model, f"blocks.{i}.attn.q_proj", shared)
    before = logits(model, tokens)
    names = unwrap_merged(model)
    far = gap(logits(model, tokens), before)
    assert (len(names), far <= 1e-11) == (2, True), explain(
        measured=f"names = {names}, max change of the logits = {far:.1e}",
        expected="2 names, <= 1e-11",
        cause="named_modules() leaves out the second name unless remove_duplicate is False",
        read="P7",
    )


# --- Block D, task D1: the two files --------------------------------------------------------------


@pytest.mark.task("D1")
def test_bridge_folder_files_have_pefts_keys() -> None:
    """WEIGHTS holds base_model.model.<name>.lora_A.weight (r, in) and .lora_B.weight (out, r)."""
    for dtype in (torch.float64, torch.bfloat16):
        model = MiniGPT(MINI).to(dtype)
        found = branched(model, *TARGETS)
        files = adapter_files(model)
        got = safetensors.torch.load(bytes(files[WEIGHTS])) if WEIGHTS in files else {}
        want = tensors_of({name: (b.lora_A.data, b.lora_B.data) for name, b in found.items()})
        apart = differences(got, want)
        assert set(files) == {CONFIG, WEIGHTS} and not apart, explain(
            measured=f"files = {sorted(files)}; apart, in {WEIGHTS}: {apart}",
            expected=f"{sorted((CONFIG, WEIGHTS))}; []",
            cause="PEFT finds an adapter by its keys, and only warns when it finds none; A and B "
            "go in as they are",
            read="P9",
        )


@pytest.mark.task("D1")
def test_bridge_folder_files_say_all() -> None:
    """CONFIG has r, lora_alpha and the rest of plain LoRA."""
    model = draw_minigpt()
    r, alpha = random.randint(2, 5), random.choice((1.5, 12.0, 32.0))  # not 8, the default
    branched(model, *TARGETS, r=r, alpha=alpha)
    config = json.loads(adapter_files(model, "a/base")[CONFIG])
    asked = ("peft_type", "r", "lora_alpha", "bias", "fan_in_fan_out", "base_model_name_or_path")
    want = dict(zip(asked, ("LORA", r, alpha, "none", False, "a/base"), strict=True))
    wrong = {key: config.get(key, "missing") for key in asked}
    wrong = {key: value for key, value in wrong.items() if value != want[key]}
    assert not wrong, explain(
        measured=f"settings that are others = {wrong}",
        expected={key: want[key] for key in wrong},
        cause="what is left out is taken as a default: without lora_alpha the scale is another one",
        read="P9",
    )


@pytest.mark.task("D1")
def test_bridge_folder_files_target_what_is_adapted() -> None:
    """Each target hits an adapted module, at a dot, and together they hit no other."""
    for model, ends in ((draw_minigpt(), TARGETS), (draw_gpt2(), ("attn.c_proj",))):
        names = [name for name, _ in model.named_modules()]
        found = branched(model, *ends)
        targets = json.loads(adapter_files(model)[CONFIG])["target_modules"]
        hits = {t: {n for n in names if n == t or n.endswith("." + t)} for t in targets}
        got = (sorted(set().union(*hits.values())), [t for t in targets if not hits[t]])
        assert got == (sorted(found), []), explain(
            measured=f"(hit, targets that hit nothing) = {got}",
            expected=(sorted(found), []),
            cause="a short target hits more: PEFT then makes adapters that the file has not",
            read="P5",
        )


@pytest.mark.task("D1")
def test_bridge_folder_files_say_which_way_round() -> None:
    """fan_in_fan_out is true for Conv1Ds, and their factors have the same shapes as a linear's."""
    key = f"{PREFIX}transformer.h.0.mlp.c_fc.lora_A.weight"
    for whose, made in (("own", draw_conv1d), ("another package's", foreign_conv1d)):
        model = draw_gpt2()
        for i in (0, 1):
            place(model, f"transformer.h.{i}.mlp.c_fc", made(8, 32))
        branched(model, "c_fc", r=3)
        files = adapter_files(model)
        tensor = safetensors.torch.load(bytes(files[WEIGHTS])).get(key)
        shape = None if tensor is None else tuple(tensor.shape)
        got = (json.loads(files[CONFIG]).get("fan_in_fan_out"), shape)
        assert got == (True, (3, 8)), explain(
            measured=f"(fan_in_fan_out, shape of an A) for {whose} Conv1D = {got}",
            expected=(True, (3, 8)),
            cause="the reader must know that the base's weight is stored in x out",
            read="P1",
        )


@pytest.mark.task("D1")
def test_bridge_folder_files_refuse_what_one_config_cannot_say() -> None:
    """No adapters, two of r, alpha or kind, a scaling that is not alpha / r: ValueError."""
    mixed = draw_gpt2()
    branched(mixed, "c_attn")
    mixed.lm_head = Branch(mixed.lm_head)  # type: ignore[assignment]  # it stands in
    calls = {"no adapters": partial(adapter_files, draw_minigpt())}
    calls["a Conv1D and a linear"] = partial(adapter_files, mixed)
    for field, value in (("r", 3), ("alpha", 4.0), ("scaling", 0.5)):
        model = draw_minigpt()
        first, *others = branched(model, *TARGETS).values()
        for branch in [first] if field != "scaling" else [first, *others]:
            setattr(branch, field, value)
            branch.scaling = branch.scaling if field == "scaling" else branch.alpha / branch.r
        calls[f"another {field}"] = partial(adapter_files, model)
    wrong = unlike([ValueError, TypeError], calls)
    assert not wrong, explain(
        measured=f"what is not a ValueError: {wrong}",
        expected={},
        cause="one CONFIG has one r, one lora_alpha, one layout: the others would be read with it",
        read="P9",
    )


@pytest.mark.task("D1")
def test_bridge_folder_files_have_a_shared_adapter_at_each_name() -> None:
    """An adapter that stands under two names is in WEIGHTS under both."""
    model = draw_minigpt()
    linear = model.get_submodule("blocks.0.attn.q_proj")
    assert isinstance(linear, nn.Linear)
    shared = Branch(linear)
    for i in (0, 1):
        place(model, f"blocks.{i}.attn.q_proj", shared)
    got = safetensors.torch.load(bytes(adapter_files(model)[WEIGHTS]))
    pair = (shared.lora_A.data, shared.lora_B.data)
    apart = differences(got, tensors_of({f"blocks.{i}.attn.q_proj": pair for i in (0, 1)}))
    assert not apart, explain(
        measured=f"apart, in {WEIGHTS}: {apart}",
        expected=[],
        cause="safetensors takes no tensor twice: each key needs a copy of its own",
        read=BLUEPRINT,
    )


@pytest.mark.task("D1")
def test_bridge_folder_files_on_disk_are_two(tmp_path: Path) -> None:
    """save_adapter makes the folder, writes two files, replaces old ones and leaves the rest."""
    folder = tmp_path / "new" / "adapter"
    for _ in range(2):
        model = draw_minigpt()
        branched(model, *TARGETS)
        save_adapter(model, folder)
        (folder / "README.md").touch()
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    same = {name: content for name, content in found.items() if name != "README.md"}
    got = (sorted(found), same == adapter_files(model))
    want = (sorted((CONFIG, WEIGHTS, "README.md")), True)
    assert got == want, explain(
        measured=f"(files, as adapter_files gives them) = {got}",
        expected=want,
        cause="something else is written than the two files, or an old one stays",
        read="P9",
    )


# --- Block D, task D2: read strictly --------------------------------------------------------------


@pytest.mark.task("D2")
def test_bridge_folder_read_takes_what_peft_writes() -> None:
    """Short targets in any order, PEFT's other settings, names that begin with "model."."""
    r, alpha = random.randint(1, 4), random.choice((6, 2.5))
    pairs = {f"model.{name}": pair for name, pair in draw_pairs(outline(MINI), r).items()}
    files = to_files(Settings(r, alpha, TARGETS), tensors_of(pairs))
    other = {"use_qalora": False, "loftq_config": {}, "megatron_core": "megatron.core"}
    told = changed(files, target_modules=["mlp.fc1", "q_proj"], peft_version="0.21.2", **other)
    settings, got = read_adapter(told)
    same = got.keys() == pairs.keys() and all(
        torch.equal(mine, true)
        for name in pairs
        for mine, true in zip(got[name], pairs[name], strict=True)
    )
    found = (settings.r, settings.alpha, min(got), same)
    assert found == (r, alpha, min(pairs), True), explain(
        measured=f"(r, alpha, first name, all as written) = {found}",
        expected=(r, alpha, min(pairs), True),
        cause="a module's name is cut wrongly, or A and B are exchanged",
        read="P9",
    )


@pytest.mark.task("D2")
def test_bridge_folder_read_refuses_what_is_no_plain_adapter() -> None:
    """Missing or foreign settings, and bytes that are no safetensors, are refused."""
    files, _ = draw_files()
    cases: dict[str, dict[str, bytes]] = {
        f"no {key}" if value is ... else f"{key} = {value!r}": changed(files, **{key: value})
        for key, value in (
            ("lora_alpha", ...),
            ("r", ...),
            ("target_modules", ...),
            ("r", 0),
            ("lora_alpha", math.nan),
            ("peft_type", "LOHA"),
            ("use_rslora", True),
            ("use_dora", True),
            ("rank_pattern", {"q_proj": 4}),
            ("modules_to_save", ["lm_head"]),
            ("target_modules", "all-linear"),
        )
    }
    cases["weights: a pickle"] = {**files, WEIGHTS: b"\x80\x04N."}
    cases["weights: cut"] = {**files, WEIGHTS: files[WEIGHTS][:-1]}
    cases["config: a list"] = {**files, CONFIG: b"[]"}
    cases["config: none"] = {WEIGHTS: files[WEIGHTS]}
    taken = unlike(FILES, {case: partial(read_adapter, told) for case, told in cases.items()})
    assert not taken, explain(
        measured=f"what is not refused: {taken}",
        expected={},
        cause="what from_files refuses is caught, or the files are read without it",
        read="P10",
    )


@pytest.mark.task("D2")
def test_bridge_folder_read_refuses_names_that_do_not_add_up() -> None:
    """An A without its B, a tensor too many, another prefix, no tensor: ValueError."""
    files, pairs = draw_files()
    tensors = tensors_of(pairs)
    first = next(iter(tensors))
    cases: dict[str, dict[str, Tensor]] = {
        "no A": {key: value for key, value in tensors.items() if key != first},
        "no B": {k: v for k, v in tensors.items() if k != first.replace("lora_A", "lora_B")},
        "one more": tensors | {f"{PREFIX}lm_head.weight": draw(11, 8)},
        "a bias": tensors | {first.replace("lora_A.weight", "lora_B.bias"): draw(8)},
        "no prefix": {key.removeprefix(PREFIX): value for key, value in tensors.items()},
        "a dot": {key.replace("_A.weight", "_A.default.weight"): v for key, v in tensors.items()},
    }
    told = {case: with_tensors(files, found) for case, found in cases.items()}
    told["nothing"] = with_tensors(changed(files, target_modules=[]), {})
    taken = unlike(FILES, {case: partial(read_adapter, files) for case, files in told.items()})
    assert not taken, explain(
        measured=f"what is not refused: {taken}",
        expected={},
        cause="a key that is missing or left over is passed by: that adapter stays as it was",
        read="P10",
    )


@pytest.mark.task("D2")
def test_bridge_folder_read_refuses_shapes_that_do_not_fit_r() -> None:
    """A is (r, in) and B (out, r) with CONFIG's r, both matrices; else ValueError."""
    files, pairs = draw_files()
    name, (a, b) = next(iter(pairs.items()))
    cases: dict[str, tuple[Tensor, Tensor]] = {
        "r of both": (draw(3, 8), draw(8, 3)),
        "r of A": (draw(3, 8), b),
        "r of B": (a, draw(8, 3)),
        "B transposed": (draw(2, 8), draw(2, 8)),
        "A with an axis more": (a[None], b),
        "B with an axis more": (a, b[..., None]),
    }
    told = {
        case: with_tensors(files, tensors_of({**pairs, name: pair})) for case, pair in cases.items()
    }
    taken = unlike(FILES, {case: partial(read_adapter, files) for case, files in told.items()})
    assert not taken, explain(
        measured=f"what is not refused: {taken}",
        expected={},
        cause="the shapes are not compared with r: the file and its CONFIG are of two adapters",
        read="P10",
    )


@pytest.mark.task("D2")
def test_bridge_folder_read_refuses_what_is_not_finite() -> None:
    """NaN or infinity anywhere in an A or a B is a ValueError."""
    files, pairs = draw_files()
    taken = []
    for key, value in tensors_of(pairs).items():
        for bad in (math.nan, math.inf, -math.inf):
            broken = value.clone()
            broken[random.randrange(value.shape[0]), random.randrange(value.shape[1])] = bad
            told = with_tensors(files, tensors_of(pairs) | {key: broken})
            if refusal(partial(read_adapter, told)) is None:
                taken.append(f"{bad} in {key.removeprefix(PREFIX)}")
    assert not taken, explain(
        measured=f"{len(taken)} that were read: {taken[:4]}",
        expected=[],
        cause="no later step complains of a NaN: it trains, it is saved, it answers",
        read="P10",
    )


@pytest.mark.task("D2")
def test_bridge_folder_read_refuses_targets_that_tell_another_story() -> None:
    """A target without a tensor and a tensor without a target are both a ValueError."""
    files, _ = draw_files()
    lists: tuple[list[str], ...] = (
        ["q_proj"],
        [*TARGETS, "v_proj"],
        ["q_proj", "fc"],
        ["proj", "mlp.fc1"],
        [],
    )
    taken = [
        asked
        for asked in lists
        if refusal(partial(read_adapter, changed(files, target_modules=asked))) is None
    ]
    assert not taken, explain(
        measured=f"target_modules that were read though they do not fit the tensors: {taken}",
        expected=[],
        cause="whoever wraps by target_modules gets other modules than the tensors are for",
        read="P10",
    )


# --- Block D, task D3: fill -----------------------------------------------------------------------


@pytest.mark.task("D3")
def test_bridge_folder_fill_keeps_the_parameters_that_are_there() -> None:
    """The values are copied into the same Parameters, which go on training; nothing else moves."""
    model = draw_minigpt().float()
    found = branched(model, *TARGETS)
    own = {name: (b.lora_A, b.lora_B) for name, b in found.items()}
    bases = {name: b.base.weight.detach().clone() for name, b in found.items()}
    files, pairs = draw_files()
    fill(model, files)
    facts = {
        "values, in the model's dtype": all(
            torch.equal(mine, true.float())
            for name in pairs
            for mine, true in zip(own[name], pairs[name], strict=True)
        ),
        "Parameters": all(
            b.lora_A is own[n][0] and b.lora_B is own[n][1] for n, b in found.items()
        ),
        "they train": all(param.requires_grad for pair in own.values() for param in pair),
        "bases": all(torch.equal(b.base.weight, bases[name]) for name, b in found.items()),
    }
    wrong = [name for name, right in facts.items() if not right]
    assert not wrong, explain(
        measured=f"what is not so: {wrong}",
        expected=[],
        cause="values do not arrive, or in the file's dtype, or in new Parameters, which no "
        "optimiser holds",
        read="P11",
    )


@pytest.mark.task("D3")
def test_bridge_folder_fill_refuses_another_models_adapter() -> None:
    """Other modules, r, alpha, scaling or sizes: ValueError, and no value has moved."""
    wide = replace(MINI, d_ff=16)
    deep = replace(MINI, n_layer=3)
    cases = {
        "fewer targets": draw_files(targets=("q_proj",))[0],
        "more targets": draw_files(targets=(*TARGETS, "v_proj"))[0],
        "another r": draw_files(r=3, alpha=4.5)[0],
        "another alpha": draw_files(alpha=6.0)[0],
        "another width": draw_files(config=wide)[0],
        "another depth": draw_files(config=deep)[0],
    }
    cases["another scaling"] = draw_files()[0]  # of the model, as rsLoRA has one; it stays, so last
    wrong = {}
    model = draw_minigpt()
    branches = branched(model, *TARGETS)
    for case, files in cases.items():
        for branch in branches.values():
            branch.scaling = 0.5 if case == "another scaling" else branch.scaling
        before = {name: value.clone() for name, value in model.state_dict().items()}
        end = ended(partial(fill, model, files), FILES)
        same = all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        if end not in {error.__name__ for error in FILES} or not same:
            wrong[case] = (end, same)
    assert not wrong, explain(
        measured=f"(ends in, every value as before) = {wrong}",
        expected="('ValueError', True) everywhere",
        cause="something is not compared, or is written before all has been compared",
        read="P11",
    )


@pytest.mark.task("D3")
def test_bridge_folder_fill_refuses_what_is_not_finite_here() -> None:
    """A value that is finite in the file and infinite in the model's dtype is a ValueError."""
    model = MiniGPT(MINI).half()
    branched(model, *TARGETS)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    files, pairs = draw_files()
    pairs["blocks.1.mlp.fc1"][1][3, 1] = 1e6
    said = refusal(partial(fill, model, with_tensors(files, tensors_of(pairs))))
    same = all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (said is not None, same) == (True, True), explain(
        measured=f"1e6 into float16: {said!r}, every value as before: {same}",
        expected="ValueError, True",
        cause="finiteness is checked too late, or in the file's dtype, not in the one written",
        read="P11",
    )


@pytest.mark.task("D3")
def test_bridge_folder_fill_from_disk(tmp_path: Path) -> None:
    """What save_adapter wrote, load_adapter reads into a model that is wrapped the same way."""
    first, second = draw_minigpt(), draw_minigpt()
    found, others = branched(first, *TARGETS), branched(second, *TARGETS)
    pairs = {name: (b.lora_A.detach(), b.lora_B.detach()) for name, b in found.items()}
    files = to_files(Settings(2, 3.0, TARGETS), tensors_of(pairs))
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    load_adapter(second, tmp_path)
    far = max(
        max(gap(others[name].lora_A, a), gap(others[name].lora_B, b))
        for name, (a, b) in pairs.items()
    )
    (tmp_path / CONFIG).unlink()
    end = ended(partial(load_adapter, second, tmp_path))
    assert far == 0.0 and end != "accepted", explain(
        measured=f"max difference = {far:.1e}; without {CONFIG}: {end}",
        expected="0.0; ValueError",
        cause="A or B is not filled as it stands in the file, or the folder is not read by "
        "read_folder",
        read="P11",
    )


# --- Block E, task E1: each row its own -----------------------------------------------------------


@pytest.mark.task("E1")
def test_bridge_several_rows_share_one() -> None:
    """With one adapter chosen the logits are those of a model with its update in the weights."""
    model = draw_minigpt()
    plain, poet, cook = draw_copy(model), draw_pairs(model), draw_pairs(model, 3, ("q_proj", "fc2"))
    shelf = shelved(model, poet=(1.5, poet), cook=(0.5, cook))
    for name, scale, pairs in (("poet", 1.5, poet), ("cook", 0.5, cook)):
        shelf.chosen = name
        for rows in (3, 2):
            tokens = draw_tokens(rows)
            far = gap(logits(model, tokens), logits_with(plain, tokens, scale, pairs))
            assert (far <= 1e-11, shelf.chosen) == (True, name), explain(
                measured=f"max error of the logits of {rows} rows with {name} = {far:.1e}, "
                f"then chosen = {shelf.chosen!r}",
                expected=f"<= 1e-11, {name!r}",
                cause="another adapter's update is added, the scale or a module is missing, or the "
                "choice is changed",
                read="P12",
            )


@pytest.mark.task("E1")
def test_bridge_several_rows_without_one_are_the_base() -> None:
    """With none chosen, for all or for each row, the logits are the base's, bit by bit."""
    model, tokens = draw_minigpt(), draw_tokens()
    want = logits(draw_copy(model), tokens)
    shelf = shelved(model, poet=(1.5, draw_pairs(model)))
    got = []
    choices: tuple[Names, ...] = (None, [None, None, None])
    for chosen in choices:
        shelf.chosen = chosen
        got.append(gap(logits(model, tokens), want))
    assert got == [0.0, 0.0], explain(
        measured=f"max change of the logits with None, with a None a row = {got}",
        expected=[0.0, 0.0],
        cause="an adapter works though nobody chose it",
        read="P12",
    )


def draw_copy(model: MiniGPT) -> MiniGPT:
    fresh = draw_minigpt()
    fresh.load_state_dict(model.state_dict())
    return fresh


@pytest.mark.task("E1")
def test_bridge_several_rows_have_their_own() -> None:
    """A batch whose rows have different adapters gives each row what it gets when it is alone."""
    model = draw_minigpt()
    held = {
        "poet": (1.5, draw_pairs(model)),
        "cook": (0.5, draw_pairs(model, 3, ("q_proj", "fc2"))),
    }
    shelf = shelved(model, **held)
    rows: list[str | None] = ["cook", None, "poet", "cook", "poet"]
    random.shuffle(rows)
    tokens = draw_tokens(len(rows))
    plain = draw_copy(model)
    shelf.chosen = list(rows)
    together = logits(model, tokens)
    for row, name in enumerate(rows):
        alone = tokens[row : row + 1]
        want = logits_with(plain, alone, *held[name]) if name else logits(plain, alone)
        far = gap(together[row : row + 1], want)
        assert far <= 1e-11, explain(
            measured=f"rows {rows}: max error in row {row} = {far:.1e}",
            expected="<= 1e-11",
            cause="a row gets a neighbour's update, or more than one, or none",
            read="P12",
        )


@pytest.mark.task("E1")
def test_bridge_several_rows_refuse_another_number() -> None:
    """Fewer or more names than rows is a ValueError, in a module that no adapter has, too."""
    model = draw_minigpt()
    shelf = shelved(model, poet=(1.5, draw_pairs(model, 2, ("fc2",))))
    said = {}
    for name in ("blocks.0.mlp.fc2", "blocks.0.mlp.fc1"):
        columns, wide = sizes(shelf.bases[name])
        x = draw(3, columns)
        choices: tuple[Names, ...] = (["poet"], ["poet", None, None, None], [])
        for chosen in choices:
            shelf.chosen = chosen
            call = partial(adapted, shelf, name, x, draw(3, wide))
            said[f"{chosen} at {name}"] = refusal(call, (ValueError,))
    taken = [case for case, message in said.items() if message is None]
    assert not taken, explain(
        measured=f"what passed for 3 rows = {taken}",
        expected=[],
        cause="names are matched to rows as far as they go: the rest runs without its adapter",
        read="P12",
    )


@pytest.mark.task("E1")
def test_bridge_several_rows_leave_the_output_they_get() -> None:
    """`adapted` gives a new tensor: the base's own output is not written to."""
    model = draw_minigpt()
    pairs = draw_pairs(model)
    shelf = Shelf(model, held={"poet": Held(1.5, pairs)}, chosen=["poet", None])
    name, (a, b) = next(iter(pairs.items()))
    x, out = draw(2, 3, a.shape[1]), draw(2, 3, b.shape[0])
    before = out.clone()
    got = adapted(shelf, name, x, out)
    want = before.clone()
    want[0] += 1.5 * (x[0] @ a.T @ b.T)
    far = (gap(out, before), gap(got, want))
    assert far[0] == 0.0 and far[1] <= 1e-12, explain(
        measured=f"max change of what was given, max error of what is returned = {far}",
        expected="0.0, <= 1e-12",
        cause="the update is added in place, and whoever holds the base's output sees it; or it "
        "goes to other rows",
        read="P12",
    )


# --- Block E, task E2: attach ---------------------------------------------------------------------


@pytest.mark.task("E2")
def test_bridge_several_attach_holds_what_the_files_say() -> None:
    """Each adapter keeps its own r, scale and modules, in its base's dtype."""
    model = draw_minigpt().float()
    shelf = shelf_for(model, adapted)
    files, poet = draw_files()
    attach(shelf, "poet", files)
    other, cook = draw_files(3, 6.0, ("q_proj", "fc2"))
    attach(shelf, "cook", other)
    wrong = []
    for name, scale, pairs in (("poet", 1.5, poet), ("cook", 2.0, cook)):
        held = shelf.held.get(name)
        if held is None or held.scaling != scale or held.pairs.keys() != pairs.keys():
            of = f"{held.scaling}, {sorted(map(str, held.pairs))}" if held else "not held"
            wrong.append(f"{name}: {of}")
            continue
        for path, pair in pairs.items():
            for mine, true in zip(held.pairs[path], pair, strict=True):
                if mine.dtype != torch.float32 or gap(mine, true.float()):
                    wrong.append(f"{name}, {path}: {mine.dtype}, off by {gap(mine, true.float())}")
    assert not wrong, explain(
        measured=f"what is not as the files say: {wrong[:4]}",
        expected=[],
        cause="one adapter's scale or modules are taken for another's, or the file's dtype stays",
        read="P12",
    )


@pytest.mark.task("E2")
def test_bridge_several_attach_changes_nothing_yet() -> None:
    """Until switch, logits and state are the base's; the keys of the state always are."""
    model, tokens = draw_minigpt(), draw_tokens()
    before, state = logits(model, tokens), list(model.state_dict())
    shelf = shelf_for(model, adapted)
    attach(shelf, "poet", draw_files()[0])
    got = (gap(logits(model, tokens), before), list(model.state_dict()) == state, shelf.chosen)
    assert got == (0.0, True, None), explain(
        measured=f"(max change of the logits, keys as before, chosen) = {got}",
        expected=(0.0, True, None),
        cause="attaching chooses the new adapter, or puts it into the model",
        read="P12",
    )


@pytest.mark.task("E2")
def test_bridge_several_attach_measures_a_conv1d_the_right_way_round() -> None:
    """GPT-2's Conv1Ds take an adapter of their sizes, and not one of the sizes turned round."""
    model = draw_gpt2()
    shelf = shelf_for(model, adapted)
    said = []
    for rows, columns in ((8, 32), (32, 8)):
        pairs = {f"transformer.h.{i}.mlp.c_fc": (draw(2, rows), draw(columns, 2)) for i in (0, 1)}
        files = to_files(Settings(2, 3.0, ("c_fc",), fan_in_fan_out=True), tensors_of(pairs))
        said.append(refusal(partial(attach, shelf, f"{rows}x{columns}", files)))
    got = ([message is not None for message in said], sorted(shelf.held))
    assert got == ([False, True], ["8x32"]), explain(
        measured=f"(refused: 8 to 32, 32 to 8; held) = {got}",
        expected=([False, True], ["8x32"]),
        cause="the weight of a Conv1D is (in, out): adapters.sizes knows both kinds",
        read="P1",
    )


@pytest.mark.task("E2")
def test_bridge_several_attach_refuses_as_a_whole() -> None:
    """A name that is taken, a module that is not there, other sizes: ValueError, nothing held."""
    model = draw_minigpt()
    shelf = shelf_for(model, adapted)
    attach(shelf, "poet", draw_files()[0])
    held = dict(shelf.held)
    wide = replace(MINI, d_ff=16)
    deep = replace(MINI, n_layer=3)
    cases = {
        "poet": draw_files()[0],
        "wide": draw_files(config=wide)[0],
        "deep": draw_files(config=deep)[0],
        "strange": changed(draw_files()[0], use_rslora=True),
    }
    calls = {case: partial(attach, shelf, case, files) for case, files in cases.items()}
    taken = unlike([ValueError, TypeError], calls)
    assert not taken and shelf.held == held, explain(
        measured=f"not refused: {taken}, held = {sorted(shelf.held)}",
        expected="{}, ['poet'], the old one",
        cause="an adapter is taken that this model cannot run, or an old one is overwritten",
        read="P12",
    )


# --- Block E, tasks E3 and E4: switch and detach --------------------------------------------------


def empty_shelf(*names: str) -> Shelf:
    """A shelf whose adapters have nothing in them."""
    return Shelf(nn.Identity(), held={name: Held(1.0, {}) for name in names})


@pytest.mark.task("E3")
def test_bridge_several_switch_chooses() -> None:
    """One for all, none, or one a row is what is chosen then; the caller's list stays its own."""
    shelf = empty_shelf("poet", "cook")
    rows: list[str | None] = ["poet", None, "cook"]
    got: list[Names] = []
    for names in ("poet", None, rows, "cook"):
        switch(shelf, names)
        got.append(shelf.chosen)
    switch(shelf, rows)
    rows[0] = "cook"
    got.append(shelf.chosen)
    own: list[str | None] = ["poet", None, "cook"]
    want: list[Names] = ["poet", None, own, "cook", own]
    assert got == want, explain(
        measured=f"chosen after each switch = {got}",
        expected=want,
        cause="a choice is not stored as it was made, or is the caller's own list",
        read="P12",
    )


@pytest.mark.task("E3")
def test_bridge_several_switch_refuses_who_is_not_there() -> None:
    """A name that is not on the shelf is a ValueError that names it; the choice stays."""
    shelf = empty_shelf("poet")
    shelf.chosen = "poet"
    cases: tuple[Names, ...] = ("cook", ["cook", "poet"], [None, "cook"])
    said = [refusal(partial(switch, shelf, names), FILES) for names in cases]
    named = ["cook" in (message or "") for message in said]
    assert named == [True] * 3 and shelf.chosen == "poet", explain(
        measured=f"messages = {said}, chosen = {shelf.chosen!r}",
        expected="three that name cook, 'poet'",
        cause="a mistyped name runs the base, or is not named, or is chosen and then looked for",
        read="P5",
    )


@pytest.mark.task("E4")
def test_bridge_several_detach_leaves_no_trace() -> None:
    """It is off the shelf, its rows have none, the others stay; the name is not chosen later."""
    shelf = empty_shelf("poet", "cook")
    got: list[tuple[list[str], Names]] = []
    choices: tuple[Names, ...] = ("poet", "cook", None, ["cook", "poet", None])
    for chosen in choices:
        shelf.held["poet"], shelf.chosen = Held(1.0, {}), chosen
        detach(shelf, "poet")
        got.append((sorted(shelf.held), shelf.chosen))
    rest: tuple[Names, ...] = (None, "cook", None, ["cook", None, None])
    want = [(["cook"], chosen) for chosen in rest]
    assert got == want, explain(
        measured=f"(held, chosen) after detach with {choices} chosen = {got}",
        expected=want,
        cause="the choice keeps the name, and whoever attaches another under it gets it at once; "
        "or others lose theirs",
        read="P12",
    )


@pytest.mark.task("E4")
def test_bridge_several_detach_gives_the_base_back() -> None:
    """After the last one is off, the logits are the base's, bit by bit."""
    model, tokens = draw_minigpt(), draw_tokens()
    before = logits(model, tokens)
    shelf = shelved(model, poet=(1.5, draw_pairs(model)))
    shelf.chosen = "poet"
    detach(shelf, "poet")
    far = gap(logits(model, tokens), before)
    assert far == 0.0, explain(
        measured=f"max change of the logits = {far:.1e}",
        expected=0.0,
        cause="something of the adapter stayed in the model",
        read="P12",
    )


@pytest.mark.task("E4")
def test_bridge_several_detach_refuses_who_is_not_there() -> None:
    """A name that is not on the shelf is a ValueError (KeyError will do), and nothing changes."""
    shelf = empty_shelf("poet")
    shelf.chosen = "poet"
    said = refusal(partial(detach, shelf, "cook"), FILES)
    got = (said is not None, sorted(shelf.held), shelf.chosen)
    assert got == (True, ["poet"], "poet"), explain(
        measured=f"(refused, held, chosen) = {got}",
        expected=(True, ["poet"], "poet"),
        cause="a mistyped name passes, and the adapter that was meant stays",
        read="P12",
    )
