"""The contract of lab 03: what src/minituner/rank.py promises. Read it; never edit it.

    pytest -k test_rank                      your file (as shipped, every test fails, by design)
    pytest -k test_rank --impl reference     the solution, all green

The oracles are matrices built from known singular values, worked examples and closed forms in
float64, never the code under test. Shapes and values change with every run; a failing test prints
the seed that repeats it.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from minituner.messages import NUMBER, tells
from minituner.minigpt import MiniGPT, MiniGPTConfig
from minituner.rank import (
    LinearShape,
    Plan,
    best_factors,
    energy_rank,
    entropy_rank,
    equal_budget_rank,
    rank_plan,
    right_directions,
    scaling_factor,
    similarity_grid,
    singular_spectrum,
    subspace_similarity,
    truncation_error,
    weight_update,
)
from minituner.words import explaining

explain = explaining("lab/03-where-rank-lives.md")
THEORY = "theory/06-low-rank.md"

# --- what the tests build -------------------------------------------------------------------------


def matrix(*rows: Sequence[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def orthonormal(size: int, count: int) -> Tensor:
    """(size, count) with orthonormal columns, from the QR of a random matrix."""
    columns: Tensor = torch.linalg.qr(torch.randn(size, count, dtype=torch.float64)).Q
    return columns


def sizes() -> list[tuple[int, int]]:
    """(out, in), one tall and one wide."""
    small = random.randint(4, 6)
    large = small + random.randint(1, 3)
    return [(large, small), (small, large)]


def stairs(count: int) -> Tensor:
    """Distinct values from large to small; each gap, and the last one, exceeds a 20th of σ₁."""
    jitter = torch.rand(count, dtype=torch.float64) * 0.3
    return (torch.arange(count, 0, -1) + jitter) * random.choice((0.02, 1.0, 30.0))


def built(sigma: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Σ σᵢ uᵢ vᵢᵀ, of the columns of left (out, k) and right (in, k)."""
    return torch.einsum("k,ok,ik->oi", sigma, left, right)


def drawn(out: int, inside: int, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A matrix with the singular values sigma, and the singular vectors it was built from."""
    left, right = orthonormal(out, len(sigma)), orthonormal(inside, len(sigma))
    return built(sigma, left, right), left, right


def adapter(directions: Tensor) -> Tensor:
    """An A (r, in) whose strongest directions are the columns of directions (in, r), in order."""
    count = directions.shape[1]
    return built(stairs(count), orthonormal(count, count), directions)


def leaning(cosines: Sequence[float], inside: int) -> tuple[Tensor, Tensor]:
    """Two lists of directions (in, k): the k-th of the one has cosines[k] with that of the other
    and none with the rest."""
    k = len(cosines)
    basis, cos = orthonormal(inside, 2 * k), vector(*cosines)
    return basis[:, :k], basis[:, :k] * cos + basis[:, k:] * (1 - cos.square()).sqrt()


def gpt3(*letters: str) -> list[LinearShape]:
    """The square attention projections of GPT-3: 96 layers, d_model 12288."""
    return [LinearShape(f"layers.{i}.{x}_proj", 12288, 12288) for i in range(96) for x in letters]


def minigpt() -> list[LinearShape]:
    """The linears of the default MiniGPT's blocks, by their dotted names."""
    linears = (
        (name, module)
        for name, module in MiniGPT(MiniGPTConfig()).named_modules()
        if isinstance(module, nn.Linear) and name.startswith("blocks.")
    )
    return [LinearShape(name, each.in_features, each.out_features) for name, each in linears]


# --- what the tests measure -----------------------------------------------------------------------


def gap(got: Tensor, want: Tensor) -> float:
    """max|got - want|; infinite where shapes differ or a value is NaN, so that nothing hides."""
    if got.shape != want.shape:
        return math.inf
    if not got.numel():
        return 0.0
    apart = (got.detach().double() - want.double()).abs().max().item()
    return math.inf if math.isnan(apart) else apart


def off(got: float, want: float) -> float:
    """|got - want| relative to want; absolute where want is zero, infinite for NaN."""
    apart = abs(got - want) / (abs(want) or 1.0)
    return math.inf if math.isnan(apart) else apart


def refusal(function: Callable[..., object], *arguments: object) -> str:
    """What a refused call said; "no error" if it raised neither ValueError nor TypeError."""
    try:
        function(*arguments)
    except (ValueError, TypeError) as error:
        return str(error) or type(error).__name__
    return "no error"


def says(text: str, word: str) -> bool:
    """Whether the word stands in the text by itself; a number however it is written."""
    if NUMBER.fullmatch(word):
        return tells(text, float(word))
    return bool(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text))


def silent(said: dict[str, str], *words: str) -> dict[str, str]:
    """The messages that lack one of the words; a label's own words, after a colon, are owed too."""
    owed = {label: [*words, *label.partition(": ")[2].split("; ")] for label in said}
    return {
        label: text
        for label, text in said.items()
        if not all(says(text, word) for word in owed[label] if word)
    }


NAN, INF = math.nan, math.inf
NO_MATRIX = {
    "one axis": torch.ones(3),
    "three axes": torch.ones(2, 3, 4),
    "NaN": torch.tensor([[1.0, NAN], [0.0, 1.0]]),
    "infinity": torch.tensor([[1.0, 0.0], [INF, 1.0]]),
}
NO_SPECTRUM = {
    "two axes": torch.ones(2, 2),
    "no value": torch.ones(0),
    "negative": torch.tensor([2.0, -1.0]),
    "NaN": torch.tensor([2.0, NAN]),
}


# --- A1: the update -------------------------------------------------------------------------------


@pytest.mark.task("A1")
def test_rank_spectrum_update_is_after_minus_before() -> None:
    """[[1.5, 2], [1, 4]] after [[1, 2], [3, 4]] is the update [[0.5, 0], [-2, 0]], in float64."""
    got = weight_update(torch.tensor([[1.0, 2], [3, 4]]), torch.tensor([[1.5, 2], [1, 4]]))
    want = matrix([0.5, 0], [-2, 0])
    assert gap(got, want) == 0.0 and got.dtype == torch.float64, explain(
        measured=f"{got.tolist()}, {got.dtype}",
        expected="[[0.5, 0.0], [-2.0, 0.0]], torch.float64",
        cause="the update is after - before, and its dtype is float64",
        read="P1",
    )


