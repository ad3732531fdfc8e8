"""The contract of lab 00: what src/minituner/lora.py promises. Read it; never edit it.

    pytest -k lora                      your file (as shipped, every test fails, by design)
    pytest -k lora --impl reference     the solution, all green

The oracles are closed forms in float64 and worked examples, never the code under test. Shapes and
seeds change with every run; a failing test prints the seed that repeats it.
"""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from minituner.lora import (
    LoRALinear,
    load_lora_state_dict,
    lora_state_dict,
    wrap_minigpt_with_lora,
)
from minituner.minigpt import MiniGPT, MiniGPTConfig
from minituner.words import explaining

explain = explaining("lab/00-lora-by-hand.md")
MERGING = "theory/04-merging-and-floats.md"
UPDATE = "theory/01-the-update.md"
COUNTING = "theory/02-parameter-count.md"

# --- what the tests build -------------------------------------------------------------------------


def wide(device: str) -> torch.dtype:
    """The widest float the device has; a claim that needs float64 is marked so and skips mps."""
    return torch.float32 if device == "mps" else torch.float64


def draw_linear(
    device: str, dtype: torch.dtype | None = None, bias: bool = True, eighths: bool = False
) -> nn.Linear:
    """A linear with in ≠ out; eighths: small multiples of 1/8, exact in any order of summation."""
    d_in = random.randint(7, 10)
    d_out = d_in + random.choice((-2, -1, 1, 2))
    base = nn.Linear(d_in, d_out, bias=bias, dtype=dtype or wide(device), device=device)
    if eighths:
        with torch.no_grad():
            for param in base.parameters():
                param.copy_(torch.randint(-8, 9, param.shape) / 8)
    return base


def draw_scale() -> tuple[int, float, float]:
    """(r, alpha, alpha / r), never a value at which two wrong scales would agree."""
    r = random.choice((2, 3))
    scale = random.choice((0.75, 1.5, 2.75))
    return r, r * scale, scale


def fill(layer: LoRALinear) -> None:
    """Give A and B values of training size, so that neither is zero."""
    with torch.no_grad():
        layer.lora_A.copy_(torch.randn(layer.lora_A.shape, dtype=layer.lora_A.dtype))
        layer.lora_B.copy_(torch.randn(layer.lora_B.shape, dtype=layer.lora_B.dtype) / 2)


def trained_layer(device: str, dropout: float = 0.0, bias: bool = True) -> tuple[LoRALinear, float]:
    """A float64 layer with A and B filled in, and its true scale alpha / r."""
    r, alpha, scale = draw_scale()
    layer = LoRALinear(draw_linear(device, bias=bias), r=r, alpha=alpha, dropout=dropout)
    fill(layer)
    return layer, scale


def dropout_pair(device: str, mode: bool = True) -> tuple[LoRALinear, LoRALinear]:
    """A layer with dropout 0.5 and one without, on the same base, with the same A and B."""
    base = draw_linear(device).train(mode)
    layer, twin = LoRALinear(base, r=3, alpha=4.5, dropout=0.5), LoRALinear(base, r=3, alpha=4.5)
    fill(layer)
    with torch.no_grad():
        twin.lora_A.copy_(layer.lora_A)
        twin.lora_B.copy_(layer.lora_B)
    return layer, twin


def dense_weight(layer: LoRALinear, scale: float) -> Tensor:
    """The closed form W + s B A, computed apart from the layer."""
    update = torch.einsum("or,ri->oi", layer.lora_B.detach(), layer.lora_A.detach())
    return layer.base.weight.detach() + scale * update


def dense_output(layer: LoRALinear, scale: float, x: Tensor) -> Tensor:
    """The closed form x (W + s B A)ᵀ + b."""
    out = x @ dense_weight(layer, scale).T
    return out if layer.base.bias is None else out + layer.base.bias.detach()


def worked_layer(device: str) -> LoRALinear:
    """3 outputs, 4 inputs, r = 2, alpha = 3 (scale 1.5): small enough to check by hand."""
    base = nn.Linear(4, 3, device=device)
    layer = LoRALinear(base, r=2, alpha=3.0)
    with torch.no_grad():
        base.weight.copy_(torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]))
        base.bias.copy_(torch.tensor([0.5, 0.0, -0.5]))
        layer.lora_A.copy_(torch.tensor([[1.0, 0, 2, -1], [0, 3, -2, 1]]))
        layer.lora_B.copy_(torch.tensor([[1.0, 2], [0, -1], [2, 0]]))
    return layer


def small_gpt(device: str, dtype: torch.dtype | None = None) -> MiniGPT:
    """Two layers, d_model 12: a MiniGPT that a test can afford."""
    config = MiniGPTConfig(vocab_size=13, block_size=6, n_layer=2, n_head=2, d_model=12, d_ff=20)
    return MiniGPT(config).to(device=device, dtype=dtype or wide(device))


def tokens(device: str) -> Tensor:
    return torch.randint(0, 13, (3, 6)).to(device)


def wrapped_gpt(device: str, dropout: float = 0.0) -> MiniGPT:
    """A small MiniGPT with two adapters a layer, one without and one with bias, A and B filled."""
    model = small_gpt(device)
    targets = ("q_proj", "mlp.fc2")
    wrap_minigpt_with_lora(model, r=2, alpha=3.0, target_modules=targets, dropout=dropout)
    for adapter in adapters(model):
        fill(adapter)
    return model


class Special(nn.Linear):
    """Somebody's own kind of nn.Linear."""


def decoy_tree(device: str) -> nn.Module:
    """Targets among decoys: names with a target or 'lora' inside, modules of other kinds."""
    linear = [nn.Linear(5, 4, device=device) for _ in range(10)]
    tree = nn.Module()
    tree.q_proj, tree.xq_proj, tree.q_projection = linear[0], linear[1], linear[2]
    tree.q_proj_norm = nn.LayerNorm(4, device=device)
    tree.block, tree.block.mlp, tree.block.xmlp = nn.Module(), nn.Module(), nn.Module()
    tree.block.q_proj, tree.block.mlp.fc1 = linear[3], linear[4]
    tree.block.xmlp.fc1, tree.block.lora_gate = linear[5], linear[6]
    tree.conv = nn.ModuleDict({"q_proj": nn.Conv1d(5, 4, 1, device=device)})
    tree.seq = nn.ModuleDict({"q_proj": nn.Sequential(linear[7])})
    tree.lora_tower = nn.ModuleDict({"q_proj": linear[8]})
    tree.base = nn.ModuleDict({"q_proj": linear[9]})
    tree.own = nn.ModuleDict({"q_proj": Special(5, 4, device=device)})
    tree.lora_scale = nn.Parameter(torch.ones(3, device=device))
    tree.register_buffer("lora_table", torch.ones(2, device=device))
    return tree


TREE_TARGETS = ("q_proj", "mlp.fc1")
TREE_MATCHES = ["base.q_proj", "block.mlp.fc1", "block.q_proj", "lora_tower.q_proj"]
TREE_MATCHES += ["own.q_proj", "q_proj"]


class Twins(nn.Module):
    """One linear reached under two names, and a second one apart."""

    def __init__(self, device: str) -> None:
        super().__init__()
        shared = nn.Linear(6, 6, dtype=wide(device), device=device)
        last = nn.Linear(6, 4, dtype=wide(device), device=device)
        self.left = nn.ModuleDict({"q_proj": shared})
        self.right = nn.ModuleDict({"q_proj": shared})
        self.last = nn.ModuleDict({"q_proj": last})

    def forward(self, x: Tensor) -> Tensor:
        h = self.right["q_proj"](self.left["q_proj"](x).tanh()).tanh()
        out: Tensor = self.last["q_proj"](h)
        return out


# --- what the tests measure -----------------------------------------------------------------------


def gap(got: Tensor, want: Tensor) -> float:
    """max|got - want|, on the cpu; infinite where the shapes differ, so that nothing broadcasts."""
    if got.shape != want.shape:
        return float("inf")
    apart = (got.detach().cpu().double() - want.detach().cpu().double()).abs()
    return apart.max().item() if apart.numel() else 0.0


def first_differences(rows: Tensor) -> Tensor:
    """Undoes a lower triangle of ones: z with cumsum(z) = row."""
    return torch.diff(rows.detach(), dim=1, prepend=torch.zeros_like(rows[:, :1]))


def adapters(model: nn.Module) -> list[LoRALinear]:
    return [module for module in model.modules() if isinstance(module, LoRALinear)]


def trainable(model: nn.Module) -> set[str]:
    return {name for name, param in model.named_parameters() if param.requires_grad}


def adapter_names(model: nn.Module) -> set[str]:
    """The names of A and B, found by identity in the model's own list of parameters."""
    mine = {id(p) for layer in adapters(model) for p in (layer.lora_A, layer.lora_B)}
    return {name for name, param in model.named_parameters() if id(param) in mine}


Snapshot = tuple[dict[str, nn.Module], dict[str, tuple[nn.Parameter, Tensor, bool]]]


def snapshot(model: nn.Module) -> Snapshot:
    """Every module, and every parameter with its value and its requires_grad."""
    params = model.named_parameters(remove_duplicate=False)
    return (
        dict(model.named_modules(remove_duplicate=False)),
        {name: (p, p.detach().clone(), p.requires_grad) for name, p in params},
    )


def changes(before: Snapshot, model: nn.Module) -> list[str]:
    """What differs from the snapshot: names of modules and parameters, in words."""
    modules, params = before
    now_modules, now_params = snapshot(model)
    found = sorted(modules.keys() ^ now_modules.keys())
    found += [n for n in modules if n in now_modules and modules[n] is not now_modules[n]]
    for name in (n for n in params if n in now_params):
        (old, value, flag), (new, now, now_flag) = params[name], now_params[name]
        if old is not new or flag != now_flag or not torch.equal(value, now):
            found.append(name)
    return found


def sgd_step(params: list[nn.Parameter], lr: float) -> None:
    """What torch.optim.SGD does, without the two seconds that importing it takes."""
    with torch.no_grad():
        for param in params:
            if param.grad is not None:
                param.sub_(param.grad, alpha=lr)
                param.grad = None


def few(names: Sequence[str]) -> str:
    """The first names of a list, and how many there are in all."""
    return str(list(names)) if len(names) <= 4 else f"{list(names[:3])} … ({len(names)})"


def refusal(call: Callable[[], object], *errors: type[Exception]) -> str | None:
    """The message with which call refuses its input, or None when it accepts it."""
    try:
        call()
    except errors as error:
        return str(error)
    return None


# --- Block A, tasks A1 and A2: the fields and the two matrices ------------------------------------


