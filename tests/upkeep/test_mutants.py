"""Testing the tests: every planted bug dies, in a test of its own task."""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from functools import cache, partial
from pathlib import Path

import planting
import pytest
from harness import Mutant, draw_seeds, killers, mutants, red, run_mutants
from signs import table_of

from minituner.grading.contract import ContractRun
from minituner.grading.registry import ROOT, Lab, labs

FAMILIES = {
    "00": ("init", "forward", "freeze", "wrap", "state", "merge"),
    "01": ("parameters", "memory", "audit"),
    "02": ("data", "loop", "evaluation", "resume"),
    "03": ("spectrum", "factors", "subspaces", "budgets"),
    "04": ("conv1d", "parametrize", "unwrap", "folder", "several"),
}
LEAST = {"00": (60, 8)}  # mutants of the lab, of each family; a later lab's in LATER
LATER = (20, 3)
pytestmark = pytest.mark.long(30, untyped=True)
MUTANTS = {which.id: mutants(which) for which in labs().values()}
# A lab's bugs share one run of them all, so they stay with one process (groups.py).
every_lab = pytest.mark.parametrize("lab", labs().values(), ids=lambda lab: lab.id)
every_mutant = pytest.mark.parametrize(
    "mutant",
    [one for planted in MUTANTS.values() for one in planted],
    ids=lambda one: f"{one.lab.id}-{one.name}",
)


seeds = cache(partial(draw_seeds, least=1))  # the same for all bugs, which share a run of each


@cache
def runs(lab_id: str, seed: int) -> dict[str, ContractRun]:
    """Every mutant through its task's tests."""
    return run_mutants(MUTANTS[lab_id], seed)


@every_lab
def test_the_list_is_well_formed(lab: Lab) -> None:
    """Enough a lab and a family, unique names, one edit that occurs once, both languages."""
    planted = MUTANTS[lab.id]
    families = Counter(mutant.family for mutant in planted)
    assert set(families) == set(FAMILIES[lab.id])
    most, each = LEAST.get(lab.id, LATER)
    assert min(families.values()) >= each
    assert len(planted) >= most
    assert len({mutant.name for mutant in planted}) == len(planted)
    reference = (ROOT / lab.reference).read_text(encoding="utf-8")
    for mutant in planted:
        assert reference.count(mutant.old) == 1, f"{mutant.name}: old must occur exactly once"
        assert mutant.old != mutant.new, mutant.name
        assert mutant.killed_by in lab.code, mutant.name
        assert mutant.pitfall.en.strip() and mutant.pitfall.es.strip(), mutant.name


@pytest.mark.skipif(sys.platform != "linux", reason="forks what has torch")
@every_lab
def test_without_a_bug_the_same_road_is_green(lab: Lab, tmp_path: Path) -> None:
    """The reference in its own place passes every test, so that a red one is the bug's doing."""
    star = tmp_path / lab.star
    star.write_text((ROOT / lab.reference).read_text(encoding="utf-8"), encoding="utf-8")
    every = tuple(name for task in lab.tasks for name in task.tests)
    seed = random.randrange(2**31)
    first, again = planting.own_runs(lab, [planting.Trial(star, every)] * 2, seed)
    assert (red(first), red(again)) == ({}, {})
    assert set(first.tests) == set(again.tests) == set(every)


@pytest.mark.seeds
@every_mutant
def test_it_dies_in_its_task(mutant: Mutant) -> None:
    """The contract kills it in a test of the task it belongs to, on each seed."""
    for seed in seeds():
        run = runs(mutant.lab.id, seed)[mutant.id]
        assert not run.broken, run.broken
        assert set(run.tests) == {*mutant.own_tests, *mutant.also}
        assert killers(run, mutant), f"survives {mutant.killed_by} on seed {seed}; {red(run)}"
        assert set(mutant.also) <= set(red(run)), f"survives one of {mutant.also} on seed {seed}"


@every_lab
def test_every_contract_test_kills(lab: Lab) -> None:
    """A contract test that no mutant fails would be a test that cannot fail."""
    used = {name for run in runs(lab.id, seeds()[0]).values() for name in red(run)}
    every = {name for task in lab.tasks for name in task.tests}
    assert sorted(every - used) == []


@every_lab
def test_a_few_die_in_the_whole_contract(lab: Lab) -> None:
    """Drawn anew each time: what other tests do before changes nothing."""
    few = random.sample(MUTANTS[lab.id], 8)
    found = run_mutants(few, seed=random.randrange(2**31), whole=True)
    for mutant in few:
        assert killers(found[mutant.id], mutant), f"{mutant.id} survives {mutant.killed_by}"


@every_lab
def test_no_two_behave_alike(lab: Lab) -> None:
    """Two mutants show other values in the exam's checks or, where not, in the whole contract.

    There a value is shown to two digits, which may be the same by chance: on three seeds in a row
    they are not.
    """
    signs = json.loads(table_of(lab).read_text(encoding="utf-8"))["signs"]
    alike: dict[str, list[Mutant]] = {}
    for mutant in MUTANTS[lab.id]:
        alike.setdefault(json.dumps(signs[mutant.name], sort_keys=True), []).append(mutant)
    for group in (group for group in alike.values() if len(group) > 1):
        assert any(_differ(group, random.randrange(2**31)) for _ in range(3)), group


def _differ(group: list[Mutant], seed: int) -> bool:
    """Whether each of them is red in another way."""
    found = run_mutants(group, seed=seed, whole=True)
    return len({frozenset(red(run).items()) for run in found.values()}) == len(group)