@pytest.mark.task("A1")
def test_rank_spectrum_update_is_subtracted_in_float64() -> None:
    """Weights in bfloat16 and float32, alike or mixed, are widened before the subtraction."""
    dtypes = (torch.bfloat16, torch.float32)
    wrong = {}
    for old in dtypes:
        for new in dtypes:
            large, small = 2.0 ** random.randint(0, 3), 2.0 ** -random.randint(30, 35)
            got = weight_update(
                torch.full((2, 3), large, dtype=old), torch.full((2, 3), small, dtype=new)
            )
            apart = gap(got, torch.full((2, 3), small - large, dtype=torch.float64))
            if apart or got.dtype != torch.float64:
                wrong[f"{old}, {new}"] = apart
    assert not wrong, explain(
        measured=f"max|got - (after - before)| = {wrong}",
        expected="0.0 for every pair of dtypes",
        cause="the difference is rounded to the weights' dtype before it is widened",
        read="P1",
    )


@pytest.mark.task("A1")
def test_rank_spectrum_update_refuses_two_shapes() -> None:
    """Weights of two shapes raise an error that has both, also where they would broadcast."""
    said = {
        "one row: 4; 3; 1": refusal(weight_update, torch.ones(4, 3), torch.ones(1, 3)),
        "turned: 4; 3": refusal(weight_update, torch.ones(4, 3), torch.ones(3, 4)),
    }
    wrong = silent(said)
    assert not wrong, explain(
        measured=wrong,
        expected="ValueError with both shapes",
        cause="the shapes are not compared, and (4, 3) minus (1, 3) broadcasts in silence; or the "
        "message does not say both",
        read="P1",
    )


@pytest.mark.task("A1")
def test_rank_spectrum_update_refuses_what_is_no_finite_matrix() -> None:
    """Another number of axes, NaN or infinity raise an error that names before or after."""
    good, either = torch.ones(2, 2), {}
    said = {"after: after": refusal(weight_update, good, NO_MATRIX["NaN"])}
    for kind, bad in NO_MATRIX.items():
        if bad.ndim == 2:
            said[f"{kind}: before"] = refusal(weight_update, bad, good)
        else:  # both are wrong, so that no shapes differ; either may be named
            either[kind] = refusal(weight_update, bad, bad)
    unnamed = {kind: text for kind, text in either.items() if not re.search("before|after", text)}
    wrong = silent(said) | unnamed
    assert not wrong, explain(
        measured=wrong,
        expected="ValueError that names the argument",
        cause="one of the two weights is not checked: as_matrix(name, value) does it",
        read="P1",
    )


@pytest.mark.task("A1")
def test_rank_spectrum_update_is_detached_and_changes_no_weight() -> None:
    """The update of two Parameters has no graph and no memory of theirs, and leaves both alone."""
    before = nn.Parameter(torch.zeros(2, 3, dtype=torch.float64))
    after = nn.Parameter(torch.ones(2, 3, dtype=torch.float64))
    got = weight_update(before, after)
    tracked = got.requires_grad
    with torch.inference_mode():  # where what was made in that mode may be written to
        got.fill_(7.0)
    kept = (before.detach().abs().max().item(), after.detach().min().item())
    assert not tracked and kept == (0.0, 1.0), explain(
        measured=f"requires_grad = {tracked}, (before, after) = {kept}",
        expected="requires_grad = False, (before, after) = (0.0, 1.0)",
        cause="the weights are not detached, or the subtraction is done in place",
        read="P1",
    )


# --- A2: the singular values ----------------------------------------------------------------------


@pytest.mark.task("A2")
def test_rank_spectrum_values_of_worked_matrices() -> None:
    """[[3, 0], [4, 5]] has √45 and √5; [[1, 0], [0, 2], [2, 0]] has √5 and 2."""
    got = [singular_spectrum(matrix([3, 0], [4, 5]))]
    got.append(singular_spectrum(matrix([1, 0], [0, 2], [2, 0])))
    want = [vector(math.sqrt(45), math.sqrt(5)), vector(math.sqrt(5), 2)]
    apart = [gap(*pair) for pair in zip(got, want, strict=True)]
    assert max(apart) < 1e-12 * 7, explain(
        measured=[t.tolist() for t in got],
        expected=[t.tolist() for t in want],
        cause="not the singular values, largest first; the Gram matrix has their squares",
        read="P2",
    )


@pytest.mark.task("A2")
def test_rank_spectrum_values_are_those_a_matrix_was_built_from() -> None:
    """A tall and a wide matrix give back the singular values they were built from, in order."""
    off_by = {}
    for out, inside in sizes():
        sigma = stairs(min(out, inside))
        got = singular_spectrum(drawn(out, inside, sigma)[0])
        off_by[out, inside] = gap(got, sigma) / sigma[0].item()
    assert max(off_by.values()) < 1e-12, explain(
        measured=f"max|got - σ| / σ₁ = {off_by}",
        expected="< 1e-12, min(out, in) values, largest first",
        cause="the order, the number of values or the precision is wrong",
        read="P2",
    )


@pytest.mark.task("A2")
def test_rank_spectrum_values_are_computed_in_float64() -> None:
    """[[1, 1], [0, 1]] in bfloat16, float32 and float64 has the golden ratio and its inverse."""
    golden = (1 + math.sqrt(5)) / 2
    want = vector(golden, 1 / golden)
    wrong = {}
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        got = singular_spectrum(torch.tensor([[1.0, 1], [0, 1]], dtype=dtype))
        if not gap(got, want) < 1e-12 or got.dtype != torch.float64:
            wrong[str(dtype)] = (gap(got, want), got.dtype)
    assert not wrong, explain(
        measured=f"max|got - σ| and dtype: {wrong}",
        expected="< 1e-12, torch.float64 for every dtype",
        cause="the decomposition runs in the weights' dtype; widen first",
        read="P2",
    )


@pytest.mark.task("A2")
def test_rank_spectrum_values_include_the_zeros() -> None:
    """A matrix of rank 2 and a zero matrix have min(out, in) values, the rest zero, never NaN."""
    wrong = {}
    for out, inside in sizes() * 3:  # of one matrix, rounding may leave every zero above zero
        sigma = vector(3.0, 2.0)
        short = min(out, inside)
        want = torch.cat((sigma, torch.zeros(short - 2)))
        got = singular_spectrum(drawn(out, inside, sigma)[0])
        zero = singular_spectrum(torch.zeros(out, inside))
        if not (gap(got, want) < 3e-6 and gap(zero, torch.zeros(short)) == 0.0 and got.min() >= 0):
            wrong[out, inside] = (got.tolist(), zero.tolist())
    assert not wrong, explain(
        measured=wrong,
        expected="[3, 2, 0, …] and [0, …], min(out, in) values each",
        cause="zeros are dropped, or a root is taken of an eigenvalue just below zero",
        read="P2",
    )