@pytest.mark.task("A1")
def test_lora_param_count_fields_record_the_arguments(device: str) -> None:
    """base, r and alpha are kept as given, and scaling is the plain float alpha / r."""
    base = draw_linear(device)
    r, alpha, scale = draw_scale()
    layer = LoRALinear(base, r=r, alpha=alpha)
    LoRALinear(draw_linear(device), r=r + 1, alpha=alpha + 1)  # another layer changes nothing here
    got = (layer.base is base, layer.r, layer.alpha, layer.scaling)
    assert got == (True, r, alpha, scale), explain(
        measured=f"(base is base, r, alpha, scaling) = {got}",
        expected=(True, r, alpha, scale),
        cause="a field is missing, or scaling is not alpha / r",
        read="P2",
    )
    assert type(layer.scaling) is float, explain(
        measured=f"type(scaling) = {type(layer.scaling).__name__}",
        expected="float",
        cause="scaling is a tensor or a buffer: .to(bfloat16) would round it",
        read="P2",
    )


@pytest.mark.task("A1")
def test_lora_param_count_arguments_may_be_positional_and_alpha_an_int(device: str) -> None:
    """LoRALinear(base, 8, 12, 0.25, False): this order, an int alpha, r above in and out."""
    layer = LoRALinear(nn.Linear(4, 3, device=device), 8, 12, 0.25, False)
    got = (layer.r, layer.alpha, layer.scaling, layer.base.weight.requires_grad)
    assert got == (8, 12, 1.5, True), explain(
        measured=f"(r, alpha, scaling, base.weight.requires_grad) = {got}",
        expected=(8, 12, 1.5, True),
        cause="the order of the arguments differs, or a check refuses what the contract allows",
        read="src/minituner/BLUEPRINT.md",
    )


@pytest.mark.task("A1")
def test_lora_param_count_accepts_a_subclass_of_linear(device: str) -> None:
    """A subclass of nn.Linear is an nn.Linear."""
    base = Special(4, 3, device=device)
    said = refusal(partial(LoRALinear, base), TypeError, ValueError)
    assert said is None, explain(
        measured=f"LoRALinear(Special(4, 3)) -> {said!r}",
        expected="class Special(nn.Linear): LoRALinear",
        cause="the type of base is compared with ==; use isinstance",
        read="src/minituner/BLUEPRINT.md",
    )


@pytest.mark.task("A1")
def test_lora_param_count_scaling_survives_a_change_of_dtype(device: str) -> None:
    """scaling is exactly alpha / r, also after the layer went to bfloat16 and was saved."""
    layer = LoRALinear(draw_linear(device, torch.float32), r=3, alpha=1.0).to(torch.bfloat16)
    strangers = sorted(
        name for name in layer.state_dict() if "scal" in name or name.endswith("alpha")
    )
    assert (layer.scaling, strangers) == (1.0 / 3, []), explain(
        measured=f"(scaling, scale entries in the state) = {(layer.scaling, strangers)}",
        expected=(1.0 / 3, []),
        cause="the scale is kept as a buffer or Parameter; keep it as a float outside the state",
        read="P2",
    )


@pytest.mark.task("A1")
def test_lora_param_count_defaults_are_r8_alpha16(device: str) -> None:
    """LoRALinear(base) means r = 8, alpha = 16, no dropout, a frozen base."""
    layer = LoRALinear(draw_linear(device, torch.float32))
    got = (layer.r, layer.alpha, layer.scaling, layer.base.weight.requires_grad)
    assert got == (8, 16.0, 2.0, False), explain(
        measured=f"(r, alpha, scaling, base.weight.requires_grad) = {got}",
        expected=(8, 16.0, 2.0, False),
        cause="a default differs from BLUEPRINT.md; alpha must not default to r",
        read="P2",
    )


@pytest.mark.task("A1")
def test_lora_param_count_alpha_does_not_follow_r(device: str) -> None:
    """With another r and no alpha given, alpha is still 16."""
    layer = LoRALinear(draw_linear(device, torch.float32), r=3)
    got = (layer.r, layer.alpha, layer.scaling)
    assert got == (3, 16.0, 16.0 / 3), explain(
        measured=f"(r, alpha, scaling) = {got}",
        expected=(3, 16.0, 16.0 / 3),
        cause="alpha silently follows r, or r is not passed on",
        read="P2",
    )


@pytest.mark.task("A1")
def test_lora_param_count_rejects_a_rank_below_one(device: str) -> None:
    """r < 1 raises ValueError (TypeError will do), naming r and the value it got."""
    for bad in (0, -3):
        said = refusal(partial(LoRALinear, draw_linear(device), r=bad), ValueError, TypeError)
        assert said is not None and "r" in said and str(bad) in said, explain(
            measured=f"LoRALinear(base, r={bad}) -> {said!r}",
            expected=f"ValueError: r … {bad}",
            cause="the rank is not checked, or the message does not name r and the value it got",
            read="src/minituner/BLUEPRINT.md",
        )


@pytest.mark.task("A1")
def test_lora_param_count_accepts_rank_one(device: str) -> None:
    """r = 1 is the smallest rank there is, and a useful one."""
    said = refusal(partial(LoRALinear, draw_linear(device), r=1), ValueError, TypeError)
    assert said is None, explain(
        measured=f"LoRALinear(base, r=1) -> {said!r}",
        expected="LoRALinear",
        cause="the check refuses r = 1; only r < 1 is wrong",
        read="src/minituner/BLUEPRINT.md",
    )


@pytest.mark.task("A1")
def test_lora_param_count_rejects_a_dropout_outside_0_1(device: str) -> None:
    """dropout outside [0, 1), 1.0 included, raises ValueError naming it and the value."""
    for bad in (-0.25, 1.0, 1.5):
        call = partial(LoRALinear, draw_linear(device), dropout=bad)
        said = refusal(call, ValueError, TypeError)
        assert said is not None and "dropout" in said and f"{bad:g}" in said, explain(
            measured=f"LoRALinear(base, dropout={bad}) -> {said!r}",
            expected=f"ValueError: dropout … {bad}",
            cause="dropout is not checked against [0, 1); nn.Dropout itself accepts 1.0",
            read="src/minituner/BLUEPRINT.md",
        )


@pytest.mark.task("A1")
def test_lora_param_count_rejects_a_base_that_is_no_linear(device: str) -> None:
    """A base that is not an nn.Linear, another LoRALinear included, raises TypeError."""
    nested = LoRALinear(draw_linear(device))
    wrong: tuple[Any, ...] = (nn.Conv1d(4, 3, 1), nn.LayerNorm(4), nested)  # Any: wrong on purpose
    for bad in wrong:
        kind = type(bad).__name__
        said = refusal(partial(LoRALinear, bad), TypeError, ValueError)
        assert said is not None and "base" in said and kind in said, explain(
            measured=f"LoRALinear({kind}) -> {said!r}",
            expected=f"TypeError: base … nn.Linear … {kind}",
            cause="the type of base is not checked, or the message does not say what it got",
            read="src/minituner/BLUEPRINT.md",
        )


@pytest.mark.task("A2")
def test_lora_param_count_shapes_are_r_in_and_out_r(device: str) -> None:
    """lora_A is a Parameter (r, in_features), lora_B a Parameter (out_features, r); r = 1 too."""
    base = draw_linear(device)
    r = random.choice((2, 3))
    least = LoRALinear(base, r=1)
    layer = LoRALinear(base, r=r)
    kinds = (isinstance(layer.lora_A, nn.Parameter), isinstance(layer.lora_B, nn.Parameter))
    assert kinds == (True, True), explain(
        measured=f"types = {type(layer.lora_A).__name__}, {type(layer.lora_B).__name__}",
        expected="nn.Parameter, nn.Parameter",
        cause="A and B must be bare nn.Parameters, not tensors, buffers or nn.Linear",
        read="P6",
    )
    got = [tuple(p.shape) for m in (layer, least) for p in (m.lora_A, m.lora_B)]
    want = [shape for n in (r, 1) for shape in ((n, base.in_features), (base.out_features, n))]
    assert got == want, explain(
        measured=f"shapes (A, B) at r={r}, at r=1 = {got}",
        expected=want,
        cause="a matrix is transposed: A reads the input, B writes the output",
        read=UPDATE,
    )


@pytest.mark.task("A2")
def test_lora_param_count_64_by_64_at_r8_trains_1024(device: str) -> None:
    """Linear(64, 64) at r = 8 trains r (in + out) = 1024 parameters."""
    layer = LoRALinear(nn.Linear(64, 64, device=device), r=8)
    got = sum(p.numel() for p in layer.parameters() if p.requires_grad)
    assert got == 1024, explain(
        measured=f"trainable = {got}",
        expected="8 * (64 + 64) = 1024",
        cause="something besides A and B trains, or one of them does not",
        read=COUNTING,
    )


@pytest.mark.task("A2")
def test_lora_param_count_adds_no_parameter_but_A_and_B(device: str) -> None:
    """The layer's parameters are base's own, A and B: nothing else, nothing twice."""
    for bias in (True, False):
        base = draw_linear(device, bias=bias)
        own = {id(p) for p in base.parameters()}
        layer = LoRALinear(base, r=2)
        rest = [n for n, p in layer.named_parameters(remove_duplicate=False) if id(p) not in own]
        assert sorted(rest) == ["lora_A", "lora_B"], explain(
            measured=f"added parameters = {sorted(rest)}",
            expected=["lora_A", "lora_B"],
            cause="an extra bias or nn.Linear hides in the branch, or A and B go by other names",
            read="P6",
        )
        kept = {id(p) for p in layer.parameters()} >= own
        assert kept, explain(
            measured="base.weight in layer.parameters() = False",
            expected=True,
            cause="base is not registered as a submodule: it would not be moved or saved",
            read="P4",
        )


@pytest.mark.task("A2")
def test_lora_param_count_factors_follow_the_dtype_of_base(device: str) -> None:
    """A and B have base's dtype and device."""
    # A meta tensor has a shape and no memory: another device, on every machine.
    places = ((torch.float32, device), (torch.bfloat16, device), (torch.float32, "meta"))
    for dtype, place in places:
        base = nn.Linear(7, 5, dtype=dtype, device=place)
        try:
            layer = LoRALinear(base, r=2)
        except RuntimeError as error:
            if place == "meta" and "meta" in str(error):
                continue  # a check of its own that reads a value: none of our business
            raise
        got = {(p.dtype, p.device) for p in (layer.lora_A, layer.lora_B)}
        assert got == {(dtype, base.weight.device)}, explain(
            measured=f"(dtype, device) of A and B = {sorted(map(str, got))}",
            expected=(dtype, base.weight.device),
            cause="A and B are made with torch's defaults, not base.weight's dtype and device",
            read="P7",
        )


