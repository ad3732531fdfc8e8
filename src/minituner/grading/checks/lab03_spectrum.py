"""Lab 03, block A: the update, its singular values, and two ranks read off a spectrum.

Leaves out: the matrices of known singular values (lab03_asking.py), and factors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from minituner.grading.checks.asking import DTYPES, Asking, equal
from minituner.grading.checks.lab03_asking import (
    close,
    doubles,
    drawn,
    no_matrix,
    no_spectrum,
    refused,
    sizes,
    stairs,
    vector,
    worst,
)

UPDATE, SPECTRUM = "weight_update", "singular_spectrum"
ENERGY, ENTROPY = "energy_rank", "entropy_rank"

# --- A1: the update -------------------------------------------------------------------------------


def rank_spectrum_update_is_after_minus_before(ask: Asking) -> None:
    out, inside = ask.rng.choice(sizes(ask))
    before, after = (ask.whole(9, out, inside, dtype="float32") / 2 for _ in range(2))
    after[0, 0] = before[0, 0] + 1  # not the same the other way round
    got = ask.w.ask(ask.star(UPDATE)(before, after))
    ask.near("got - (after - before)", got, after.double() - before.double(), 0.0)
    doubles(ask, "the update", got)


def rank_spectrum_update_is_subtracted_in_float64(ask: Asking) -> None:
    kinds, cases = ("bfloat16", "float32"), []
    for old, new in ((old, new) for old in kinds for new in kinds):
        shape = ask.rng.choice(((2, 3), (3, 2)))
        # Seven bits of each, 2³³ and more apart: float64 alone holds the difference.
        large = (8 + ask.whole(7, *shape)) * 2.0 ** ask.rng.randint(0, 3)
        small = (8.5 + ask.whole(7, *shape)) * 2.0 ** -ask.rng.randint(33, 36)
        cases.append((large.to(DTYPES[old]), small.to(DTYPES[new])))
    got = ask.w.ask([ask.star(UPDATE)(*case) for case in cases])
    for one, (before, after) in zip(got, cases, strict=True):
        what = f"got - (after - before)| for {before.dtype}, {after.dtype}: |"
        ask.near(what, one, after.double() - before.double(), 0.0)
    doubles(ask, "each update", *got)


def rank_spectrum_update_refuses_two_shapes(ask: Asking) -> None:
    out, inside = ask.rng.sample((23, 34, 42, 57, 68), 2)
    before, update = torch.ones(out, inside), ask.star(UPDATE)
    others = {"one row": torch.ones(1, inside), "turned": torch.ones(inside, out)}
    things = [
        (what, update(before, other), tuple(map(str, (out, inside, *other.shape))))
        for what, other in others.items()
    ]
    refused(ask, things)


def rank_spectrum_update_refuses_what_is_no_finite_matrix(ask: Asking) -> None:
    bad, update = no_matrix(ask), ask.star(UPDATE)
    things = []
    for kind, value in bad.items():
        if value.ndim == 2:
            call, word = update(value, torch.ones(*value.shape)), "before"
        else:  # both are wrong, and either may be named: shapes are not compared here
            call, word = update(value, value), "before|after"
        things.append((f"{word}: {kind}", call, (word,)))
    value = bad[ask.rng.choice(("NaN", "infinity"))]
    good = torch.ones(*value.shape)
    refused(ask, [*things, ("after: not finite", update(good, value), ("after",))])


def rank_spectrum_update_is_detached_and_changes_no_weight(ask: Asking) -> None:
    values = [ask.randn(2, 3) for _ in range(2)]
    before, after = (ask.w.keep(ask.nn.Parameter(value)) for value in values)
    got = ask.w.keep(ask.star(UPDATE)(before, after))
    tracked = ask.w.ask(ask.kit.flag(got))
    ask.put(got, torch.full((2, 3), 7.0, dtype=torch.float64))
    kept = ask.w.ask((before, after))
    ask.see("requires_grad", tracked, False)
    for name, now, value in zip(("before", "after"), kept, values, strict=True):
        ask.near(f"{name} - what it was", now, value, 0.0)


# --- A2: the singular values ----------------------------------------------------------------------


def _corner(a: float, b: float, c: float) -> Tensor:
    """The singular values of [[a, 0], [b, c]]: σ₁² + σ₂² = a² + b² + c², σ₁ σ₂ = |a c|."""
    total, area = a * a + b * b + c * c, abs(a * c)
    first = (math.sqrt(total + 2 * area) + math.sqrt(total - 2 * area)) / 2
    return vector(first, area / first)


def rank_spectrum_values_of_worked_matrices(ask: Asking) -> None:
    a, b, c, x, y, z = (ask.rng.choice((-1, 1)) * ask.rng.randint(2, 5) for _ in range(6))
    matrices = [vector(a, 0, b, c).view(2, 2), vector(x, 0, 0, y, z, 0).view(3, 2)]
    got = ask.w.ask([ask.star(SPECTRUM)(one) for one in matrices])
    want = [_corner(a, b, c), vector(math.hypot(x, z), abs(y)).sort(descending=True).values]
    for one, other in zip(got, want, strict=True):
        ask.near(f"got - {other.tolist()}", one, other, 1e-12 * other[0].item())


def rank_spectrum_values_are_those_a_matrix_was_built_from(ask: Asking) -> None:
    sigmas = {size: stairs(ask, min(size)) for size in sizes(ask)}
    got = ask.w.ask([ask.star(SPECTRUM)(drawn(ask, *size, s)[0]) for size, s in sigmas.items()])
    off = worst([(g, s, s[0].item()) for g, s in zip(got, sigmas.values(), strict=True)])
    ask.hold(off < 1e-12, f"max|got - σ| / σ₁ = {off:.3g}", "< 1e-12")


def rank_spectrum_values_are_computed_in_float64(ask: Asking) -> None:
    a, b, c = (ask.rng.randint(1, 3) for _ in range(3))
    matrix, want = vector(a, 0, b, c).view(2, 2), _corner(a, b, c)
    got = ask.w.ask([ask.star(SPECTRUM)(matrix.to(dtype)) for dtype in DTYPES.values()])
    for dtype, one in zip(DTYPES, got, strict=True):
        ask.near(f"got - σ| for {dtype}: |", one, want, 1e-12 * want[0].item())
    doubles(ask, "each spectrum", *got)


def rank_spectrum_values_include_the_zeros(ask: Asking) -> None:
    calls, wants = [], []
    for size in sizes(ask) * 3:  # of one matrix, rounding may leave every zero above zero
        sigma, short = stairs(ask, 2), min(size)
        calls += [drawn(ask, *size, sigma)[0], torch.zeros(*size)]
        wants += [torch.cat((sigma, torch.zeros(short - 2))), torch.zeros(short)]
    got = ask.w.ask([ask.star(SPECTRUM)(one) for one in calls])
    lengths = [one.numel() for one in got]
    ask.see("values", lengths, [len(want) for want in wants])
    for one, want in zip(got, wants, strict=True):
        ask.near("got - (σ₁, σ₂, 0, …)", one, want.double(), 1e-6 * want[0].item())
    least = min(one.min().item() for one in got)
    ask.hold(least >= 0, f"the smallest = {least:.3g}", "≥ 0")


def rank_spectrum_values_refuse_what_is_no_finite_matrix(ask: Asking) -> None:
    calls = {kind: ask.star(SPECTRUM)(bad) for kind, bad in no_matrix(ask).items()}
    refused(ask, [(kind, call, ("delta",)) for kind, call in calls.items()])


# --- A3: the energy rank --------------------------------------------------------------------------


def rank_spectrum_energy_of_a_worked_spectrum(ask: Asking) -> None:
    # Each at most a third of the one before it, so that sums of σ reach the shares elsewhere.
    energies = [ask.rng.randint(1, 2)]
    for _ in range(ask.rng.randint(2, 3)):
        energies.insert(0, energies[0] * ask.rng.randint(3, 5))
    total = sum(energies)
    # Between what k - 1 and k values reach: no rounding decides.
    shares = [
        (sum(energies[:k]) - energies[k - 1] / 4) / total for k in range(1, len(energies) + 1)
    ]
    sigma = vector(*energies).sqrt() * ask.rng.choice((0.5, 1.0, 3.0))
    got = ask.w.ask([ask.star(ENERGY)(sigma, share) for share in shares])
    what = f"σ² = {energies}, shares {[round(share, 3) for share in shares]}: ranks"
    equal(ask, what, got, list(range(1, len(energies) + 1)))


def rank_spectrum_energy_counts_a_share_that_is_just_reached(ask: Asking) -> None:
    count = ask.rng.choice((4, 8))
    sigma = torch.full((count,), float(ask.rng.randint(1, 9)), dtype=torch.float64)
    shares = [k / count for k in range(1, count + 1)]
    got = ask.w.ask([ask.star(ENERGY)(sigma, share) for share in shares])
    equal(ask, f"{count} equal values, shares k / {count}: ranks", got, list(range(1, count + 1)))


def rank_spectrum_energy_share_is_nine_tenths_unless_told(ask: Asking) -> None:
    pair = (ask.rng.uniform(90.5, 94), ask.rng.uniform(86, 89.5))
    got = ask.w.ask([ask.star(ENERGY)(vector(one, 100 - one).sqrt()) for one in pair])
    equal(ask, f"σ² = (s, 100 - s), s = {pair[0]:.1f} and {pair[1]:.1f}: ranks", got, [1, 2])


def rank_spectrum_energy_of_zeros(ask: Asking) -> None:
    zeros, energy = torch.zeros(ask.rng.randint(1, 4), dtype=torch.float64), ask.star(ENERGY)
    # Energies whose shares sum to 1 in floating point, too: 9 / 10 + 1 / 10 and the like.
    pair = vector(*ask.rng.choice(((3, 1), (4, 2), (2, 1), (5, 5)))) * ask.rng.choice((0.5, 1, 2))
    got = ask.w.ask([energy(zeros), energy(torch.cat((pair, zeros)), 1.0)])
    equal(ask, "of zeros, of two values and zeros at share 1: ranks", got, [0, 2])


def rank_spectrum_energy_ignores_size_and_order(ask: Asking) -> None:
    values = [4.0, 2.0, 2.0, 1.0]  # energies 16, 4, 4, 1 of 25: three reach 0.96
    ask.rng.shuffle(values)
    if values[0] == 4.0:
        values.reverse()
    sigma, share = vector(*values), ask.rng.uniform(0.82, 0.94)
    scaled = [sigma * 2.0**power for power in (-ask.rng.randint(30, 45), 0, 40)]
    got = ask.w.ask([ask.star(ENERGY)(one, share) for one in (*scaled, sigma.float())])
    equal(ask, f"σ = {values} by 2ⁿ, share {share:.3f}: ranks", got, [3] * 4)


def rank_spectrum_energy_refuses_a_share_outside_0_1(ask: Asking) -> None:
    bads = (0, -ask.rng.choice((0.25, 0.5)), ask.rng.choice((1.25, 1.5, 2.5)), math.nan)
    sigma = vector(2, 1)
    calls = [(f"share={bad}", ask.star(ENERGY)(sigma, bad), ("share", f"{bad}")) for bad in bads]
    refused(ask, calls)


def rank_spectrum_energy_refuses_what_is_no_spectrum(ask: Asking) -> None:
    calls = {kind: ask.star(ENERGY)(bad) for kind, bad in no_spectrum(ask).items()}
    refused(ask, [(kind, call, ("spectrum",)) for kind, call in calls.items()])


# --- A4: the entropy rank -------------------------------------------------------------------------


def _entropies(ask: Asking, *spectra: Tensor) -> object:
    found: object = ask.w.ask([ask.star(ENTROPY)(one) for one in spectra])
    return found


def _effective(sigma: Sequence[float]) -> float:
    total = math.fsum(sigma)
    return math.exp(-math.fsum(s / total * math.log(s / total) for s in sigma if s))


def rank_spectrum_entropy_of_equal_values_is_their_number(ask: Asking) -> None:
    count, size = ask.rng.randint(2, 9), ask.rng.choice((0.75, 3.5, 7.5))
    got = _entropies(ask, *(torch.full((count,), one) for one in (2.0**-40, 1.0, size)))
    close(ask, f"of {count} equal values", got, [count] * 3, 1e-9)


def rank_spectrum_entropy_of_a_worked_spectrum(ask: Asking) -> None:
    sigma = sorted((float(ask.rng.randint(1, 9)) for _ in range(3)), reverse=True)
    sigma[0] += 10
    got = _entropies(ask, vector(*sigma) * ask.rng.choice((0.25, 1.0, 4.0)))
    close(ask, f"of {sigma}", got, [_effective(sigma)], 1e-9)


def rank_spectrum_entropy_of_zeros(ask: Asking) -> None:
    size, none = ask.rng.uniform(0.5, 5), [0.0] * ask.rng.randint(1, 4)
    spectra = ([size, *none], [size, size, *none], none)
    got = _entropies(ask, *(vector(*one) for one in spectra))
    close(ask, "of one, of two equal values and of none, with zeros", got, [1.0, 2.0, 0.0], 1e-9)


def rank_spectrum_entropy_refuses_what_is_no_spectrum(ask: Asking) -> None:
    calls = {kind: ask.star(ENTROPY)(bad) for kind, bad in no_spectrum(ask).items()}
    refused(ask, [(kind, call, ("spectrum",)) for kind, call in calls.items()])