@pytest.mark.task("A2")
def test_rank_spectrum_values_refuse_what_is_no_finite_matrix() -> None:
    """Another number of axes, NaN or infinity raise an error that names delta."""
    said = {kind: refusal(singular_spectrum, bad) for kind, bad in NO_MATRIX.items()}
    wrong = silent(said, "delta")
    assert not wrong, explain(
        measured=wrong,
        expected="ValueError that names delta",
        cause="delta is not checked: a third axis passes as a batch, NaN fails somewhere else",
        read="P2",
    )


# --- A3: the energy rank --------------------------------------------------------------------------


@pytest.mark.task("A3")
def test_rank_spectrum_energy_of_a_worked_spectrum() -> None:
    """σ = (4, 2, 2, 1), so σ² = 16, 4, 4, 1 of 25: shares 0.5, 0.7, 0.9, 0.99 need 1, 2, 3, 4."""
    sigma = vector(4, 2, 2, 1) * random.choice((0.5, 1.0, 3.0))
    got = [energy_rank(sigma, share) for share in (0.5, 0.7, 0.9, 0.99)]
    assert got == [1, 2, 3, 4], explain(
        measured=f"[energy_rank({sigma.tolist()}, s) for s in (0.5, 0.7, 0.9, 0.99)] = {got}",
        expected=[1, 2, 3, 4],
        cause="energy is the sum of σ², not of σ, and the value that reaches the share counts too",
        read="P3",
    )


@pytest.mark.task("A3")
def test_rank_spectrum_energy_counts_a_share_that_is_just_reached() -> None:
    """Of n equal values, n = 4 or 8, the shares 1/n, 2/n, … 1 need exactly 1, 2, … n."""
    for n in (4, 8):
        got = [energy_rank(vector(*[2] * n), k / n) for k in range(1, n + 1)]
        want = list(range(1, n + 1))
        assert got == want, explain(
            measured=f"[energy_rank([2] * {n}, k / {n}) for k in 1, 2, … {n}] = {got}",
            expected=want,
            cause="reaching the share exactly is enough: compare with >=, not with >",
            read="P3",
        )


@pytest.mark.task("A3")
def test_rank_spectrum_energy_share_is_nine_tenths_unless_told() -> None:
    """Without a share, energies (91, 9) need one value and (89, 11) need two."""
    got = [energy_rank(vector(large, 100 - large).sqrt()) for large in (91, 89)]
    assert got == [1, 2], explain(
        measured=f"energy_rank(sqrt([91, 9])), energy_rank(sqrt([89, 11])) = {got}",
        expected=[1, 2],
        cause="the default of share is 0.9, a share of the energy",
        read="P3",
    )


@pytest.mark.task("A3")
def test_rank_spectrum_energy_of_zeros() -> None:
    """A zero spectrum has rank 0, and zeros after the last value never count, at share 1 either."""
    got = [energy_rank(vector(0, 0, 0)), energy_rank(vector(3, 1, 0, 0), 1.0)]
    assert got == [0, 2], explain(
        measured=f"energy_rank([0, 0, 0]), energy_rank([3, 1, 0, 0], 1.0) = {got}",
        expected=[0, 2],
        cause="a zero spectrum needs no value at all: k may be 0",
        read="P3",
    )


@pytest.mark.task("A3")
def test_rank_spectrum_energy_ignores_size_and_order() -> None:
    """The same spectrum times 2⁻⁴⁰ or 2⁴⁰, or in another order, has the same rank."""
    sigma = vector(1, 4, 2, 2)
    got = [energy_rank(sigma * factor, 0.9) for factor in (2.0**-40, 1.0, 2.0**40)]
    got.append(energy_rank(sigma.float(), 0.9))
    assert got == [3, 3, 3, 3], explain(
        measured=f"energy_rank([1, 4, 2, 2] · k, 0.9), k = 2⁻⁴⁰, 1, 2⁴⁰, 1 (float32): {got}",
        expected=[3, 3, 3, 3],
        cause="an absolute threshold, or the values are taken as they come",
        read="P3",
    )


@pytest.mark.task("A3")
def test_rank_spectrum_energy_refuses_a_share_outside_0_1() -> None:
    """A share of 0, below 0, above 1 or NaN raises an error that names share and what it got."""
    said = {f"share: {bad}": refusal(energy_rank, vector(2, 1), bad) for bad in (0, -0.5, 1.5, NAN)}
    wrong = silent(said, "share")
    assert not wrong, explain(
        measured=wrong,
        expected="ValueError that names share and what it got",
        cause="share is not checked against (0, 1]; NaN passes share <= 0 or share > 1",
        read="P3",
    )


@pytest.mark.task("A3")
def test_rank_spectrum_energy_refuses_what_is_no_spectrum() -> None:
    """Two axes, no value, a negative value or NaN raise an error that names spectrum."""
    said = {kind: refusal(energy_rank, bad) for kind, bad in NO_SPECTRUM.items()}
    wrong = silent(said, "spectrum")
    assert not wrong, explain(
        measured=wrong,
        expected="ValueError that names spectrum",
        cause="the spectrum is not checked: as_spectrum does it, and sorts",
        read="P3",
    )


# --- A4: the entropy rank -------------------------------------------------------------------------


@pytest.mark.task("A4")
def test_rank_spectrum_entropy_of_equal_values_is_their_number() -> None:
    """k equal singular values have effective rank k, whatever their size."""
    count = random.randint(2, 9)
    got = [entropy_rank(torch.full((count,), size)) for size in (2.0**-40, 1.0, 7.5)]
    assert max(off(each, count) for each in got) < 1e-9, explain(
        measured=f"entropy_rank([k] · {count}), k = 2⁻⁴⁰, 1, 7.5: {got}",
        expected=[float(count)] * 3,
        cause="p is σ / Σσ, and exp undoes the natural logarithm",
        read="P4",
    )


