"""Runs the contract on many files at once: mutants, variants, and the reference over many seeds.

Uses the grader's own runner, so what is proved here is what learners get; where a bug meets its own
task's tests alone, planting.py collects once for many. Prints the two tables:

    python tests/upkeep/harness.py mutants          every lab's; or: mutants 01
    python tests/upkeep/harness.py variants
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import tomllib
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from inspect import signature
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import planting
import pytest

from minituner.grading import relay
from minituner.grading.child import expect_many, start
from minituner.grading.contract import ContractRun, _name, run_contract
from minituner.grading.registry import ROOT, Both, Lab, lab, labs

LAB = lab("00")  # what the tests of the grader itself grade
REFERENCE = ROOT / LAB.reference
expect_many()
# Each xdist worker is one of the cores already.
WORKERS = 1 if "PYTEST_XDIST_WORKER" in os.environ else os.cpu_count() or 1


@dataclass(frozen=True)
class Mutant:
    """One planted bug: `old` occurs once in the lab's reference and becomes `new`."""

    lab: Lab
    name: str
    family: str
    pitfall: Both
    old: str
    new: str
    killed_by: str
    also: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Told apart from other labs' bugs."""
        return self.name if self.lab == LAB else f"{self.lab.id}-{self.name}"

    @property
    def own_tests(self) -> tuple[str, ...]:
        """Those of the task that it has to die in."""
        return self.lab.task(self.killed_by).tests

    def source(self) -> str:
        text = (ROOT / self.lab.reference).read_text(encoding="utf-8")
        return text.replace(self.old, self.new, 1)


def planted(which: Lab) -> Path:
    """The table of a lab's bugs."""
    return (ROOT / "tests/mutants" / which.star).with_suffix(".toml")


def mutants(which: Lab = LAB) -> list[Mutant]:
    rows = tomllib.loads(planted(which).read_text(encoding="utf-8"))["mutant"]
    return [_mutant(which, row) for row in rows]


def _mutant(which: Lab, row: dict[str, Any]) -> Mutant:  # Any: TOML
    both, also = Both(**row["pitfall"]), tuple(row.get("also", ()))
    return Mutant(which, **(row | {"pitfall": both, "also": also}))


def variants(which: Lab = LAB) -> list[Path]:
    """Right answers in other people's styles."""
    return sorted((ROOT / "tests/upkeep/variants").glob(f"*/{which.star}"))


def lab_of(star: Path) -> Lab:
    """The lab that a ★ file belongs to, by its name."""
    return next(one for one in labs().values() if one.star == star.name)


@dataclass(frozen=True)
class Job:
    """A file to run the contract of its lab on."""

    star: Path
    seed: int

    def run(self) -> ContractRun:
        return run_contract(lab_of(self.star), self.star, seed=self.seed)


def run_all(jobs: Sequence[Job]) -> list[ContractRun]:
    """A few at a time; results in the jobs' order."""
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(Job.run, jobs))


def draw_seeds(least: int) -> list[int]:
    """So many, drawn anew in each run of the tests; more where MINITUNER_SEEDS says so."""
    return random.sample(range(2**31), max(least, int(os.environ.get("MINITUNER_SEEDS") or 0)))


def run_seeds(path: Path, seeds: Sequence[int]) -> dict[int, dict[str, str]]:
    """The red tests by seed; one child runs them all, since a right answer needs no fresh one."""
    ours, child = start("harness:_child_of_many_seeds", path, seeds)
    found: dict[int, dict[str, str]] = json.loads(ours.recv_bytes(), object_hook=_int_keys)
    child.join()
    return found


def _int_keys(row: dict[str, Any]) -> dict[Any, Any]:
    return {int(k) if k.isdigit() else k: v for k, v in row.items()}


def _child_of_many_seeds(wire: Connection, path: Path, seeds: Sequence[int]) -> None:
    relay.hush(ROOT)
    which, every = lab_of(path), Seeds(seeds)
    with tempfile.TemporaryDirectory() as folder:
        args = [which.contract, "--device=cpu", f"--impl={path}", f"--basetemp={folder}/t"]
        pytest.main([*args, *relay.PLUGINS, "-q"], plugins=[every])
    found, orders = {}, set[tuple[str, ...]]()
    for seed, heard in every.heard.items():
        assert not heard.order or tuple(heard.order) not in orders, "two seeds, one order"
        orders.add(tuple(heard.order))
        unheard = {name: "no result" for task in which.tasks for name in task.tests}
        unheard = {name: why for name, why in unheard.items() if name not in heard.passed}
        found[seed] = unheard | heard.red
    wire.send_bytes(json.dumps(found).encode())


