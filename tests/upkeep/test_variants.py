"""A right answer refused is as bad as a wrong one accepted: other people's styles, all green."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from harness import LAB, REFERENCE, lab_of, run_seeds, variants

from minituner.grading.gates import Source, check_source, intake
from minituner.grading.registry import ROOT, Lab, labs
from minituner.grading.tools import check_types

SEEDS = 20
LEAST = {"00": 12}  # a later lab: 6
STYLES = [path for which in labs().values() for path in variants(which)]
ids = [f"{path.stem}-{path.parent.name}" for path in STYLES]
every_lab = pytest.mark.parametrize("lab", labs().values(), ids=lambda lab: lab.id)


@every_lab
def test_there_are_enough(lab: Lab) -> None:
    """Styles of several people."""
    assert len(variants(lab)) >= LEAST.get(lab.id, 6)


@pytest.mark.parametrize("path", STYLES, ids=ids)
def test_it_passes_the_contract(path: Path) -> None:
    """Every test, on twenty seeds."""
    seeds = [random.randrange(2**31) for _ in range(SEEDS)]
    assert run_seeds(path, seeds) == {seed: {} for seed in seeds}


@pytest.mark.parametrize("path", STYLES, ids=ids)
def test_it_passes_the_gates(path: Path) -> None:
    """Imports, names, checkers, bare Parameters, and mypy --strict."""
    source = intake(path)
    assert isinstance(source, Source)
    found = [gate for gate in check_source(source, lab_of(path)) if gate.outcome != "passed"]
    assert found == []
    assert check_types(path, source.text).findings == ()


@every_lab
def test_the_reference_passes_fifty_seeds(lab: Lab) -> None:
    """Fifty runs with different seeds and shuffles, all green."""
    seeds = [random.randrange(2**31) for _ in range(50)]
    assert run_seeds(ROOT / lab.reference, seeds) == {seed: {} for seed in seeds}


def test_a_wrong_answer_is_red_on_every_seed(tmp_path: Path) -> None:
    """The same runner sees a wrong scale, so that its green means something."""
    path = tmp_path / LAB.star
    text = REFERENCE.read_text(encoding="utf-8")
    path.write_text(text.replace("out + self.scaling * update", "out + update"), encoding="utf-8")
    assert all(run_seeds(path, [1, 2, 3]).values())