@pytest.mark.task("A4")
def test_rank_spectrum_entropy_of_a_worked_spectrum() -> None:
    """σ = (2, 1, 1) has p = 1/2, 1/4, 1/4, entropy 1.5 ln 2 and effective rank 2√2."""
    got = entropy_rank(vector(2, 1, 1) * random.choice((0.25, 1.0, 4.0)))
    assert off(got, 2 * math.sqrt(2)) < 1e-9, explain(
        measured=f"entropy_rank([2, 1, 1] · k) = {got}",
        expected=2 * math.sqrt(2),
        cause="p is taken from σ², or the logarithm and exp have different bases",
        read="P4",
    )


@pytest.mark.task("A4")
def test_rank_spectrum_entropy_of_zeros() -> None:
    """Zeros in the spectrum add nothing, (1, 0, 0) has rank 1, and a zero spectrum 0.0."""
    spectra = (vector(1, 0, 0), vector(3, 3, 0), vector(0, 0))
    got = [entropy_rank(sigma) for sigma in spectra]
    apart = [off(a, b) for a, b in zip(got, (1.0, 2.0, 0.0), strict=True)]
    assert max(apart) < 1e-9, explain(
        measured=f"entropy_rank([1, 0, 0]), entropy_rank([3, 3, 0]), entropy_rank([0, 0]) = {got}",
        expected=[1.0, 2.0, 0.0],
        cause="0 · log 0 is NaN in floating point; a zero spectrum is a case of its own",
        read="P4",
    )


@pytest.mark.task("A4")
def test_rank_spectrum_entropy_refuses_what_is_no_spectrum() -> None:
    """Two axes, no value, a negative value or NaN raise an error that names spectrum."""
    said = {kind: refusal(entropy_rank, bad) for kind, bad in NO_SPECTRUM.items()}
    wrong = silent(said, "spectrum")
    assert not wrong, explain(
        measured=wrong,
        expected="ValueError that names spectrum",
        cause="the spectrum is not checked: as_spectrum does it, and sorts",
        read="P4",
    )


# --- B1: the best factors -------------------------------------------------------------------------


@pytest.mark.task("B1")
def test_rank_factors_best_have_the_shapes_of_an_adapter() -> None:
    """A is (r, in) and B is (out, r), both float64, for a tall and a wide update."""
    got, want = [], []
    for out, inside in sizes():
        A, B = best_factors(torch.randn(out, inside), 3)
        got.append((tuple(A.shape), tuple(B.shape), A.dtype, B.dtype))
        want.append(((3, inside), (out, 3), torch.float64, torch.float64))
    assert got == want, explain(
        measured=got,
        expected=want,
        cause="A and B are swapped or transposed, or r is not the inner axis",
        read="P5",
    )


@pytest.mark.task("B1")
def test_rank_factors_best_of_a_worked_matrix() -> None:
    """The best rank-1 matrix for [[3, 0], [0, 1], [0, 0]] keeps the 3 alone; A and B share it."""
    A, B = best_factors(matrix([3, 0], [0, 1], [0, 0]), 1)
    apart = gap(B @ A, matrix([3, 0], [0, 0], [0, 0]))
    norms = (A.norm().item(), B.norm().item())
    assert apart < 1e-11 and max(off(n, math.sqrt(3)) for n in norms) < 1e-9, explain(
        measured=f"B A = {(B @ A).tolist()}, norms of (A, B) = {norms}",
        expected=f"[[3, 0], [0, 0], [0, 0]], {(math.sqrt(3), math.sqrt(3))}",
        cause="the largest singular value is kept, and its root goes into each factor",
        read="P5",
    )


@pytest.mark.task("B1")
def test_rank_factors_best_product_is_the_truncated_sum() -> None:
    """B A is the sum of the r largest σ u vᵀ, for every r, tall and wide."""
    off_by = {}
    for out, inside in sizes():
        sigma = stairs(min(out, inside))
        delta, left, right = drawn(out, inside, sigma)
        for r in range(1, len(sigma)):
            A, B = best_factors(delta, r)
            want = built(sigma[:r], left[:, :r], right[:, :r])
            off_by[out, inside, r] = gap(B @ A, want) / sigma[0].item()
    assert max(off_by.values()) < 1e-11, explain(
        measured=f"max|B A - truncated| / σ₁ by (out, in, r) = {off_by}",
        expected="< 1e-11",
        cause="the smallest values are kept, or a factor misses its root of σ",
        read=THEORY,
    )


@pytest.mark.task("B1")
def test_rank_factors_best_leave_room_for_the_scaling() -> None:
    """scaling · B A is the best approximation for any scaling, so that an adapter computes it."""
    scaling = random.choice((0.25, 0.75, 2.0, 5.5))
    sigma = stairs(5)
    delta, left, right = drawn(6, 5, sigma)
    A, B = best_factors(delta, 2, scaling)
    want = built(sigma[:2], left[:, :2], right[:, :2])
    apart = gap(scaling * (B @ A), want) / sigma[0].item()
    assert apart < 1e-11, explain(
        measured=f"max|{scaling} · B A - best| / σ₁ = {apart:.3g}",
        expected="< 1e-11",
        cause="σ has to be divided by scaling once, not multiplied by it and not once a factor",
        read="P5",
    )


@pytest.mark.task("B1")
def test_rank_factors_best_are_balanced() -> None:
    """A Aᵀ = Bᵀ B, also at a scaling that is not 1."""
    off_by = {}
    for out, inside in sizes():
        scaling = random.choice((0.25, 0.5, 3.0))
        sigma = stairs(min(out, inside))
        A, B = best_factors(drawn(out, inside, sigma)[0], 3, scaling)
        off_by[out, inside, scaling] = gap(A @ A.T, B.T @ B) * scaling / sigma[0].item()
    assert max(off_by.values()) < 1e-11, explain(
        measured=f"max|A Aᵀ - Bᵀ B| · scaling / σ₁ by (out, in, scaling) = {off_by}",
        expected="< 1e-11",
        cause="σ or the scaling stands in one factor; each takes the root of σ / scaling",
        read="P5",
    )


@pytest.mark.task("B1")
def test_rank_factors_best_at_full_rank_and_above_are_the_update() -> None:
    """At r = min(out, in) and beyond, B A is the update itself, with A (r, in) and B (out, r)."""
    wrong = {}
    for out, inside in sizes():
        sigma = stairs(min(out, inside))
        delta = drawn(out, inside, sigma)[0]
        for r in (min(out, inside), max(out, inside) + 2):
            A, B = best_factors(delta, r)
            apart = gap(B @ A, delta) / sigma[0].item()
            shapes = (tuple(A.shape), tuple(B.shape))
            if not apart < 1e-11 or shapes != ((r, inside), (out, r)):
                wrong[out, inside, r] = (apart, shapes)
    assert not wrong, explain(
        measured=f"max|B A - delta| / σ₁ and shapes by (out, in, r): {wrong}",
        expected="< 1e-11, (r, in) and (out, r)",
        cause="r is cut to min(out, in); fill up with zeros, an adapter of rank r has r rows",
        read="P6",
    )