# --- Block A, task A3: A from U(±1/√in), B at zero ------------------------------------------------


@pytest.mark.task("A3")
def test_lora_init_identity_B_starts_at_zero_and_A_does_not(device: str) -> None:
    """At init B is exactly zero and A has no zero row."""
    layer = LoRALinear(draw_linear(device), r=3)
    largest = layer.lora_B.detach().abs().max().item()
    assert largest == 0.0, explain(
        measured=f"max|B| = {largest:.3g}",
        expected=0.0,
        cause="B must be zeros, not small random numbers: step 0 would not be the base model",
        read="P1",
    )
    rows = layer.lora_A.detach().abs().amax(dim=1).min().item()
    assert rows > 0.0, explain(
        measured=f"smallest row maximum of |A| = {rows:.3g}",
        expected="> 0",
        cause="A is zero too: then both gradients are zero for ever and nothing trains",
        read=UPDATE,
    )


@pytest.mark.task("A3")
def test_lora_init_identity_A_is_kaiming_uniform(device: str) -> None:
    """A ~ kaiming_uniform_(a=√5) = U(-1/√in, 1/√in), whatever the shape and r."""
    d_in, r = random.choice((144, 256)), 64
    layer = LoRALinear(nn.Linear(d_in, 24, device=device), r=r)
    values = layer.lora_A.detach().cpu().double().flatten() * d_in**0.5  # in units of the bound
    largest, std, mean = values.abs().max().item(), values.std().item(), values.mean().item()
    assert 0.98 < largest <= 1.000001, explain(
        measured=f"(max|A|, std) = ({largest:.2f}, {std:.2f}) / √in",
        expected="(1.00, 0.58) / √in",
        cause="another bound: a=√5 is missing, or fan_in is taken from the wrong axis",
        read=UPDATE,
    )
    # Six standard errors of 9216 draws or more: a correct A never misses these.
    assert abs(std - 3**-0.5) < 0.02 and abs(mean) < 0.04, explain(
        measured=f"std = {std:.3f} / √in, mean = {mean:.3f} / √in",
        expected="0.577 / √in, 0",
        cause="A is not uniform in the interval (a clipped normal, or only one sign)",
        read=UPDATE,
    )


@pytest.mark.task("A3")
def test_lora_init_identity_A_comes_from_the_global_seed(device: str) -> None:
    """The same torch seed gives the same A; two layers in a row get different ones."""
    base = draw_linear(device)
    start = random.randint(0, 10**6)
    torch.manual_seed(start)
    first, second = LoRALinear(base).lora_A.detach(), LoRALinear(base).lora_A.detach()
    torch.manual_seed(start)
    again = LoRALinear(base).lora_A.detach()
    got = (torch.equal(first, again), torch.equal(first, second))
    assert got == (True, False), explain(
        measured=f"(A == A(same seed), A == A(next layer)) = {got}",
        expected=(True, False),
        cause="the constructor seeds torch itself, or draws A from somewhere torch cannot seed",
        read="src/minituner/BLUEPRINT.md",
    )


# --- Block A, task A4: dropout on the branch's input ----------------------------------------------


@pytest.mark.float64
@pytest.mark.task("A4")
def test_lora_init_identity_dropout_acts_on_the_branch_input(device: str) -> None:
    """In train mode the branch sees x with entries dropped and the rest scaled by 1 / (1 - p)."""
    n, p = 16, random.choice((0.2, 0.4))
    base = nn.Linear(n, n + 1, dtype=torch.float64, device=device)
    layer = LoRALinear(base, r=n, alpha=n * 1.5, dropout=p)
    # A is lower triangular ones and B starts with the identity, so the mask can be read back.
    with torch.no_grad():
        layer.lora_A.copy_(torch.ones(n, n).tril())
        layer.lora_B.copy_(torch.eye(n + 1, n))
    x = torch.rand(64, n, dtype=torch.float64, device=device) + 1.0
    branch, full = (layer.train(mode)(x) - base(x) for mode in (True, False))
    seen = first_differences(branch[:, :n]) / first_differences(full[:, :n])
    kept = (seen - 1 / (1 - p)).abs() < 1e-9
    dropped = seen.abs() < 1e-9
    odd = int((~(kept | dropped)).sum())
    assert odd == 0, explain(
        measured=f"{odd} / {seen.numel()} entries seen by A are neither 0 nor x / (1 - p)",
        expected=0,
        cause="dropout stays on in eval, sits elsewhere (on A x, on the output, on base's input) "
        "or does not rescale",
        read="P5",
    )
    share = dropped.double().mean().item()
    mixed = (dropped.any(0) & kept.any(0)).any() and (dropped.any(1) & kept.any(1)).any()
    assert abs(share - p) < 0.1 and mixed, explain(
        measured=f"dropped share = {share:.2f}, entry by entry = {bool(mixed)}",
        expected=f"{p:.2f}, True",
        cause="dropout is missing, has another p, or drops whole rows or columns at once",
        read="P5",
    )


@pytest.mark.float64
@pytest.mark.task("A4")
def test_lora_init_identity_dropout_draws_a_new_mask_each_time(device: str) -> None:
    """Two calls in train mode differ."""
    layer, _ = dropout_pair(device)
    x = torch.randn(64, layer.base.in_features, dtype=torch.float64, device=device)
    got = gap(layer.train()(x), layer(x))
    assert got > 1e-6, explain(
        measured=f"max|layer(x) - layer(x)| in train = {got:.3g}",
        expected="> 0",
        cause="the mask is drawn once or from a fixed seed, or dropout never acts",
        read="P5",
    )


@pytest.mark.float64
@pytest.mark.task("A4")
def test_lora_init_identity_dropout_is_silent_in_eval(device: str) -> None:
    """After eval() the output is that of the same layer without dropout."""
    layer, twin = dropout_pair(device)
    x = torch.randn(64, layer.base.in_features, dtype=torch.float64, device=device)
    got = gap(layer.train().eval()(x), twin.eval()(x))
    assert got < 1e-12, explain(
        measured=f"max|layer.eval()(x) - twin.eval()(x)| = {got:.3g}",
        expected="< 1e-12",
        cause="dropout still acts in eval: use nn.Dropout, or pass self.training to F.dropout",
        read="P5",
    )


@pytest.mark.float64
@pytest.mark.task("A4")
def test_lora_init_identity_mode_follows_the_base(device: str) -> None:
    """Wrapping an eval() base stays in eval; train() switches dropout on, eval() off again."""
    layer, twin = dropout_pair(device, mode=False)
    x = torch.randn(64, layer.base.in_features, dtype=torch.float64, device=device)
    born_silent = gap(layer(x), twin(x)) < 1e-12
    awake = gap(layer.train()(x), twin(x)) > 1e-6
    silent_again = gap(layer.eval()(x), twin(x)) < 1e-12
    born_awake = LoRALinear(draw_linear(device).train(), dropout=0.5).training
    asleep = draw_linear(device).eval()
    LoRALinear(asleep)
    got = (born_silent, awake, silent_again, born_awake, asleep.training)
    assert got == (True, True, True, True, False), explain(
        measured=f"(eval base: silent, train(): active, eval(): silent, born, base) = {got}",
        expected=(True, True, True, True, False),
        cause="a new module is born in train mode: call self.train(base.training) at the end",
        read="P5",
    )


@pytest.mark.float64
@pytest.mark.task("A4")
def test_lora_init_identity_no_dropout_by_default(device: str) -> None:
    """With dropout left out, train and eval compute the same."""
    layer = LoRALinear(draw_linear(device), r=3)
    fill(layer)
    x = torch.randn(64, layer.base.in_features, dtype=torch.float64, device=device)
    got = gap(layer.train()(x), layer.eval()(x))
    assert got < 1e-12, explain(
        measured=f"max|train(x) - eval(x)| = {got:.3g} (dropout=0)",
        expected="< 1e-12",
        cause="some dropout acts although none was asked for, or forward differs between the modes",
        read="P5",
    )


# --- Block A, task A5: the forward pass -----------------------------------------------------------


@pytest.mark.task("A5")
def test_lora_init_identity_output_is_base_to_the_bit(device: str) -> None:
    """At init layer(x) - base(x) is 0.0 exactly: train and eval, without and with dropout 0.5."""
    for p in (0.0, 0.5):
        base = draw_linear(device, torch.float32, eighths=True)
        layer = LoRALinear(base, r=3, alpha=7.5, dropout=p)
        x = (torch.randint(-8, 9, (4, base.in_features)) / 8).to(device)
        for mode in (True, False):
            got = gap(layer.train(mode)(x), base(x))
            assert got == 0.0, explain(
                measured=f"max|layer(x) - base(x)| = {got:.3g} (dropout={p}, training={mode})",
                expected=0.0,
                cause="the branch is not zero at init, or base's own output is changed on the way",
                read="P1",
            )


@pytest.mark.task("A5")
def test_lora_init_identity_then_the_worked_example(device: str) -> None:
    """base(x) + 1.5 B A x for the 3×4 example: [-5.25, 26.75, 40.0]."""
    layer = worked_layer(device)
    got = layer(torch.tensor([1.0, -1, 2, 0.5], device=device)).tolist()
    assert got == [-5.25, 26.75, 40.0], explain(
        measured=f"layer(x) = {got}",
        expected="[7.5, 17.0, 26.5] + 1.5 * [-8.5, 6.5, 9.0] = [-5.25, 26.75, 40.0]",
        cause="a term is missing, or A and B are applied in the wrong order",
        read=UPDATE,
    )


@pytest.mark.float64
@pytest.mark.task("A5")
def test_lora_init_identity_then_the_scale_is_alpha_over_r(device: str) -> None:
    """The branch is weighed by exactly alpha / r."""
    layer, scale = trained_layer(device)
    x = torch.randn(5, layer.base.in_features, dtype=torch.float64, device=device)
    bare = x @ layer.lora_A.detach().T @ layer.lora_B.detach().T
    branch = (layer(x) - layer.base(x)).detach()
    got = (branch * bare).sum().item() / bare.square().sum().item()
    rest = gap(branch, got * bare)
    assert rest < 1e-9, explain(
        measured=f"what is left of the branch beside a multiple of B A x = {rest:.3g}",
        expected="< 1e-9",
        cause="the branch is not a multiple of B A x: a transpose, a bias, or base counted twice",
        read=UPDATE,
    )
    assert abs(got - scale) < 1e-9, explain(
        measured=f"factor on B A x = {got:.6g} (r={layer.r}, alpha={layer.alpha})",
        expected=f"alpha / r = {scale}",
        cause="the scale is missing, inverted, applied twice, or not alpha / r",
        read="P2",
    )


