"""The facts of theory/06-low-rank: closed forms, numpy as an independent SVD, measured medians.

Source: theory_facts.py, which has the other pages; what is quoted stands in constants with its
place. Leaves out: the experiment's findings, which are read from its figures.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable
from typing import Any  # numpy's own parameter: any width of float

import numpy as np
import numpy.typing as npt
import torch
from theory_facts_rank_findings import finding_facts
from theory_facts_rank_steps import scales, zeros
from theory_numbers import ROOT, About, Fact, fact
from torch import nn

from minituner.minigpt import MiniGPT, MiniGPTConfig

Array = npt.NDArray[np.floating[Any]]

# Quoted. arXiv:2405.09673, abstract; arXiv:2106.09685 §7.1, WikiSQL, and §7.2.
TIMES = (10, 100)
WIKISQL = {"q": 70.4, "k": 70.0, "v": 73.0, "o": 73.2, "q, k": 71.4, "q, v": 73.7}
WIKISQL |= {"q, k, v, o": 73.7}
SEEDS_APART, TOP = 0.5, 0.5
GPT3, GPT3_LAYERS, GPT3_R, LARGER_R = 12_288, 96, 8, 64
R, DRAWS = 8, 100
SHARE = 0.9


def rank_facts() -> list[Fact]:
    """theory/06-low-rank.md"""
    return [
        fact("10–100 ×", *TIMES),
        *values(),
        *counting(),
        *factors(),
        *directions(),
        *budgets(),
        *scales(),
        *zeros(),
        *finding_facts(),
        *questions(),
    ]


def entropy(values: Array) -> float:
    """exp of the entropy of values / Σ values."""
    p = values[values > 0] / values.sum()
    return math.exp(-float((p * np.log(p)).sum()))


def energy(sigma: Array, share: float = SHARE) -> int:
    """The first k with at least share of all σ²."""
    reached = np.cumsum(sigma**2) / (sigma**2).sum()
    return int(np.argmax(reached >= share)) + 1


def example() -> tuple[Array, Array, Array, Array]:
    """The page's matrix, and its u (columns), σ, vᵀ, with v's first entry positive."""
    matrix = np.array([[3.0, 0.0], [4.0, 5.0]])
    left, sigma, right = np.linalg.svd(matrix)
    signs = np.sign(right[:, 0])
    return matrix, left * signs, sigma, right * signs[:, None]


def values() -> list[Fact]:
    """The first section: a worked matrix, and what the eigenvalues lose."""
    matrix, left, sigma, right = example()
    gram = matrix.T @ matrix
    (one, two), root = np.linalg.eigvalsh(gram)[::-1], math.sqrt(0.5)
    squares = [float(x) for x in (matrix**2).flatten() if x]
    thirds = left * math.sqrt(10)
    source = (ROOT / "solutions/rank.py").read_text(encoding="utf-8")
    (tolerance,) = re.finditer(r"^RANK_TOLERANCE = (\S+)", source, re.M)
    eps, eps32 = torch.finfo(torch.float64).eps, torch.finfo(torch.float32).eps
    v1, v2 = (right / root)[0], (right / root)[1]
    return [
        fact("ΔW = [[3, 0], [4, 5]]", *matrix.flatten()),
        fact("ΔWᵀ ΔW = [[25, 20], [20, 25]]", *gram.flatten()),
        fact("σ₁ = √45 ≈ 6.708", one, sigma[0]),
        fact("σ₂ = √5 ≈ 2.236", two, sigma[1]),
        fact("v₁ = [1, 1] / √2", *v1, 1 / root**2),
        fact("v₂ = [1, -1] / √2", *v2, 1 / root**2),
        fact("u₁ = [1, 3] / √10", *thirds[:, 0], 10),
        fact("u₂ = [3, -1] / √10", *thirds[:, 1], 10),
        fact("45 + 5 = 9 + 16 + 25 = 50", one, two, *squares, sum(squares)),
        fact("ε = 2.2e-16", eps),
        fact("√ε = 1.5e-8", math.sqrt(eps)),
        fact("= 1e-6 · σ₁", float(tolerance[1])),
        fact("1.2e-7", eps32),
    ]


def median(draw: Callable[[], Array]) -> tuple[float, float]:
    """(energy rank, entropy rank) of the median matrix among DRAWS."""
    spectra = [np.linalg.svd(draw(), compute_uv=False) for _ in range(DRAWS)]
    return statistics.median(map(energy, spectra)), statistics.median(map(entropy, spectra))


def counting() -> list[Fact]:
    """Energy and entropy rank, of a worked spectrum and of random matrices."""
    sigma = np.array([4.0, 2.0, 2.0, 1.0])
    share = np.cumsum(sigma**2) / (sigma**2).sum()
    total = sigma.sum()
    random = np.random.default_rng(0)

    def noise() -> Array:
        return random.standard_normal((64, 64))

    def product() -> Array:
        return random.standard_normal((64, R)) @ random.standard_normal((R, 64))

    plain, low, mixed = median(noise), median(product), median(lambda: product() + 0.5 * noise())
    assert 2.5 < mixed[1] / low[1] < 3.0, "the page says: nearly triples"
    same = np.ones(64)
    rows = [
        fact(f"| {k} | {s:g} | {s * s:g} | {share[k - 1]:.2f} |", k, s, s * s, share[k - 1])
        for k, s in enumerate(sigma, 1)
    ]
    return [
        fact("σ = (4, 2, 2, 1)", *sigma),
        *rows,
        fact("energy_rank(σ, 0.9) = 3", SHARE, energy(sigma)),
        fact("p = 4/9, 2/9, 2/9, 1/9", *(x for s in sigma for x in (s, total))),
        fact("entropy_rank(σ) = 3.57", entropy(sigma)),
        fact("2.72", entropy(sigma**2)),
        fact("64 × 64", 64, 64),
        fact("share = 0.9", SHARE),
        fact("| I | 58 | 64 |", energy(same), entropy(same)),
        fact("| N(0, 1) | ≈ 33 | ≈ 51 |", About(plain[0], 2), About(plain[1], 2)),
        fact("| B A, r = 8 | ≈ 7 | ≈ 7.7 |", R, About(low[0]), About(low[1], 2)),
        fact("| B A + 0.5 · N(0, 1) | ≈ 7 | ≈ 22 |", 0.5, About(mixed[0]), About(mixed[1], 2)),
    ]


def factors() -> list[Fact]:
    """Eckart and Young on the worked matrix, and its balanced factors at scaling 2."""
    matrix, left, sigma, right = example()
    best = sigma[0] * np.outer(left[:, 0], right[0])
    rest, s = matrix - best, 2.0
    half = math.sqrt(sigma[0] / s)
    A, B = half * right[0], half * left[:, 0]
    return [
        fact("r = 1", 1),
        fact("σ₁ u₁ v₁ᵀ = [[1.5, 1.5], [4.5, 4.5]]", *best.flatten()),
        fact("ΔW - σ₁ u₁ v₁ᵀ = [[1.5, -1.5], [-0.5, 0.5]]", *rest.flatten()),
        fact(
            "√(2.25 + 2.25 + 0.25 + 0.25) = √5 = σ₂",
            *(rest**2).flatten(),
            float((rest**2).sum()),
        ),
        fact("s = 2", s),
        fact("√(σ₁ / s) = 1.831", half),
        fact("A = [[1.295, 1.295]]", *A),
        fact("B = [[0.579], [1.737]]", *B),
        fact("s B A = [[1.5, 1.5], [4.5, 4.5]]", *(s * np.outer(B, A)).flatten()),
    ]


def directions() -> list[Fact]:
    """φ by hand, and by chance."""
    cosines = (0.6, 0.8)
    first, second = (c * c for c in cosines)
    random, side = np.random.default_rng(0), 64

    def chance(i: int) -> float:
        """The mean φ(i, i) of random subspaces."""
        found = []
        for _ in range(400):
            u, v = (np.linalg.qr(random.standard_normal((side, i))).Q for _ in range(2))
            found.append(float(((u.T @ v) ** 2).sum()) / i)
        return statistics.mean(found)

    assert abs(chance(8) * side / 8 - 1) < 0.05 and abs(chance(2) * side / 2 - 1) < 0.2
    return [
        fact("φ(1, 1) = 0.6² = 0.36", 1, 1, cosines[0], first),
        fact("0.6,", cosines[0]),
        fact("0.8,", cosines[1]),
        fact("φ(2, 2) = (0.36 + 0.64) / 2 = 0.5", 2, 2, first, second, 2, (first + second) / 2),
        fact("1 / in", 1),
        fact("in = 64", side),
        fact("1 / 64 = 0.016", 1, side, 1 / side),
        fact("φ(1, 1)", 1, 1),
        fact("8 / 64 = 0.125", R, side, R / side),
        fact("φ(8, 8)", R, R),
        fact("in = 12 288", GPT3),
        fact("0.00065", R / GPT3),
        fact("0.125", R / side),
        fact("φ(1, 1) > 0.5", 1, 1, TOP),
    ]


def price(targets: tuple[str, ...]) -> int:
    """What rank 1 costs on the default MiniGPT."""
    return sum(
        module.in_features + module.out_features
        for name, module in MiniGPT(MiniGPTConfig()).named_modules()
        if isinstance(module, nn.Linear) and name.endswith(targets)
    )


def budgets() -> list[Fact]:
    """The paper's budget and MiniGPT's."""
    paper, side = GPT3_R * GPT3_LAYERS * (GPT3 + GPT3), MiniGPTConfig().d_model
    rows = []
    for targets, accuracy in WIKISQL.items():
        r = paper // (len(targets.split(", ")) * GPT3_LAYERS * 2 * GPT3)
        rows.append(fact(f"| {targets} | {r} | {accuracy} |", r, accuracy))
    qkvo, mlp = ("q_proj", "k_proj", "v_proj", "o_proj"), ("mlp.fc1", "mlp.fc2")
    sets = (("q_proj", "v_proj"), qkvo, mlp, (*qkvo, *mlp))
    budget = R * price(sets[-1])
    ranks = [budget // price(targets) for targets in sets]
    spent = [r * price(targets) for r, targets in zip(ranks, sets, strict=True)]
    return [
        fact("8 · 96 · (12 288 + 12 288) = 18 874 368", GPT3_R, GPT3_LAYERS, GPT3, GPT3, paper),
        fact("12 288 × 12 288", GPT3, GPT3),
        *rows,
        fact("± 0.5", SEEDS_APART),
        fact("36 864:", budget),
        fact("| q, v | 36 | 36 864 |", ranks[0], spent[0]),
        fact("| q, k, v, o | 18 | 36 864 |", ranks[1], spent[1]),
        fact("| fc1, fc2 | 14 | 35 840 |", ranks[2], spent[2]),
        fact("| 8 | 36 864 |", ranks[3], spent[3]),
        fact("r = 36", ranks[0]),
        fact("36 · (64 + 64) = 4608", ranks[0], side, side, ranks[0] * 2 * side),
        fact("64 · 64 = 4096", side, side, side * side),
    ]


def questions() -> list[Fact]:
    """What the last section asks; φ there is a made-up measurement, just above chance."""
    noise = median(lambda: np.random.default_rng(1).standard_normal((64, 64)))[0]
    return [
        fact("energy_rank(σ, 0.9) = 33", SHARE, About(noise, 2)),
        fact("φ(8, 8) = 0.13", R, R, 0.13),
        fact("r = 8", R),
    ]