@pytest.mark.task("B1")
def test_rank_factors_best_of_an_update_with_fewer_directions() -> None:
    """A rank-2 update at r = 3 is met exactly, a zero one gives a zero product; all is finite."""
    wrong = {}
    for out, inside in sizes():
        two = drawn(out, inside, vector(3, 2))[0]
        for label, delta in (("rank 2", two), ("rank 0", torch.zeros(out, inside))):
            A, B = best_factors(delta, 3)
            apart = gap(B @ A, delta)
            if not apart < 3e-11 or not (A.isfinite().all() and B.isfinite().all()):
                wrong[label, out, inside] = apart
    assert not wrong, explain(
        measured=f"max|B A - delta|, inf for NaN: {wrong}",
        expected="< 3e-11, all finite",
        cause="a division by a singular value that is zero, or the root of one below zero",
        read="P6",
    )


@pytest.mark.task("B1")
def test_rank_factors_best_take_float32_parameters() -> None:
    """A float32 Parameter is met to float64 precision and not changed; factors have no graph."""
    delta = nn.Parameter(torch.randn(4, 5))
    kept = delta.detach().clone()
    A, B = best_factors(delta, 4)
    apart, tracked = gap(B @ A, kept), A.requires_grad or B.requires_grad
    with torch.inference_mode():
        A.zero_()
        B.zero_()
    same = torch.equal(delta.detach(), kept)
    assert apart < 1e-10 and not tracked and same, explain(
        measured=f"max|B A - delta| = {apart:.3g}, requires_grad = {tracked}, unchanged = {same}",
        expected="< 1e-10, False, True",
        cause="the decomposition runs in float32, or on the Parameter itself: detach it",
        read="P6",
    )


@pytest.mark.task("B1")
def test_rank_factors_best_refuse_a_rank_below_one_and_a_bad_scaling() -> None:
    """r < 1, and a scaling of 0, below 0, infinite or NaN, raise an error that names it."""
    delta = torch.eye(3)
    said = {f"rank: r; {bad}": refusal(best_factors, delta, bad) for bad in (0, -2)}
    for bad in (0.0, -1.5, INF, NAN):
        said[f"scale: scaling; {bad:g}"] = refusal(best_factors, delta, 1, bad)
    wrong = silent(said)
    assert not wrong, explain(
        measured=wrong,
        expected="ValueError that names the argument and what it got",
        cause="r = -2 slices from the end in silence, and a bad scaling turns into NaN",
        read="P6",
    )


@pytest.mark.task("B1")
def test_rank_factors_best_refuse_what_is_no_finite_matrix() -> None:
    """Another number of axes, NaN or infinity raise an error that names delta."""
    said = {kind: refusal(best_factors, bad, 1) for kind, bad in NO_MATRIX.items()}
    wrong = silent(said, "delta")
    assert not wrong, explain(
        measured=wrong,
        expected="ValueError that names delta",
        cause="delta is not checked: a third axis passes as a batch, NaN fails somewhere else",
        read="P6",
    )


# --- B2: the error that is left -------------------------------------------------------------------


@pytest.mark.task("B2")
def test_rank_factors_error_of_a_worked_spectrum() -> None:
    """σ = (4, 2, 2, 1), in any order, leaves 5, 3, √5, 1 and 0 at r = 0 to 4, and 0 beyond."""
    sigma = [4.0, 2.0, 2.0, 1.0]
    random.shuffle(sigma)
    got = [truncation_error(vector(*sigma), r) for r in (0, 1, 2, 3, 4, 9)]
    want = [5.0, 3.0, math.sqrt(5), 1.0, 0.0, 0.0]
    assert max(off(a, b) for a, b in zip(got, want, strict=True)) < 1e-9, explain(
        measured=f"[truncation_error({sigma}, r) for r in (0, 1, 2, 3, 4, 9)] = {got}",
        expected=want,
        cause="√Σ σ² over the values after the r largest: squares, a root, and r = 0 keeps none",
        read=THEORY,
    )


@pytest.mark.task("B2")
def test_rank_factors_error_keeps_the_digits_of_a_small_tail() -> None:
    """A tail a billion times smaller than the rest still has nine correct digits."""
    small = random.uniform(0.5, 2.0) * 1e-9
    got = truncation_error(vector(1.0, 0.7, 3 * small, 4 * small), 2)
    assert off(got, 5 * small) < 1e-9, explain(
        measured=got,
        expected=5 * small,
        cause="the tail is computed as all energy minus the kept energy, which cancels its digits",
        read="P7",
    )


@pytest.mark.task("B2")
def test_rank_factors_error_of_float32_values_is_float64() -> None:
    """Of float32 values, those left out are squared and summed in float64."""
    got, want = [], []
    for count in (50, 60, 70, 80):  # one sum in float32 may be right by chance
        sigma = torch.tensor([3.0, *(random.uniform(0.5, 1.0) for _ in range(count))])
        got.append(truncation_error(sigma, 1))
        want.append(math.sqrt(math.fsum(x * x for x in sigma[1:].tolist())))
    assert max(off(a, b) for a, b in zip(got, want, strict=True)) < 1e-9, explain(
        measured=got,
        expected=want,
        cause="the sum runs in the spectrum's dtype; widen first",
        read="P7",
    )


@pytest.mark.task("B2")
def test_rank_factors_error_refuses_a_rank_below_zero() -> None:
    """r < 0 raises an error that names r and what it got; a bad spectrum one that names it."""
    said = {
        f"{kind}: spectrum": refusal(truncation_error, bad, 1) for kind, bad in NO_SPECTRUM.items()
    }
    said["rank: r; -1"] = refusal(truncation_error, vector(2, 1), -1)
    wrong = silent(said)
    assert not wrong, explain(
        measured=wrong,
        expected="ValueError that names r or spectrum",
        cause="r = -1 slices from the end in silence, or the spectrum is not checked",
        read="P7",
    )


# --- C1: the directions of an adapter -------------------------------------------------------------