@pytest.mark.float64
@pytest.mark.task("A5")
def test_lora_init_identity_then_the_closed_form(device: str) -> None:
    """layer(x) = x (W + (alpha/r) B A)ᵀ + b in float64, with and without a bias or a graph."""
    for bias, graph in ((True, True), (True, False), (False, True)):
        layer, scale = trained_layer(device, bias=bias)
        x = torch.randn(5, layer.base.in_features, dtype=torch.float64, device=device)
        with torch.set_grad_enabled(graph):
            got = gap(layer(x), dense_output(layer, scale, x))
        assert got < 1e-12, explain(
            measured=f"max|layer(x) - closed form| = {got:.3g} (bias={bias}, grad={graph})",
            expected="< 1e-12",
            cause="forward is not base(x) + (alpha/r) B A x: a lost bias, or a lower precision",
            read=UPDATE,
        )


@pytest.mark.float64
@pytest.mark.task("A5")
def test_lora_init_identity_then_any_batch_shape(device: str) -> None:
    """(in,), (n, in), (a, b, in), (a, b, c, in) and empty batches all give (..., out)."""
    layer, scale = trained_layer(device)
    for lead in ((), (3,), (2, 3), (2, 1, 3), (0,), (2, 0)):
        x = torch.randn(*lead, layer.base.in_features, dtype=torch.float64, device=device)
        x = x.transpose(0, 1) if len(lead) == 2 else x  # a view with strides of its own
        got = gap(layer(x), dense_output(layer, scale, x))
        assert got < 1e-12, explain(
            measured=f"max|layer(x) - closed form| = {got:.3g} for x of shape {tuple(x.shape)}",
            expected="< 1e-12",
            cause="forward assumes a number of batch axes; only the last axis is in_features",
            read=UPDATE,
        )


@pytest.mark.float64
@pytest.mark.task("A5")
def test_lora_init_identity_then_gradients_are_the_closed_form(device: str) -> None:
    """dA = s Bᵀ Gᵀ x, dB = s Gᵀ x Aᵀ, dx = G (W + s B A), in train and in eval mode."""
    for mode in (True, False):
        layer, s = trained_layer(device)
        layer.train(mode)
        base, A, B = layer.base, layer.lora_A.detach(), layer.lora_B.detach()
        x = torch.randn(5, base.in_features, dtype=torch.float64, device=device, requires_grad=True)
        G = torch.randn(5, base.out_features, dtype=torch.float64, device=device)
        (layer(x) * G).sum().backward()
        xd = x.detach()
        want = (s * B.T @ G.T @ xd, s * G.T @ xd @ A.T, G @ dense_weight(layer, s))
        for name, got, expected in zip("ABx", (layer.lora_A, layer.lora_B, x), want, strict=True):
            off = gap(got.grad, expected) if got.grad is not None else float("inf")
            assert off < 1e-12, explain(
                measured=f"max|d{name} - closed form| = {off:.3g} (training={mode})",
                expected="< 1e-12",
                cause="a detach, .data or no_grad cuts the branch, or the scale is lost going back",
                read=UPDATE,
            )


@pytest.mark.task("A5")
def test_lora_init_identity_then_the_dtype_of_base(device: str) -> None:
    """The layer runs forward and backward in float32 and bfloat16, and stays in that dtype."""
    for dtype in (torch.float32, torch.bfloat16):
        base = draw_linear(device, dtype)
        layer = LoRALinear(base, r=2)
        out = layer(torch.ones(3, base.in_features, dtype=dtype, device=device))
        out.sum().backward()
        assert out.dtype == dtype, explain(
            measured=f"output dtype = {out.dtype}",
            expected=dtype,
            cause="the branch computes in another dtype and promotes the output",
            read="P7",
        )


@pytest.mark.task("A5")
def test_lora_init_identity_gradient_reaches_B_first(device: str) -> None:
    """At init dA is exactly zero (because B is) and dB is not: B moves first."""
    base = draw_linear(device, torch.float32)
    layer = LoRALinear(base, r=3)
    layer(torch.randn(6, base.in_features).to(device)).square().sum().backward()
    grads = layer.lora_A.grad, layer.lora_B.grad
    sizes = [None if g is None else g.abs().max().item() for g in grads]
    assert sizes[0] == 0.0 and sizes[1] is not None and sizes[1] > 0.0, explain(
        measured=f"max|dA|, max|dB| = {sizes}",
        expected="0.0, > 0",
        cause="the branch is cut off from the loss, or B does not start at zero",
        read=UPDATE,
    )


@pytest.mark.task("A5")
def test_lora_init_identity_forward_changes_nothing(device: str) -> None:
    """forward leaves x, W, b, A and B as they were."""
    layer = worked_layer(device)
    x = torch.randn(3, 4, device=device)
    before, kept = snapshot(layer), x.clone()
    layer(x)
    changed = changes(before, layer) + ([] if torch.equal(x, kept) else ["x"])
    assert changed == [], explain(
        measured=f"changed = {changed}",
        expected=[],
        cause="an in-place operation (+=, mul_, copy_) works on the input or on the weights",
        read="P3",
    )


# --- Block A, task A6: only A and B train ---------------------------------------------------------


@pytest.mark.task("A6")
def test_lora_freeze_only_A_and_B_require_grad(device: str) -> None:
    """By default base.weight and base.bias are frozen; A and B are not, whatever base was."""
    for bias, found in ((True, True), (False, True), (True, False)):
        layer = LoRALinear(draw_linear(device, bias=bias).requires_grad_(found))
        assert trainable(layer) == {"lora_A", "lora_B"}, explain(
            measured=f"requires_grad: {sorted(trainable(layer))}",
            expected=["lora_A", "lora_B"],
            cause="base.weight or base.bias still trains, or an adapter matrix is frozen",
            read="P4",
        )


@pytest.mark.task("A6")
def test_lora_freeze_base_False_leaves_flags_as_found(device: str) -> None:
    """freeze_base=False touches no requires_grad of base, neither on nor off."""
    for weight, bias in ((True, True), (True, False), (False, True)):
        base = draw_linear(device)
        base.weight.requires_grad_(weight)
        base.bias.requires_grad_(bias)
        LoRALinear(base, freeze_base=False)
        got = (base.weight.requires_grad, base.bias.requires_grad)
        assert got == (weight, bias), explain(
            measured=f"(weight, bias).requires_grad = {got}",
            expected=f"{(weight, bias)}, as found",
            cause="freeze_base=False must leave the flags alone, not switch them on or off",
            read="P4",
        )


@pytest.mark.task("A6")
def test_lora_freeze_base_False_lets_base_learn(device: str) -> None:
    """With freeze_base=False a trainable base gets its gradient, beside A and B."""
    layer = LoRALinear(nn.Linear(4, 3, device=device), r=2, freeze_base=False)
    fill(layer)
    layer(torch.randn(3, 4, device=device)).square().sum().backward()
    params = (layer.base.weight, layer.base.bias, layer.lora_A, layer.lora_B)
    got = [p.grad is not None for p in params]
    assert got == [True, True, True, True], explain(
        measured=f"has a gradient: (W, b, A, B) = {got}",
        expected=[True, True, True, True],
        cause="forward detaches base or runs it under no_grad; freezing is requires_grad's work",
        read="P4",
    )


@pytest.mark.task("A6")
def test_lora_freeze_base_gets_no_gradient(device: str) -> None:
    """After backward base.weight.grad and base.bias.grad are None, and A and B have gradients."""
    layer = worked_layer(device)
    layer(torch.randn(3, 4, device=device)).square().sum().backward()
    params = (layer.base.weight, layer.base.bias, layer.lora_A, layer.lora_B)
    got = [p.grad is not None for p in params]
    assert got == [False, False, True, True], explain(
        measured=f"has a gradient: (W, b, A, B) = {got}",
        expected=[False, False, True, True],
        cause="base is not frozen, or A and B are not reached",
        read="P4",
    )


@pytest.mark.task("A6")
def test_lora_freeze_holds_after_to_train_eval_and_deepcopy(device: str) -> None:
    """.to(), train(), eval() and deepcopy keep base frozen, and a copy shares nothing."""
    layer = LoRALinear(draw_linear(device, torch.float32))
    layer(torch.ones(2, layer.base.in_features, device=device))  # a layer in use
    moved = layer.to(device).to(torch.bfloat16).to(torch.float32).eval().train()
    twin = copy.deepcopy(moved)
    for name, module in (("to/train/eval", moved), ("deepcopy", twin)):
        assert trainable(module) == {"lora_A", "lora_B"}, explain(
            measured=f"requires_grad after {name}: {sorted(trainable(module))}",
            expected=["lora_A", "lora_B"],
            cause="something switches requires_grad back on, or makes fresh Parameters",
            read="P4",
        )
    x = torch.randn(2, layer.base.in_features).to(device)
    before = moved(x).detach().clone()
    with torch.no_grad():
        for param in twin.parameters():
            param.fill_(0.5)
    off = (gap(moved(x), before), gap(twin(x), before))
    assert off[0] == 0.0 and off[1] > 0.0, explain(
        measured=f"after editing the copy, (original, copy) moved by {off}",
        expected="0.0, > 0",
        cause="the copy still uses the original's tensors: keep no reference outside the fields",
        read="P4",
    )


@pytest.mark.task("A6")
def test_lora_freeze_holds_after_save_and_load(device: str, tmp_path: Path) -> None:
    """A state_dict through a file restores every value and leaves base frozen."""
    base = draw_linear(device, torch.float32)
    layer = LoRALinear(base, r=3)
    fill(layer)
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    fresh = LoRALinear(nn.Linear(base.in_features, base.out_features, device=device), r=3)
    fresh.load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True))
    off = max(gap(a, b) for a, b in zip(layer.parameters(), fresh.parameters(), strict=True))
    assert (off, trainable(fresh)) == (0.0, {"lora_A", "lora_B"}), explain(
        measured=f"max difference = {off:.3g}, requires_grad: {sorted(trainable(fresh))}",
        expected="0.0, ['lora_A', 'lora_B']",
        cause="base is not part of the saved state, or loading replaces frozen Parameters",
        read="P4",
    )


