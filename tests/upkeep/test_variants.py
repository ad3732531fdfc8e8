"""A right answer refused is as bad as a wrong one accepted: other people's styles, all green."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from harness import LAB, REFERENCE, VARIANTS, run_seeds

from minituner.grading.gates import Source, check_source, intake
from minituner.grading.tools import check_types

SEEDS = 20
ids = [path.parent.name for path in VARIANTS]


def test_there_are_enough() -> None:
    """At least twelve styles."""
    assert len(VARIANTS) >= 12


@pytest.mark.parametrize("path", VARIANTS, ids=ids)
def test_it_passes_the_contract(path: Path) -> None:
    """Every test, on twenty seeds."""
    seeds = [random.randrange(2**31) for _ in range(SEEDS)]
    assert run_seeds(path, seeds) == {seed: {} for seed in seeds}


@pytest.mark.parametrize("path", VARIANTS, ids=ids)
def test_it_passes_the_gates(path: Path) -> None:
    """Imports, names, checkers, bare Parameters, and mypy --strict."""
    source = intake(path)
    assert isinstance(source, Source)
    found = [gate for gate in check_source(source, LAB) if gate.outcome != "passed"]
    assert found == []
    assert check_types(path, source.text).findings == ()


def test_the_reference_passes_fifty_seeds() -> None:
    """Fifty runs with different seeds and shuffles, all green."""
    seeds = [random.randrange(2**31) for _ in range(50)]
    assert run_seeds(REFERENCE, seeds) == {seed: {} for seed in seeds}


def test_a_wrong_answer_is_red_on_every_seed(tmp_path: Path) -> None:
    """The same runner sees a wrong scale, so that its green means something."""
    path = tmp_path / LAB.star
    text = REFERENCE.read_text(encoding="utf-8")
    path.write_text(text.replace("out + self.scaling * update", "out + update"), encoding="utf-8")
    assert all(run_seeds(path, [1, 2, 3]).values())