@pytest.mark.task("C1")
def test_rank_subspace_directions_of_a_worked_adapter() -> None:
    """A = [[0, 3, 0], [4, 0, 0]] reads e₁ most and then e₂; signs are free."""
    got = right_directions(matrix([0, 3, 0], [4, 0, 0]))
    apart = gap(got.abs(), matrix([1, 0, 0], [0, 1, 0]))
    assert apart < 1e-9 and got.dtype == torch.float64, explain(
        measured=f"{got.tolist()}, {got.dtype}",
        expected="[[±1, 0, 0], [0, ±1, 0]], torch.float64",
        cause="the right singular vectors of A as rows, strongest first: each has in entries",
        read="P8",
    )


@pytest.mark.task("C1")
def test_rank_subspace_directions_are_those_an_adapter_was_built_from() -> None:
    """With r below in and above it, row k is ± the k-th right singular vector."""
    off_by = {}
    for r, inside in sizes():
        sigma = stairs(min(r, inside))
        A, _, right = drawn(r, inside, sigma)
        got = right_directions(A)
        same = got.shape == (len(sigma), inside)
        want = torch.eye(len(sigma), dtype=torch.float64)
        off_by[r, inside] = gap((got @ right).abs(), want) if same else INF
    assert max(off_by.values()) < 1e-9, explain(
        measured=f"max||cosines| - identity| by (r, in) = {off_by}",
        expected="< 1e-9, min(r, in) rows of in entries",
        cause="left singular vectors, columns for rows, or weakest first",
        read="P8",
    )


@pytest.mark.task("C1")
def test_rank_subspace_directions_leave_out_the_noise() -> None:
    """Four rows of rank 2 have 2 directions, a zero A none; 1e-4 · σ₁ counts, 1e-8 · σ₁ not."""
    inside, rank2 = 6, vector(3, 2)
    adapters = [drawn(4, inside, rank2 * size)[0] for size in (1e-5, 1e5)]
    adapters += [drawn(4, inside, vector(1, 1e-4, 1e-8) * size)[0] for size in (1e-5, 1e5)]
    adapters.append(torch.zeros(3, inside))
    got = [tuple(right_directions(A).shape) for A in adapters]
    want = [(2, inside)] * 4 + [(0, inside)]
    assert got == want, explain(
        measured=got,
        expected=want,
        cause="a direction counts when its σ is above RANK_TOLERANCE · σ₁, so relative to A's size",
        read="P9",
    )


@pytest.mark.task("C1")
def test_rank_subspace_directions_take_float32_parameters() -> None:
    """The directions of a float32 Parameter are float64, orthonormal to 1e-9, without a graph."""
    A = nn.Parameter(torch.randn(3, 8))
    got = right_directions(A)
    apart = gap(got @ got.T, torch.eye(3, dtype=torch.float64))
    state = (got.dtype, got.requires_grad)
    assert apart < 1e-9 and state == (torch.float64, False), explain(
        measured=f"max|V Vᵀ - I| = {apart:.3g}, (dtype, requires_grad) = {state}",
        expected="< 1e-9, (torch.float64, False)",
        cause="the decomposition runs in float32 or keeps a graph; widen and detach first",
        read="P8",
    )


@pytest.mark.task("C1")
def test_rank_subspace_directions_refuse_what_is_no_finite_matrix() -> None:
    """Another number of axes, NaN or infinity raise an error that names A."""
    said = {kind: refusal(right_directions, bad) for kind, bad in NO_MATRIX.items()}
    wrong = silent(said, "A")
    assert not wrong, explain(
        measured=wrong,
        expected="ValueError that names A",
        cause="A is not checked: as_matrix(name, value) does it",
        read="P9",
    )


# --- C2: the similarity φ -------------------------------------------------------------------------


@pytest.mark.task("C2")
def test_rank_subspace_similarity_of_an_adapter_with_itself_is_one() -> None:
    """φ(i, j) = 1 for an A and the same A with its rows rotated, for all i and j."""
    A = adapter(orthonormal(7, 3))
    turned = orthonormal(3, 3) @ A
    got = [subspace_similarity(A, turned, i, j) for i in (1, 2, 3) for j in (1, 2, 3)]
    assert max(off(each, 1.0) for each in got) < 1e-9, explain(
        measured=f"[φ(i, j) for i in (1, 2, 3) for j in (1, 2, 3)] = {got}",
        expected=[1.0] * 9,
        cause="φ is divided by min(i, j), and it compares directions in the input space, not rows",
        read="P10",
    )


@pytest.mark.task("C2")
def test_rank_subspace_similarity_of_orthogonal_adapters_is_zero() -> None:
    """Adapters that read orthogonal subspaces have φ = 0."""
    basis = orthonormal(8, 6)
    first, second = adapter(basis[:, :3]), adapter(basis[:, 3:])
    got = [subspace_similarity(first, second, i, j) for i in (1, 3) for j in (1, 2, 3)]
    assert max(abs(each) for each in got) < 1e-9, explain(
        measured=f"[φ(i, j) for i in (1, 3) for j in (1, 2, 3)] = {got}",
        expected=[0.0] * 6,
        cause="not the right singular vectors: those of the other side know nothing of the input",
        read="P8",
    )


@pytest.mark.task("C2")
def test_rank_subspace_similarity_is_the_mean_squared_cosine() -> None:
    """Directions with cosines 0.6, 0.8 and 0 pairwise have φ(1, 1) = 0.36, φ(2, 3) = 0.5."""
    first, second = map(adapter, leaning((0.6, 0.8, 0.0), 7))
    pairs = ((1, 1), (2, 2), (2, 3), (3, 2), (3, 3))
    got = [subspace_similarity(first, second, i, j) for i, j in pairs]
    want = [0.36, 0.5, 0.5, 0.5, 1 / 3]
    assert max(off(a, b) for a, b in zip(got, want, strict=True)) < 1e-9, explain(
        measured=f"[φ(i, j) for i, j in {pairs}] = {got}",
        expected=want,
        cause="the squares of all cosines are summed and divided by min(i, j), without a root",
        read="P10",
    )