@pytest.mark.float64
@pytest.mark.task("A6")
def test_lora_freeze_one_sgd_step_moves_A_and_B_only(device: str) -> None:
    """One SGD step on what requires grad moves A and B, and base not at all."""
    layer, _ = trained_layer(device)
    before = {name: p.detach().clone() for name, p in layer.named_parameters()}
    x = torch.randn(5, layer.base.in_features, dtype=torch.float64, device=device)
    layer(x).square().sum().backward()
    sgd_step(list(layer.parameters()), lr=0.1)  # a frozen parameter has no gradient
    moved = {name for name, p in layer.named_parameters() if gap(p, before[name]) > 0}
    assert moved == {"lora_A", "lora_B"}, explain(
        measured=f"moved: {sorted(moved)}",
        expected=["lora_A", "lora_B"],
        cause="base is not frozen, or A and B are not reached",
        read="P4",
    )


# --- Block B, task B1: which linears are wrapped --------------------------------------------------


@pytest.mark.task("B1")
def test_lora_param_count_wrap_finds_every_default_target(device: str) -> None:
    """On a MiniGPT the default targets are q, k, v, o, fc1 and fc2 of every layer."""
    model = small_gpt(device)
    got = wrap_minigpt_with_lora(model)
    inner = ("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.o_proj", "mlp.fc1", "mlp.fc2")
    want = [f"blocks.{i}.{name}" for i in range(2) for name in inner]
    assert sorted(got) == sorted(want), explain(
        measured=f"wrapped {len(got)}: {sorted(got)}",
        expected=sorted(want),
        cause="the match misses or adds names, or the returned list is not what was wrapped",
        read="P8",
    )
    found = [n for n, module in model.named_modules() if isinstance(module, LoRALinear)]
    assert sorted(found) == sorted(want), explain(
        measured=f"LoRALinear in the model: {sorted(found)}",
        expected=sorted(want),
        cause="names are returned, but the modules in the model were not replaced",
        read="P8",
    )


@pytest.mark.task("B1")
def test_lora_param_count_wrap_matches_at_a_dot_and_linears_only(device: str) -> None:
    """name == t or name.endswith("." + t), on nn.Linear only: xq_proj is a decoy."""
    tree = decoy_tree(device)
    got = wrap_minigpt_with_lora(tree, r=2, target_modules=TREE_TARGETS)
    found = sorted(n for n, module in tree.named_modules() if isinstance(module, LoRALinear))
    assert (type(got), sorted(got), found) == (list, TREE_MATCHES, TREE_MATCHES), explain(
        measured=f"returned {type(got).__name__} {sorted(got)}, wrapped {found}",
        expected=TREE_MATCHES,
        cause="the match is not at a dot (xq_proj, xmlp.fc1), or takes what is no nn.Linear",
        read="P8",
    )


@pytest.mark.task("B1")
def test_lora_param_count_wrap_targets_may_overlap(device: str) -> None:
    """fc1 and mlp.fc1 match the same linears, a whole path one: none is unmatched."""
    model = small_gpt(device)
    targets = ["fc1", "mlp.fc1", "mlp.fc2", "blocks.1.attn.q_proj"]
    got = wrap_minigpt_with_lora(model, 2, 3.0, targets, 0.0)
    want = [f"blocks.{i}.mlp.fc{j}" for i in (0, 1) for j in (1, 2)]
    want.insert(2, "blocks.1.attn.q_proj")
    assert (sorted(got), len(adapters(model))) == (want, 5), explain(
        measured=f"wrapped {sorted(got)}, adapters {len(adapters(model))}",
        expected=(want, 5),
        cause="a linear counts for one of its targets only, or the arguments' order differs",
        read="P8",
    )


@pytest.mark.task("B1")
def test_lora_param_count_wrap_names_the_unmatched_target(device: str) -> None:
    """One target that matches nothing raises ValueError naming it, before anything is changed."""
    model = small_gpt(device)
    before = snapshot(model)
    targets = ("q_proj", "gate_proj", "mlp.fc1")
    said = refusal(lambda: wrap_minigpt_with_lora(model, target_modules=targets), ValueError)
    assert said is not None and "gate_proj" in said, explain(
        measured=f"target gate_proj -> {said!r}",
        expected="ValueError: … gate_proj …",
        cause="a target that matches nothing passes in silence: that part would never train",
        read="P8",
    )
    assert changes(before, model) == [], explain(
        measured=f"changed: {few(changes(before, model))}",
        expected=[],
        cause="look for unmatched targets before wrapping or freezing anything",
        read="P8",
    )


@pytest.mark.task("B1")
def test_lora_param_count_wrap_again_raises_and_changes_nothing(device: str) -> None:
    """A target that is wrapped everywhere matches nothing: ValueError naming it, no change."""
    model = small_gpt(device)
    wrap_minigpt_with_lora(model, r=2, target_modules=("q_proj", "mlp.fc1"))
    before = snapshot(model)
    for targets in (("q_proj", "mlp.fc1"), ("v_proj", "q_proj")):
        call = partial(wrap_minigpt_with_lora, model, r=2, target_modules=targets)
        said = refusal(call, ValueError)
        changed = changes(before, model)
        assert said is not None and "q_proj" in said and changed == [], explain(
            measured=f"{targets} again -> {said!r}, changed: {few(changed)}",
            expected="ValueError: … q_proj …, []",
            cause="wrapped layers are wrapped again, or skipped without a word, or frozen",
            read="P8",
        )


@pytest.mark.task("B1")
def test_lora_param_count_wrap_adds_what_is_left_of_a_target(device: str) -> None:
    """After wrapping one block, the call on the whole model wraps the other block's linears."""
    model = small_gpt(device)
    first = wrap_minigpt_with_lora(model.blocks[0], r=2, target_modules=("q_proj",))
    second = wrap_minigpt_with_lora(model, r=2, target_modules=("q_proj",))
    assert (first, second) == (["attn.q_proj"], ["blocks.1.attn.q_proj"]), explain(
        measured=f"(block, model) = {(first, second)}",
        expected=(["attn.q_proj"], ["blocks.1.attn.q_proj"]),
        cause="a target that is wrapped in part is refused, skipped, or wrapped twice",
        read="P8",
    )


@pytest.mark.task("B1")
def test_lora_param_count_wrap_never_nests(device: str) -> None:
    """The base inside an adapter is no target: asking for it raises."""
    model = small_gpt(device)
    wrap_minigpt_with_lora(model, r=2, target_modules=("q_proj",))
    said = refusal(lambda: wrap_minigpt_with_lora(model, target_modules=("base",)), ValueError)
    inside = [m for layer in adapters(model) for m in layer.modules() if m is not layer]
    nested = sum(isinstance(m, LoRALinear) for m in inside)
    assert said is not None and nested == 0, explain(
        measured=f"target 'base' -> {said!r}, nested adapters: {nested}",
        expected="ValueError: … base …, 0",
        cause="the walk goes into LoRALinear and finds its base, an nn.Linear like any other",
        read="P8",
    )


# --- Block B, task B2: replaced in place ----------------------------------------------------------


@pytest.mark.task("B2")
def test_lora_init_identity_wrap_keeps_base_and_passes_arguments(device: str) -> None:
    """Each adapter holds the very linear it replaced, with the r, alpha and dropout asked for."""
    model = small_gpt(device)
    linears = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    names = wrap_minigpt_with_lora(model, r=3, alpha=4.5, dropout=0.5)
    wrong = []
    for name in names:
        layer = model.get_submodule(name)
        if not isinstance(layer, LoRALinear) or layer.base is not linears[name]:
            wrong.append(f"{name}.base")
        elif (layer.r, layer.alpha, layer.scaling) != (3, 4.5, 1.5):
            wrong.append(f"{name}: r={layer.r}, alpha={layer.alpha}")
        else:
            fill(layer)
            x = torch.ones(8, layer.base.in_features, dtype=wide(device), device=device)
            if gap(layer.train()(x), layer(x)) == 0.0:
                wrong.append(f"{name}: train() == train()")
    silent, ids = wrapped_gpt(device, dropout=0.0).train(), tokens(device)
    if gap(silent(ids), silent(ids)) > 0.0:
        wrong.append("dropout=0.0: train() != train()")
    assert wrong == [], explain(
        measured=wrong[:4],
        expected=[],
        cause="r, alpha or dropout is not passed on, or base is a copy instead of the original",
        read="src/minituner/BLUEPRINT.md",
    )


@pytest.mark.task("B2")
def test_lora_init_identity_wrap_draws_each_A_anew(device: str) -> None:
    """No two adapters start with the same A, within a model or between two models."""
    drawn = []
    for start in (1, 2):
        torch.manual_seed(start)
        model = small_gpt(device)
        wrap_minigpt_with_lora(model, r=2, target_modules=("q_proj", "k_proj"))
        drawn += [tuple(layer.lora_A.flatten().tolist()) for layer in adapters(model)]
    assert len(set(drawn)) == 8, explain(
        measured=f"different A = {len(set(drawn))} / 8",
        expected="8 / 8",
        cause="wrapping seeds torch, or copies one adapter: every A must be its own draw",
        read="src/minituner/BLUEPRINT.md",
    )


@pytest.mark.task("B2")
def test_lora_init_identity_wrap_defaults_are_r8_alpha16_dropout_005(device: str) -> None:
    """Without arguments each adapter has r = 8, alpha = 16 and dropout 0.05."""
    tree = nn.ModuleDict({"q_proj": nn.Linear(40, 5, device=device)})
    wrap_minigpt_with_lora(tree, target_modules=("q_proj",))
    layer = adapters(tree)[0]
    got = (layer.r, layer.alpha, layer.scaling)
    assert got == (8, 16.0, 2.0), explain(
        measured=f"(r, alpha, scaling) = {got}",
        expected=(8, 16.0, 2.0),
        cause="a default differs from BLUEPRINT.md; alpha must not default to r",
        read="P2",
    )
    # One input at a time through A = ones and B = [1, 0, …]: an output of 0 is a dropped entry.
    with torch.no_grad():
        layer.lora_A.fill_(1.0)
        layer.lora_B.copy_(torch.eye(5, 8))
        layer.base.weight.zero_()
    x = torch.eye(40).repeat(100, 1).to(device)
    share = ((layer.train()(x) - layer.base(x))[:, 0] == 0).float().mean().item()
    assert 0.025 < share < 0.08, explain(
        measured=f"dropped share = {share:.3f}",
        expected="0.05",
        cause="wrap_minigpt_with_lora's dropout default is 0.05, and it must reach LoRALinear",
        read="src/minituner/BLUEPRINT.md",
    )


