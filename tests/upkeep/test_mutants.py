"""Testing the tests: every planted bug dies, in a test of its own task."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from harness import LAB, REFERENCE, Mutant, killers, mutants, red, run_mutants

from minituner.grading.contract import ContractRun

pytestmark = pytest.mark.xdist_group("mutants")  # they share one run of them all
MUTANTS = mutants()
FAMILIES = ("init", "forward", "freeze", "wrap", "state", "merge")


@pytest.fixture(scope="module")
def runs() -> dict[str, ContractRun]:
    """Every mutant through the whole contract, all with one seed that changes from run to run."""
    return run_mutants(MUTANTS, seed=random.randrange(2**31))


def test_the_list_is_well_formed() -> None:
    """At least 60 mutants, 8 a family, unique names, one edit that occurs once, both languages."""
    families = Counter(mutant.family for mutant in MUTANTS)
    assert set(families) == set(FAMILIES)
    assert min(families.values()) >= 8
    assert len(MUTANTS) >= 60
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    reference = REFERENCE.read_text(encoding="utf-8")
    tasks = {task.id for task in LAB.tasks if task.kind == "code"}
    for mutant in MUTANTS:
        assert reference.count(mutant.old) == 1, f"{mutant.name}: old must occur exactly once"
        assert mutant.old != mutant.new, mutant.name
        assert mutant.killed_by in tasks, mutant.name
        assert mutant.pitfall.en.strip() and mutant.pitfall.es.strip(), mutant.name


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_it_dies_in_its_task(mutant: Mutant, runs: dict[str, ContractRun]) -> None:
    """The contract kills it in a test of the task it belongs to."""
    run = runs[mutant.name]
    assert not run.broken, run.broken
    assert killers(run, mutant.killed_by), f"survives {mutant.killed_by}; red: {sorted(red(run))}"


def test_every_contract_test_kills(runs: dict[str, ContractRun]) -> None:
    """A contract test that no mutant fails would be a test that cannot fail."""
    used = {name for run in runs.values() for name in red(run)}
    every = {name for task in LAB.tasks for name in task.tests}
    assert sorted(every - used) == []


def test_no_two_behave_alike(runs: dict[str, ContractRun]) -> None:
    """No two mutants fail the same tests with the same measured values at the same seed."""
    seen: dict[frozenset[tuple[str, str]], str] = {}
    for name, run in runs.items():
        signature = frozenset(red(run).items())
        assert signature not in seen, f"{name} behaves like {seen[signature]}"
        seen[signature] = name