@pytest.mark.task("C2")
def test_rank_subspace_similarity_sees_a_direction_inside_a_larger_subspace() -> None:
    """(v₁ + v₂ + v₃)/√3 against v₁, v₂, v₃ has φ(1, j) = j/3: it lies in all three together."""
    basis = orthonormal(6, 3)
    small, large = basis.sum(1, keepdim=True) / math.sqrt(3), basis
    first, second = adapter(small), adapter(large)
    got = [subspace_similarity(first, second, 1, j) for j in (1, 2, 3)]
    got += [subspace_similarity(second, first, i, 1) for i in (1, 2, 3)]
    want = [1 / 3, 2 / 3, 1.0] * 2
    assert max(off(a, b) for a, b in zip(got, want, strict=True)) < 1e-9, explain(
        measured=got,
        expected=want,
        cause="only matching pairs are compared: φ sums the squares over all i times j pairs",
        read="P10",
    )


@pytest.mark.task("C2")
def test_rank_subspace_similarity_takes_the_strongest_directions_first() -> None:
    """Of A = [[0, 1, 0], [5, 0, 0]] the strongest direction is e₁, whatever its row."""
    first, other = torch.tensor([[0.0, 1, 0], [5, 0, 0]]), torch.tensor([[1.0, 0, 0]])
    got = [subspace_similarity(first, other, 1, 1), subspace_similarity(other, first, 1, 1)]
    kinds = {type(each).__name__ for each in got}
    assert max(off(each, 1.0) for each in got) < 1e-9 and kinds == {"float"}, explain(
        measured=f"{got}, {kinds}",
        expected="[1.0, 1.0], {'float'}",
        cause="directions are taken in the order of the rows, not of the singular values",
        read="P10",
    )


@pytest.mark.task("C2")
def test_rank_subspace_similarity_refuses_directions_that_are_not_there() -> None:
    """i and j below 1, or above the number of directions, raise an error that names them."""
    rank2, rank3 = drawn(4, 6, vector(3, 2))[0], drawn(3, 6, vector(3, 2, 1))[0]
    cases = {"i; 0": (0, 1), "i; 3": (3, 1), "i; -1": (-1, 1), "j; 0": (1, 0), "j; 4": (1, 4)}
    wrong = silent(
        {
            f"out of range: {label}": refusal(subspace_similarity, rank2, rank3, i, j)
            for label, (i, j) in cases.items()
        }
    )
    assert not wrong, explain(
        measured=wrong,
        expected="ValueError that names i or j and what it got",
        cause="a slice beyond the end is cut in silence, and the division by min(i, j) stays",
        read="P9",
    )


@pytest.mark.task("C2")
def test_rank_subspace_similarity_refuses_another_width() -> None:
    """Two adapters of different widths raise an error that has both widths."""
    said = refusal(subspace_similarity, torch.eye(2, 5), torch.eye(2, 7), 1, 1)
    assert not silent({"widths": said}, "5", "7"), explain(
        measured=said,
        expected="ValueError with both widths, 5 and 7",
        cause="the widths are not compared, so that torch fails instead, without a name",
        read="P10",
    )


# --- C3: the whole grid ---------------------------------------------------------------------------


@pytest.mark.task("C3")
def test_rank_subspace_grid_of_known_cosines() -> None:
    """Cosines 0.6, 0.8 and 0 give the grid of φ in closed form, (3, 2) for three against two."""
    first, second = leaning((0.6, 0.8, 0.0), 7)
    got = similarity_grid(adapter(first), adapter(second[:, :2]))
    want = matrix([0.36, 0.36], [0.36, 0.5], [0.36, 0.5])
    assert gap(got, want) < 1e-9 and got.dtype == torch.float64, explain(
        measured=f"{got.tolist()}, {got.dtype}",
        expected=f"{want.tolist()}, torch.float64",
        cause="entry [i - 1, j - 1] is φ(i, j): sums over whole corners, each divided by min(i, j)",
        read="P10",
    )


@pytest.mark.task("C3")
def test_rank_subspace_grid_sums_over_all_pairs() -> None:
    """(v₁ + v₂ + v₃)/√3 and v₁ against v₁, v₂, v₃: each corner sums all its squares."""
    v = orthonormal(6, 3)
    mean = v.sum(1) / math.sqrt(3)
    rest = v[:, 0] - mean / math.sqrt(3)
    pair = torch.stack((mean, rest / rest.norm()), dim=1)  # orthonormal, inside v's span
    got = similarity_grid(adapter(pair), adapter(v))
    # rest / |rest| = (2, -1, -1)/√6 in v's own coordinates
    want = matrix([1 / 3, 2 / 3, 1.0], [1.0, (2 / 3 + 5 / 6) / 2, 1.0])
    assert gap(got, want) < 1e-9, explain(
        measured=got.tolist(),
        expected=want.tolist(),
        cause="the squares are summed along the diagonal or along one axis alone",
        read="P10",
    )


@pytest.mark.task("C3")
def test_rank_subspace_grid_has_only_the_directions_there_are() -> None:
    """Four rows of rank 2 against three of rank 3 make a (2, 3) grid, every φ between 0 and 1."""
    got = similarity_grid(drawn(4, 6, vector(3, 2))[0], drawn(3, 6, vector(3, 2, 1))[0])
    shape = tuple(got.shape)
    inside = bool(((got > -1e-9) & (got < 1 + 1e-9)).all())
    assert shape == (2, 3) and inside, explain(
        measured=f"shape {shape}, within 0 to 1: {inside}",
        expected="shape (2, 3), within 0 to 1: True",
        cause="directions that are only noise got into the grid, or it is transposed",
        read="P9",
    )


@pytest.mark.task("C3")
def test_rank_subspace_grid_refuses_another_width() -> None:
    """Two adapters of different widths raise an error that has both widths."""
    said = refusal(similarity_grid, torch.eye(2, 5), torch.eye(2, 7))
    assert not silent({"widths": said}, "5", "7"), explain(
        measured=said,
        expected="ValueError with both widths, 5 and 7",
        cause="the widths are not compared, so that torch fails instead, without a name",
        read="P10",
    )


# --- D1: the rank that a budget buys --------------------------------------------------------------


@pytest.mark.task("D1")
def test_rank_budget_rank_of_the_papers_eighteen_million() -> None:
    """18 874 368 parameters on GPT-3 buy rank 8 on q, 4 on q and v, 2 on q, k, v and o."""
    got = [equal_budget_rank(gpt3(*letters), 18_874_368) for letters in ("q", "qv", "qkvo")]
    assert got == [8, 4, 2], explain(
        measured=f"equal_budget_rank(q), (qv), (qkvo) = {got}",
        expected=[8, 4, 2],
        cause="rank 1 costs in + out on each linear, summed over all of them",
        read="P11",
    )