@pytest.mark.float64
@pytest.mark.task("B2")
def test_lora_init_identity_wrap_keeps_the_models_function(device: str) -> None:
    """A freshly wrapped MiniGPT computes what it computed before, in train and in eval mode."""
    model = small_gpt(device)
    ids = tokens(device)
    before = model(ids)
    wrap_minigpt_with_lora(model, r=3, alpha=4.5, dropout=0.5)
    got = max(gap(model.train(mode)(ids), before) for mode in (True, False))
    assert got < 1e-12, explain(
        measured=f"max|wrapped(x) - model(x)| = {got:.3g}",
        expected="< 1e-12",
        cause="wrapping changed a weight, lost a bias, or put a layer under the wrong name",
        read="P1",
    )


@pytest.mark.task("B2")
def test_lora_init_identity_wrap_keeps_train_and_eval(device: str) -> None:
    """Each adapter has the mode of the linear it replaced, and no other module changes mode."""
    for mode in (True, False):
        model = small_gpt(device).train(mode)
        model.blocks[1].train(not mode)  # one block apart, as somebody may have set it
        wrap_minigpt_with_lora(model, dropout=0.5)
        want = {n: mode is not n.startswith("blocks.1") for n, _ in model.named_modules()}
        off = [name for name, module in model.named_modules() if module.training is not want[name]]
        assert off == [], explain(
            measured=f"other mode than before: {few(off)}",
            expected=[],
            cause="the new adapters come in train mode: follow the mode of what they replace",
            read="P5",
        )


@pytest.mark.task("B2")
def test_lora_param_count_wrap_new_targets_join_the_old(device: str) -> None:
    """A second call with new targets adds adapters; the earlier ones stay, trainable."""
    model = small_gpt(device)
    first = wrap_minigpt_with_lora(model, r=2, target_modules=("q_proj",))
    for layer in adapters(model):
        fill(layer)
    kept = {name: model.get_submodule(name) for name in first}
    values = {name: lora_state_dict_of(layer) for name, layer in kept.items()}
    second = wrap_minigpt_with_lora(model, r=3, target_modules=("v_proj", "mlp.fc2"))
    moved = [n for n in first if model.get_submodule(n) is not kept[n]]
    moved += [n for n in first if not same_tensors(values[n], lora_state_dict_of(kept[n]))]
    count = (len(first), len(second), len(adapters(model)))
    assert (moved, count) == ([], (2, 4, 6)), explain(
        measured=f"changed earlier adapters: {moved}; (first, second, all) = {count}",
        expected="[], (2, 4, 6)",
        cause="the second call wraps, replaces or re-initialises what the first one made",
        read="P8",
    )


def lora_state_dict_of(layer: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in layer.named_parameters()}