class Heard:
    """What passed and what did not."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.passed: set[str] = set()
        self.red: dict[str, str] = {}

    def take(self, report: pytest.TestReport) -> None:
        name = _name(report.nodeid)
        if report.when == "call":
            self.order.append(name)
        if report.outcome != "passed":
            self.red[name] = str(report.longrepr)[-1000:]
        elif report.when == "call":
            self.passed.add(name)

    def call(self, item: pytest.Item, test: Callable[[], None]) -> None:
        """Run it without pytest."""
        name = _name(item.nodeid)
        self.order.append(name)
        try:
            test()
            self.passed.add(name)
        except BaseException as error:
            self.red[name] = repr(error)[:1000]


class Seeds:
    """A pytest plugin that runs what was collected once a seed, in each seed's order.

    To collect again for each would take a quarter of the time. From the second seed on a test that
    asks for nothing but its parameters is seeded as conftest.py does, and called: what pytest does
    around it would take a tenth of what is left. The filters of warnings are as ever; a thread's
    exception is heard of in the first seed's run alone.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.heard = {seed: Heard() for seed in seeds}
        self.now = Heard()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        if session.testsfailed:  # nothing was collected: every test is without a result
            return None
        config = session.config
        plain = dict[pytest.Item, Callable[[], None]]()
        for seed, heard in self.heard.items():
            self.now, config.option.randomly_seed = heard, seed
            config.hook.pytest_collection_modifyitems(
                session=session, config=config, items=session.items
            )
            for item, following in zip(session.items, [*session.items[1:], None], strict=True):
                if item in plain:
                    heard.call(item, plain[item])
                    continue
                item._initrequest()  # type: ignore[attr-defined]  # as plugins that repeat tests do
                item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
            plain = plain or {item: call for item in session.items if (call := _alone(item))}
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.now.take(report)


def _alone(item: pytest.Item) -> Callable[[], None] | None:
    """A test with its parameters, seeded before; None where it asks for more."""
    assert isinstance(item, pytest.Function)
    given = item.callspec.params if hasattr(item, "callspec") else {}
    around = {"seed", "request"}  # for every test, and asked for by none
    wanted = signature(item.obj).parameters.keys()
    other = any(map(item.get_closest_marker, ("xfail", "skip", "skipif")))
    ignored = [line for mark in item.iter_markers("filterwarnings") for line in mark.args]
    if other or given.keys() != wanted or set(item.fixturenames) - wanted - around:
        return None
    conftest = item.config.pluginmanager.get_plugin(str(ROOT / "conftest.py"))
    assert conftest is not None

    def call() -> None:
        conftest.seed_for(item.config, item.name)
        with warnings.catch_warnings():
            for line in ignored:
                action, message = line.split(":")
                warnings.filterwarnings(action, message)
            item.obj(**given)

    return call


def run_mutants(chosen: Sequence[Mutant], seed: int, whole: bool = False) -> dict[str, ContractRun]:
    """Each of a lab's bugs through its task's tests, or through the whole contract; by id."""
    with tempfile.TemporaryDirectory() as folder:
        stars = []
        for mutant in chosen:
            path = Path(folder) / mutant.id / mutant.lab.star
            path.parent.mkdir()
            path.write_text(mutant.source(), encoding="utf-8")
            stars.append(path)
        own = [(*mutant.own_tests, *mutant.also) for mutant in chosen]
        if sys.platform == "linux" and not whole:
            trials = [planting.Trial(star, tests) for star, tests in zip(stars, own, strict=True)]
            runs = planting.own_runs(chosen[0].lab, trials, seed)
        else:
            runs = run_all([Job(star, seed) for star in stars])
            for run, tests in zip(runs, own, strict=True):
                if not whole:  # where it is unsafe to fork what has torch
                    run.tests = {name: run.tests[name] for name in tests if name in run.tests}
    return {mutant.id: run for mutant, run in zip(chosen, runs, strict=True)}


def red(run: ContractRun) -> dict[str, str]:
    """Test name -> message, for every test that is not passed."""
    return {name: t.message for name, t in run.tests.items() if t.outcome != "passed"}


def killers(run: ContractRun, mutant: Mutant) -> list[str]:
    """The red tests of its task."""
    return [name for name in mutant.own_tests if name in red(run)]


def _table(kind: str, which: Lab, seed: int) -> Iterable[str]:
    if kind == "mutants":
        planted = mutants(which)
        runs = run_mutants(planted, seed, whole=True)
        mine = {mutant.id: len(killers(runs[mutant.id], mutant)) for mutant in planted}
        for mutant in planted:
            count, task = mine[mutant.id], mutant.killed_by
            verdict = f"killed by {count} of {task}" if count else "SURVIVES"
            yield f"{mutant.family:8} {mutant.id:44} {verdict}, {len(red(runs[mutant.id]))} red"
        killed = sum(map(bool, mine.values()))
        yield f"lab {which.id}: {killed} of {len(runs)} mutants killed in their task (seed {seed})"
    else:
        styles = variants(which)
        for path, run in zip(styles, run_all([Job(v, seed) for v in styles]), strict=True):
            passed = sum(t.outcome == "passed" for t in run.tests.values())
            yield f"{which.id} {path.parent.name:32} {passed} of {len(run.tests)} (seed {seed})"


if __name__ == "__main__":
    for each in [lab(one) for one in sys.argv[2:]] or labs().values():
        for line in _table(sys.argv[1], each, seed=1):
            print(line, flush=True)