@pytest.mark.task("D1")
def test_rank_budget_rank_rounds_down() -> None:
    """A budget between two ranks buys the lower one, an exact budget its rank, on uneven shapes."""
    shapes = [LinearShape(f"l{i}", random.randint(2, 40), random.randint(41, 90)) for i in range(3)]
    step, r = sum(s.in_features + s.out_features for s in shapes), random.randint(2, 9)
    got = [equal_budget_rank(shapes, r * step + extra) for extra in (-1, 0, step - 1)]
    got += [equal_budget_rank([LinearShape("one", 2, 3)], budget) for budget in (5, 50)]
    assert got == [r - 1, r, r, 1, 10] and {type(each) for each in got} == {int}, explain(
        measured=got,
        expected=[r - 1, r, r, 1, 10],
        cause="the budget is rounded up or to the nearest, or the rank is cut at the matrix's own",
        read="P11",
    )


@pytest.mark.task("D1")
def test_rank_budget_rank_refuses_what_buys_nothing() -> None:
    """A budget below the cost of rank 1, and a list without shapes, raise errors that name them."""
    one = [LinearShape("q_proj", 3, 4)]
    said = {
        "6 of 7: budget; 6": refusal(equal_budget_rank, one, 6),
        "negative: budget; -7": refusal(equal_budget_rank, one, -7),
        "none: shapes": refusal(equal_budget_rank, [], 10),
    }
    wrong = silent(said)
    assert not wrong, explain(
        measured=wrong,
        expected="ValueError that names budget or shapes",
        cause="rank 0 is no adapter, and no shapes mean a division by zero",
        read="P11",
    )


# --- D2: the same budget on different targets -----------------------------------------------------


@pytest.mark.task("D2")
def test_rank_budget_plan_for_the_minigpt() -> None:
    """36 864 parameters on MiniGPT buy r = 8 on all six linears, 36 on q and v, 14 on the MLP."""
    sets = {
        "qv": ("q_proj", "v_proj"),
        "mlp": ("mlp.fc1", "mlp.fc2"),
        "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
        "all": ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2"),
    }
    got = rank_plan(minigpt(), sets, 36_864)
    want = {
        "qv": Plan(rank=36, linears=8, parameters=36_864),
        "mlp": Plan(rank=14, linears=8, parameters=35_840),
        "attention": Plan(rank=18, linears=16, parameters=36_864),
        "all": Plan(rank=8, linears=24, parameters=36_864),
    }
    assert list(got.items()) == list(want.items()), explain(
        measured=got,
        expected=want,
        cause="rank, linears and parameters are those of the matching linears, in the order given",
        read="P11",
    )


@pytest.mark.task("D2")
def test_rank_budget_plan_matches_at_a_dot() -> None:
    """q_proj matches q_proj and a.q_proj, never xq_proj, q_proj.a or q_projection."""
    names = ("q_proj", "a.q_proj", "a.xq_proj", "xq_proj", "q_proj.a", "q_projection", "xa.q_proj")
    shapes = [LinearShape(name, 3, 4) for name in names]
    plans = rank_plan(shapes, {"short": ["q_proj"], "long": ["a.q_proj"]}, 70)
    got = {label: plan.linears for label, plan in plans.items()}
    assert got == {"short": 3, "long": 1}, explain(
        measured=got,
        expected={"short": 3, "long": 1},
        cause='a name matches a target when it is the target or ends with "." and the target',
        read="P11",
    )


@pytest.mark.task("D2")
def test_rank_budget_plan_pays_a_linear_once() -> None:
    """A linear that two targets of a set match is paid once; another set pays it again."""
    shapes = [LinearShape("a.q_proj", 4, 6), LinearShape("b.q_proj", 7, 3)]
    sets = {"twice": ("q_proj", "a.q_proj"), "again": ("a.q_proj",)}
    got = rank_plan(shapes, sets, 40)
    want = {"twice": Plan(2, 2, 40), "again": Plan(4, 1, 40)}
    assert got == want, explain(
        measured=got,
        expected=want,
        cause="a linear is counted once a target, or what an earlier set took is missing",
        read="P11",
    )


@pytest.mark.task("D2")
def test_rank_budget_plan_refuses_a_target_that_matches_nothing() -> None:
    """A target without a match raises an error that names it, also beside one that matches."""
    shapes = [LinearShape("a.q_proj", 4, 6)]
    said = {
        "unmatched: w_proj": refusal(rank_plan, shapes, {"mixed": ("q_proj", "w_proj")}, 40),
        "alone: w_proj": refusal(rank_plan, shapes, {"alone": ("w_proj",)}, 40),
        "too dear: budget; 9": refusal(rank_plan, shapes, {"q": ("q_proj",)}, 9),
    }
    wrong = silent(said)
    assert not wrong, explain(
        measured=wrong,
        expected="ValueError that names w_proj, or budget",
        cause="a misspelt target passes unseen, and its share of the budget goes to the others",
        read="P11",
    )


# --- D3: the scale --------------------------------------------------------------------------------


@pytest.mark.task("D3")
def test_rank_budget_scale_by_both_rules() -> None:
    """alpha = 24 at r = 16 is 1.5 by alpha/r, the default, and 6 by alpha/sqrt(r)."""
    got = [scaling_factor(24, 16), scaling_factor(24, 16, "alpha/r")]
    got += [scaling_factor(24.0, 16, "alpha/sqrt(r)")]
    got += [scaling_factor(24.0, 1, rule) for rule in ("alpha/r", "alpha/sqrt(r)")]
    want = [1.5, 1.5, 6.0, 24.0, 24.0]
    assert max(off(a, b) for a, b in zip(got, want, strict=True)) < 1e-12, explain(
        measured=got,
        expected=want,
        cause="alpha / r by default; alpha / √r, not √(alpha / r), under the other rule",
        read="P12",
    )


@pytest.mark.task("D3")
def test_rank_budget_scale_refuses_a_bad_rank_or_rule() -> None:
    """r < 1 and a rule that is not in SCALING_RULES raise errors that name them."""
    said = {
        "rank: r; 0": refusal(scaling_factor, 16, 0),
        "rank: r; -4": refusal(scaling_factor, 16, -4, "alpha/sqrt(r)"),
        "rule: rule; alpha/r2": refusal(scaling_factor, 16, 4, "alpha/r2"),
    }
    wrong = silent(said)
    assert not wrong, explain(
        measured=wrong,
        expected="ValueError that names r or rule and what it got",
        cause="a misspelt rule falls through to one of the two, or r is not checked",
        read="P12",
    )