def same_tensors(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.task("B2")
def test_lora_param_count_wrap_one_adapter_for_a_shared_module(device: str) -> None:
    """A linear reached under two names becomes one LoRALinear under both, with one A and one B."""
    model = Twins(device)
    wrap_minigpt_with_lora(model, r=2, target_modules=("q_proj",))
    left, right = model.left["q_proj"], model.right["q_proj"]
    one = ["LoRALinear" if isinstance(m, LoRALinear) else type(m).__name__ for m in (left, right)]
    got = (left is right, *one)
    assert got == (True, "LoRALinear", "LoRALinear"), explain(
        measured=f"(left is right, left, right) = {got}",
        expected=(True, "LoRALinear", "LoRALinear"),
        cause="a shared linear needs one LoRALinear under both names, not two, and none bare",
        read="P9",
    )
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert count == 2 * (6 + 6) + 2 * (6 + 4), explain(
        measured=f"trainable = {count}",
        expected="2 * (6 + 6) + 2 * (6 + 4) = 44",
        cause="the shared linear got an adapter for each of its names",
        read="P9",
    )


@pytest.mark.task("B2")
def test_lora_param_count_wrap_two_modules_with_one_weight_are_two(device: str) -> None:
    """Two linears that share a weight but not a bias get an adapter each; the weight stays tied."""
    a, b, c = (nn.Linear(5, 5, device=device) for _ in range(3))
    c.weight = b.weight
    model = nn.ModuleDict({"fc1": a, "fc10": b, "fc11": c})
    wrap_minigpt_with_lora(model, r=2, target_modules=("fc1",))
    wrap_minigpt_with_lora(model, r=2, target_modules=("fc10", "fc11"))
    bases = [layer.base for layer in adapters(model)]
    kept = [x is y for x, y in zip(bases, (a, b, c), strict=False)]
    assert (kept, b.weight is c.weight) == ([True] * 3, True), explain(
        measured=f"(base is the linear it replaced, weight tied) = {(kept, b.weight is c.weight)}",
        expected=([True] * 3, True),
        cause="adapters are kept by weight or by a prefix of the name, not by module",
        read="P9",
    )


@pytest.mark.task("B2")
def test_lora_freeze_wrap_keeps_the_head_tied(device: str) -> None:
    """lm_head.weight and tok_emb.weight are one Parameter before and after, also as a target."""
    model = small_gpt(device)
    tied = model.tok_emb.weight
    wrap_minigpt_with_lora(model, r=2)
    first = (model.lm_head.weight is tied, model.tok_emb.weight is tied)
    wrap_minigpt_with_lora(model, r=2, target_modules=("lm_head",))
    head = model.get_submodule("lm_head")
    second = (isinstance(head, LoRALinear) and head.base.weight is tied, tied.requires_grad)
    assert (first, second) == ((True, True), (True, False)), explain(
        measured=f"(head tied, embedding kept) = {first}; (wrapped head tied, trains) = {second}",
        expected="(True, True); (True, False)",
        cause="the weight was copied: keep the base module itself, with its Parameters",
        read="P9",
    )


# --- Block B, task B3: everything else is frozen --------------------------------------------------


@pytest.mark.task("B3")
def test_lora_freeze_wrap_leaves_only_adapters_trainable(device: str) -> None:
    """After wrapping, embeddings, norms, biases and the head are frozen; every A and B trains."""
    model = small_gpt(device)
    wrap_minigpt_with_lora(model, r=2, target_modules=("q_proj", "mlp.fc1"))
    extra = sorted(trainable(model) - adapter_names(model))
    asleep = sorted(adapter_names(model) - trainable(model))
    assert (extra, asleep) == ([], []), explain(
        measured=f"trainable - adapters = {few(extra)}; adapters - trainable = {few(asleep)}",
        expected="[]; []",
        cause="only the targets were frozen: embeddings, norms and the other linears train on",
        read="P4",
    )


@pytest.mark.task("B3")
def test_lora_freeze_wrap_second_call_freezes_the_rest_only(device: str) -> None:
    """A second call freezes what has thawed since, bases included, and no earlier adapter."""
    model = small_gpt(device)
    wrap_minigpt_with_lora(model, r=2, target_modules=("q_proj",))
    model.requires_grad_(True)  # somebody's slip between the calls
    wrap_minigpt_with_lora(model, r=2, target_modules=("v_proj", "mlp.fc2"))
    extra = sorted(trainable(model) - adapter_names(model))
    assert extra == [], explain(
        measured=f"trainable - adapters = {few(extra)}",
        expected=[],
        cause="only the targets were frozen, or the bases of earlier adapters were forgotten",
        read="P4",
    )
    asleep = sorted(adapter_names(model) - trainable(model))
    assert asleep == [], explain(
        measured=f"adapters - trainable = {few(asleep)}",
        expected=[],
        cause="the second call freezes the first adapters along with the rest of the model",
        read="P4",
    )


@pytest.mark.task("B3")
def test_lora_param_count_wrap_trains_9216_a_layer(device: str) -> None:
    """MiniGPT at r = 8 on all six linears: 9216 trainable a layer, 36 864 in all."""
    model = MiniGPT(MiniGPTConfig()).to(device)
    wrap_minigpt_with_lora(model, r=8)
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert count == 36_864, explain(
        measured=f"trainable = {count}",
        expected="4 * (4 * 8 * (64 + 64) + 2 * 8 * (64 + 256)) = 36864",
        cause="a target is missed, a matrix has the wrong shape, or more than the adapters trains",
        read=COUNTING,
    )


@pytest.mark.task("B3")
def test_lora_freeze_wrap_is_not_fooled_by_names(device: str) -> None:
    """Parameters called lora_gate or lora_scale that are no adapters are frozen like the rest."""
    tree = decoy_tree(device)
    wrap_minigpt_with_lora(tree, r=2, target_modules=TREE_TARGETS)
    wrong = sorted(trainable(tree) ^ adapter_names(tree))
    assert wrong == [], explain(
        measured=f"trainable ^ adapters = {few(wrong)}",
        expected=[],
        cause="freezing goes by a text in the name or by the targets, not by the adapters",
        read="P4",
    )


@pytest.mark.float64
@pytest.mark.task("B3")
def test_lora_freeze_wrap_training_moves_adapters_only(device: str) -> None:
    """Two SGD steps on what requires grad move every A and B, and nothing else."""
    model = small_gpt(device)
    wrap_minigpt_with_lora(model, r=2, dropout=0.0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    ids = tokens(device)
    for _ in range(2):  # B moves in the first step, A (whose gradient needs B) in the second
        logits = model(ids[:, :-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        torch.autograd.backward(loss)
        sgd_step([p for p in model.parameters() if p.requires_grad], lr=0.5)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p.detach(), before[n])}
    assert moved == adapter_names(model), explain(
        measured=f"moved ^ adapters = {few(sorted(moved ^ adapter_names(model)))}",
        expected=[],
        cause="a frozen weight trained, or an adapter is not part of the forward pass",
        read="P4",
    )


# --- Block C: the adapter on its own, saved and loaded --------------------------------------------


@pytest.mark.task("C1")
def test_lora_roundtrip_state_holds_exactly_A_and_B(device: str) -> None:
    """The state is every adapter's A and B under its full dotted name, and nothing else."""
    model = wrapped_gpt(device).requires_grad_(False)  # an adapter at rest is an adapter too
    state = lora_state_dict(model)
    want = {
        f"{name}.{which}": getattr(layer, which).detach()
        for name, layer in model.named_modules()
        if isinstance(layer, LoRALinear)
        for which in ("lora_A", "lora_B")
    }
    missing, extra = sorted(want.keys() - state), sorted(state.keys() - want)
    assert (missing, extra) == ([], []), explain(
        measured=f"missing {few(missing)}, extra {few(extra)}",
        expected="blocks.0.attn.q_proj.lora_A, …",
        cause="keys are not the full dotted names, or base weights are saved too",
        read="src/minituner/BLUEPRINT.md",
    )
    assert same_tensors(state, want), explain(
        measured=[n for n in want if not torch.equal(state[n], want[n])][:3],
        expected=[],
        cause="a value in the state is not the Parameter's value: is the scale multiplied in?",
        read="src/minituner/BLUEPRINT.md",
    )


@pytest.mark.task("C1")
def test_lora_roundtrip_state_is_not_fooled_by_names(device: str) -> None:
    """lora_gate, lora_scale and lora_table are no adapters and stay out of the state."""
    tree = decoy_tree(device)
    plain = sorted(lora_state_dict(tree))
    wrap_minigpt_with_lora(tree, r=2, target_modules=TREE_TARGETS)
    got = sorted(lora_state_dict(tree))
    want = sorted(f"{name}.{which}" for name in TREE_MATCHES for which in ("lora_A", "lora_B"))
    assert (plain, got) == ([], want), explain(
        measured=f"before wrapping {plain}, after {got}",
        expected=f"[], {want}",
        cause="the filter looks for 'lora' anywhere in the name, buffers included",
        read="src/minituner/BLUEPRINT.md",
    )


@pytest.mark.task("C1")
def test_lora_roundtrip_state_is_detached_copies(device: str) -> None:
    """The state needs no grad, shares no memory with the model, and does not train along."""
    model = wrapped_gpt(device)
    state = lora_state_dict(model)
    grads = sorted(name for name, value in state.items() if value.requires_grad)
    kept = {name: value.detach().clone() for name, value in state.items()}
    with torch.no_grad():
        for layer in adapters(model):
            layer.lora_A.add_(1.0)
            layer.lora_B.add_(1.0)
    assert (grads, same_tensors(kept, state)) == ([], True), explain(
        measured=f"requires_grad: {few(grads)}; state == copy: {same_tensors(kept, state)}",
        expected="[]; True",
        cause="return copies: detach() alone still shares memory with the Parameter",
        read="P10",
    )


@pytest.mark.task("C2")
def test_lora_roundtrip_load_names_missing_and_unexpected(device: str) -> None:
    """A missing or an unexpected entry raises, names every such entry, and changes nothing."""
    model = wrapped_gpt(device)
    other = {name: torch.zeros_like(value) for name, value in lora_state_dict(model).items()}
    first, last = sorted(other)[0], sorted(other)[-1]
    short = {name: value for name, value in other.items() if name not in (first, last)}
    long = {**other, "stranger.lora_A": torch.zeros(2, 3), "lm_head.weight": torch.zeros(2)}
    strangers = ("stranger.lora_A", "lm_head.weight")
    before = snapshot(model)
    for state, named in ((short, (first, last)), (long, strangers), ({}, (first, last))):
        said = refusal(partial(load_lora_state_dict, model, state), KeyError, ValueError)
        assert said is not None and all(name in said for name in named), explain(
            measured=f"load -> {said!r}",
            expected=f"KeyError: … {', '.join(named)} …",
            cause="entries are skipped in silence, or the message does not name all of them",
            read="P11",
        )
        changed = changes(before, model)
        assert changed == [], explain(
            measured=f"changed: {few(changed)}",
            expected=[],
            cause="check every name, shape and value before the first write",
            read="P11",
        )


def wrong_shapes(state: Mapping[str, Tensor]) -> list[tuple[str, tuple[int, ...]]]:
    """For the last A and the last B: shapes that copy_ would broadcast, refuse or reshape."""
    found: list[tuple[str, tuple[int, ...]]] = []
    for name in sorted(state)[-2:]:
        rows, columns = state[name].shape
        shapes = ((1, columns), (rows, 1), (columns, rows), (rows * columns,), (rows + 1, columns))
        found += [(name, shape) for shape in shapes]
    return found


@pytest.mark.task("C2")
def test_lora_roundtrip_load_rejects_a_wrong_shape(device: str) -> None:
    """A wrong shape raises and names the entry, also where copy_ would broadcast or reshape."""
    model = wrapped_gpt(device)
    good = {name: torch.zeros_like(value) for name, value in lora_state_dict(model).items()}
    before = snapshot(model)
    for name, shape in wrong_shapes(good):
        bad = {**good, name: torch.zeros(shape, dtype=good[name].dtype, device=device)}
        said = refusal(partial(load_lora_state_dict, model, bad), KeyError, ValueError)
        changed = changes(before, model)
        assert said is not None and name in said and changed == [], explain(
            measured=f"{shape} for {tuple(good[name].shape)} -> {said!r}, {len(changed)} changed",
            expected=f"ValueError: … {name} …, 0 changed",
            cause="shapes are not compared before the first write; copy_ broadcasts in silence",
            read="P11",
        )


@pytest.mark.task("C2")
def test_lora_roundtrip_load_rejects_values_that_are_not_finite(device: str) -> None:
    """NaN or infinity in any entry raises, names it, and changes nothing."""
    model = wrapped_gpt(device)
    good = {name: torch.zeros_like(value) for name, value in lora_state_dict(model).items()}
    names = sorted(good)[-2:]  # an A and a B
    before = snapshot(model)
    for name, value in itertools.product(names, (float("nan"), float("inf"), float("-inf"))):
        poisoned = good[name].clone()
        poisoned[-1, -1] = value
        bad = {**good, name: poisoned}
        said = refusal(partial(load_lora_state_dict, model, bad), KeyError, ValueError)
        changed = changes(before, model)
        assert said is not None and name in said and changed == [], explain(
            measured=f"{value} in {name} -> {said!r}, {len(changed)} changed",
            expected=f"ValueError: … {name} …, 0 changed",
            cause="values are not checked with isfinite before the first write",
            read="P11",
        )


@pytest.mark.task("C2")
def test_lora_roundtrip_load_keeps_parameters_and_flags(device: str) -> None:
    """Loading writes into the same Parameters: identity, dtype, device and requires_grad stay."""
    model = small_gpt(device, torch.float32)
    wrap_minigpt_with_lora(model, r=2, target_modules=("q_proj", "mlp.fc2"))
    params = dict(model.named_parameters())
    adapters(model)[0].requires_grad_(False)  # one adapter at rest stays at rest
    flags = {n: (p.dtype, p.device, p.requires_grad) for n, p in params.items()}
    state = {
        n: torch.randn(v.shape, dtype=torch.float64) for n, v in lora_state_dict(model).items()
    }
    load_lora_state_dict(model, dict(reversed(state.items())))  # names count, not their order
    now = dict(model.named_parameters())
    lost = [n for n in params if now.get(n) is not params[n]]
    lost += [n for n, p in now.items() if flags[n] != (p.dtype, p.device, p.requires_grad)]
    assert lost == [], explain(
        measured=f"replaced or changed: {few(lost)}",
        expected=[],
        cause="load assigns new Parameters or .data of another dtype: copy the values into the old",
        read="P10",
    )
    off = max(gap(params[n], v.float()) for n, v in state.items())
    assert off == 0.0, explain(
        measured=f"max|loaded - state| = {off:.3g}",
        expected=0.0,
        cause="not every entry is written, or the values are changed on the way",
        read="P10",
    )


@pytest.mark.task("C2")
def test_lora_roundtrip_load_leaves_the_optimiser_valid(device: str) -> None:
    """An optimiser made before the load still trains the adapters; the state is untouched."""
    model = wrapped_gpt(device)
    params = [p for layer in adapters(model) for p in (layer.lora_A, layer.lora_B)]
    state = {n: torch.randn_like(v) for n, v in lora_state_dict(model).items()}
    kept = {n: v.clone() for n, v in state.items()}
    load_lora_state_dict(model, state)
    loaded = [layer.lora_B.detach().clone() for layer in adapters(model)]
    model(tokens(device)).square().mean().backward()
    sgd_step(params, lr=0.5)
    still = sum(torch.equal(b, a.lora_B) for b, a in zip(loaded, adapters(model), strict=True))
    untouched = same_tensors(kept, state)
    assert (still, untouched) == (0, True), explain(
        measured=f"(B unmoved, state unchanged) = {(still, untouched)}",
        expected=(0, True),
        cause="load swapped the Parameters, or made the model share memory with the state",
        read="P10",
    )


@pytest.mark.float64
@pytest.mark.task("C3")
def test_lora_roundtrip_through_a_file_into_a_fresh_model(device: str, tmp_path: Path) -> None:
    """save, rebuild the base, wrap, load: the fresh model computes what the trained one did."""
    model = small_gpt(device)
    weights = copy.deepcopy(model.state_dict())
    wrap_minigpt_with_lora(model, r=2, alpha=3.0)
    for layer in adapters(model):
        fill(layer)
    torch.save(lora_state_dict(model), tmp_path / "adapter.pt")
    fresh = small_gpt(device)
    fresh.load_state_dict(weights)
    wrap_minigpt_with_lora(fresh, r=2, alpha=3.0)
    load_lora_state_dict(fresh, torch.load(tmp_path / "adapter.pt", weights_only=True))
    ids = tokens(device)
    got = gap(fresh.eval()(ids), model.eval()(ids))
    assert got < 1e-12, explain(
        measured=f"max|fresh(x) - trained(x)| = {got:.3g}",
        expected="< 1e-12",
        cause="an adapter is missing from the file, or lands under another name",
        read="src/minituner/BLUEPRINT.md",
    )
    assert trainable(fresh) == adapter_names(fresh), explain(
        measured=f"wrong requires_grad: {few(sorted(trainable(fresh) ^ adapter_names(fresh)))}",
        expected=[],
        cause="loading changed which parameters train",
        read="P4",
    )


@pytest.mark.task("C3")
def test_lora_roundtrip_touches_only_the_adapters(device: str) -> None:
    """Loading an adapter leaves every base weight as it is, and is exact to the bit."""
    source, target = wrapped_gpt(device), wrapped_gpt(device)
    before = {n: p.detach().clone() for n, p in target.named_parameters()}
    state = lora_state_dict(source)
    load_lora_state_dict(target, state)
    moved = {n for n, p in target.named_parameters() if not torch.equal(p.detach(), before[n])}
    assert moved == adapter_names(target), explain(
        measured=f"moved ^ adapters = {few(sorted(moved ^ adapter_names(target)))}",
        expected=[],
        cause="the state carries base weights, or some adapters are not written",
        read="src/minituner/BLUEPRINT.md",
    )
    assert same_tensors(state, lora_state_dict(target)), explain(
        measured="lora_state_dict(target) == state: False",
        expected=True,
        cause="a value is scaled, cast or swapped between save and load",
        read="src/minituner/BLUEPRINT.md",
    )


@pytest.mark.float64
@pytest.mark.task("C3")
def test_lora_roundtrip_of_a_shared_module(device: str) -> None:
    """A model with one linear under two names saves and loads, and both names compute the same."""
    source = Twins(device)
    target = copy.deepcopy(source)
    for model in (source, target):
        wrap_minigpt_with_lora(model, r=2, alpha=3.0, target_modules=("q_proj",), dropout=0.0)
    for layer in adapters(source):
        fill(layer)
    load_lora_state_dict(target, lora_state_dict(source))
    x = torch.randn(4, 6, dtype=torch.float64, device=device)
    got = gap(target(x), source(x))
    assert got < 1e-12, explain(
        measured=f"max|target(x) - source(x)| = {got:.3g}",
        expected="< 1e-12",
        cause="one of the two names still leads to a bare linear, or to a second adapter",
        read="P9",
    )


# --- Block D: merged for inference ----------------------------------------------------------------


@pytest.mark.task("D1")
def test_lora_merge_the_worked_example(device: str) -> None:
    """W + 1.5 B A for the 3×4 example, number by number."""
    layer = worked_layer(device)
    layer.merge_()
    got = layer.base.weight.tolist()
    want = [[2.5, 11.0, 0.0, 5.5], [5.0, 1.5, 10.0, 6.5], [12.0, 10.0, 17.0, 9.0]]
    assert got == want, explain(
        measured=f"base.weight = {got}",
        expected=want,
        cause="the scale is missing or inverted, the sign is wrong, or the product is transposed",
        read=MERGING,
    )


@pytest.mark.float64
@pytest.mark.task("D1")
def test_lora_merge_weight_is_the_closed_form(device: str) -> None:
    """base.weight becomes W + (alpha/r) B A in float64, with and without a bias; b stays."""
    for bias in (True, False):
        layer, scale = trained_layer(device, bias=bias)
        want = dense_weight(layer, scale)
        kept = None if layer.base.bias is None else layer.base.bias.detach().clone()
        layer.merge_()
        got = gap(layer.base.weight, want)
        assert got < 1e-12, explain(
            measured=f"max|W_new - (W + s B A)| = {got:.3g}",
            expected="< 1e-12",
            cause="merge_ computes another update than forward, or in float32",
            read=MERGING,
        )
        assert kept is None or torch.equal(layer.base.bias, kept), explain(
            measured="base.bias == b: False",
            expected=True,
            cause="merge_ concerns the weight alone",
            read=MERGING,
        )


@pytest.mark.task("D1")
def test_lora_merge_zeroes_A_and_B(device: str) -> None:
    """After merge_ both A and B are exactly zero, with their shapes, still Parameters."""
    layer = worked_layer(device)
    layer.merge_()
    factors = (layer.lora_A, layer.lora_B)
    got = [(isinstance(p, nn.Parameter), tuple(p.shape), bool((p == 0).all())) for p in factors]
    assert got == [(True, (2, 4), True), (True, (3, 2), True)], explain(
        measured=f"(Parameter, shape, zero) of A, B = {got}",
        expected=[(True, (2, 4), True), (True, (3, 2), True)],
        cause="A or B keeps its values: the update would count twice",
        read="P3",
    )


@pytest.mark.task("D1")
def test_lora_merge_keeps_base_a_frozen_leaf(device: str) -> None:
    """After merge_ base.weight is a frozen leaf Parameter of the same dtype and device."""
    layer = worked_layer(device)
    old = layer.base.weight
    kind, place = old.dtype, old.device
    layer(torch.randn(2, 4, device=device)).sum().backward()
    layer.merge_()
    new = layer.base.weight
    got = (isinstance(new, nn.Parameter), new.requires_grad, new.is_leaf, new.dtype, new.device)
    assert got == (True, False, True, kind, place), explain(
        measured=f"(Parameter, requires_grad, is_leaf, dtype, device) = {got}",
        expected=(True, False, True, kind, place),
        cause="a fresh nn.Parameter trains unless told not to; compute under torch.no_grad()",
        read="P3",
    )
    names = sorted(name for name, _ in layer.named_parameters(remove_duplicate=False))
    assert names[-2:] == ["lora_A", "lora_B"] and len(names) == 4, explain(
        measured=f"parameters: {names}",
        expected="W, b, lora_A, lora_B",
        cause="merge_ left an extra Parameter behind or lost one",
        read="P3",
    )


@pytest.mark.task("D1")
def test_lora_merge_in_half_precision_rounds_once(device: str) -> None:
    """In bfloat16 and float16 the sum is computed in float32 or better and rounded once."""
    drawn, r = random.choice((0.75, 1.5, 2.75)), 3
    cases = [(torch.bfloat16, 120, 127, drawn), (torch.float16, 1000, 600, drawn)]
    cases.append((torch.bfloat16, 120, 127, 1 + 2**-10))  # a scale that bfloat16 cannot hold
    for dtype, large, factor, scale in cases:
        base = nn.Linear(10, 9, dtype=dtype, device=device)
        layer = LoRALinear(base, r=r, alpha=r * scale)
        # Integers whose products are exact in float32: then only the roundings can differ.
        sizes = ((large, (9, 10)), (8, (3, 10)), (factor, (9, 3)))
        W, A, B = (torch.randint(-n, n + 1, shape) for n, shape in sizes)
        with torch.no_grad():
            base.weight.copy_(W)
            layer.lora_A.copy_(A)
            layer.lora_B.copy_(B)
        want = (W.float() + scale * (B.float() @ A.float())).to(dtype)
        layer.merge_()
        same = (layer.base.weight.cpu() == want).sum().item()
        assert (layer.base.weight.dtype, same) == (dtype, want.numel()), explain(
            measured=f"weights right = {same} / {want.numel()}, {layer.base.weight.dtype}",
            expected=f"{want.numel()} / {want.numel()}, {dtype}",
            cause="if the worked example passes: the update was rounded before it was added",
            read=MERGING,
        )


@pytest.mark.float64
@pytest.mark.task("D1")
def test_lora_merge_works_on_a_base_that_trains(device: str) -> None:
    """With freeze_base=False merge_ folds in the same update."""
    base = draw_linear(device)
    layer = LoRALinear(base, r=3, alpha=4.5, freeze_base=False)
    fill(layer)
    want = dense_weight(layer, 1.5)
    layer.merge_()
    got = gap(layer.base.weight, want)
    assert got < 1e-12, explain(
        measured=f"max|W_new - (W + s B A)| = {got:.3g}",
        expected="< 1e-12",
        cause="if the worked example passes: merge_ does not work under torch.no_grad()",
        read=MERGING,
    )


@pytest.mark.float64
@pytest.mark.task("D2")
def test_lora_merge_keeps_the_output_in_float64(device: str) -> None:
    """The merged layer computes what the unmerged one did, to 1e-12, from train and from eval."""
    for mode in (True, False):
        layer, _ = trained_layer(device, dropout=0.5)
        x = torch.randn(5, layer.base.in_features, dtype=torch.float64, device=device)
        before = layer.eval()(x).detach()
        layer.train(mode)
        layer.merge_()
        kept = layer.training is mode
        got = max(gap(layer(x), before), gap(layer.eval()(x), before))
        assert got < 1e-12 and kept, explain(
            measured=f"max|merged(x) - layer(x)| = {got:.3g} (training={mode}), mode kept = {kept}",
            expected="< 1e-12, True",
            cause="forward and merge_ differ in scale, or merge_ depends on mode or dropout",
            read=MERGING,
        )


@pytest.mark.task("D2")
def test_lora_merge_keeps_the_output_in_float32_to_1e_5(device: str) -> None:
    """In float32 at 64×64 with a realistic B the difference is rounding alone: below 1e-5."""
    layer = LoRALinear(nn.Linear(64, 64, device=device), r=8, alpha=16.0)
    with torch.no_grad():
        layer.lora_B.copy_(torch.randn(64, 8) * 0.02)
    x = torch.randn(32, 64).to(device)
    before = layer(x).detach()
    layer.merge_()
    got = gap(layer(x), before)
    assert got < 1e-5, explain(
        measured=f"max|merged(x) - layer(x)| = {got:.3g}",
        expected="< 1e-5",
        cause="more than rounding: the merged update is not the one forward adds",
        read=MERGING,
    )


@pytest.mark.float64
@pytest.mark.task("D2")
def test_lora_merge_of_every_adapter_keeps_the_model(device: str) -> None:
    """Merging all adapters of a MiniGPT keeps its logits to 1e-11, with all factors at zero."""
    model = wrapped_gpt(device, dropout=0.5).eval()
    ids = tokens(device)
    before = model(ids).detach()
    for layer in adapters(model):
        layer.merge_()
    got = gap(model(ids), before)
    left = max(p.abs().max().item() for m in adapters(model) for p in (m.lora_A, m.lora_B))
    assert got < 1e-11 and left == 0.0, explain(
        measured=f"max|merged(x) - model(x)| = {got:.3g}, max|A, B| = {left:.3g}",
        expected="< 1e-11, 0.0",
        cause="if one layer merges well: another without bias, or wider, is merged wrongly",
        read=MERGING,
    )


@pytest.mark.task("D3")
def test_lora_merge_twice_changes_nothing_more(device: str) -> None:
    """The second merge_ leaves weight, A, B and output exactly as the first one left them."""
    layer = worked_layer(device)
    layer.merge_()
    once, x = layer.base.weight.detach().clone(), torch.ones(2, 4, device=device)
    out = layer(x).detach().clone()
    layer.merge_()
    off = (gap(layer.base.weight, once), gap(layer(x), out))
    assert off == (0.0, 0.0), explain(
        measured=f"the second merge_ moved (W, output) by {off}",
        expected=(0.0, 0.0),
        cause="the update is added again: A and B were not zeroed, or were kept elsewhere",
        read="P3",
    )


@pytest.mark.task("D3")
def test_lora_merge_allows_new_values_in_A_and_B(device: str) -> None:
    """After merge_, giving A and B new values, running forward and merging again is no error."""
    layer = worked_layer(device)
    layer.merge_()
    fill(layer)
    out = layer(torch.randn(2, 4, device=device))
    layer.merge_()
    again = layer(torch.randn(2, 4, device=device))
    sound = [bool(y.isfinite().all()) and tuple(y.shape) == (2, 3) for y in (out, again)]
    got = (*sound, layer.r, layer.alpha, layer.scaling)
    assert got == (True, True, 2, 3.0, 1.5), explain(
        measured=f"(finite (2, 3) output, again after merge_, r, alpha, scaling) = {got}",
        expected=(True, True, 2, 3.0, 1.5),
        cause="merge_ leaves A and B in a state that cannot be used again",
        read="P3",
    )
