"""Runs the contract on many files at once: mutants, variants, and the reference over many seeds.

Uses the grader's own runner, so what is proved here is what learners get. Prints the two tables:

    python tests/upkeep/harness.py mutants
    python tests/upkeep/harness.py variants
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from minituner.grading import relay
from minituner.grading.child import start
from minituner.grading.contract import ContractRun, run_contract
from minituner.grading.registry import ROOT, Both, lab

LAB = lab("00")
REFERENCE = ROOT / LAB.reference
VARIANTS = sorted((ROOT / "tests/upkeep/variants").glob("*/lora.py"))
# Each xdist worker is one of the cores already.
WORKERS = 1 if "PYTEST_XDIST_WORKER" in os.environ else os.cpu_count() or 1


@dataclass(frozen=True)
class Mutant:
    """One planted bug: `old` occurs once in the reference and becomes `new`."""

    name: str
    family: str
    pitfall: Both
    old: str
    new: str
    killed_by: str

    def source(self) -> str:
        return REFERENCE.read_text(encoding="utf-8").replace(self.old, self.new, 1)


def mutants() -> list[Mutant]:
    rows = tomllib.loads((ROOT / "tests/mutants/lora.toml").read_text(encoding="utf-8"))["mutant"]
    return [Mutant(**(row | {"pitfall": Both(**row["pitfall"])})) for row in rows]


def run_all(jobs: Sequence[tuple[Path, int]]) -> list[ContractRun]:
    """The contract on each (file, seed), a few at a time; results in the jobs' order."""
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(lambda job: run_contract(LAB, job[0], seed=job[1]), jobs))


def run_seeds(path: Path, seeds: Sequence[int]) -> dict[int, dict[str, str]]:
    """The red tests by seed; one child runs them all, since a right answer needs no fresh one."""
    ours, child = start(_child_of_many_seeds, path, seeds)
    found: dict[int, dict[str, str]] = json.loads(ours.recv_bytes(), object_hook=_int_keys)
    child.join()
    return found


def _int_keys(row: dict[str, Any]) -> dict[Any, Any]:
    return {int(k) if k.isdigit() else k: v for k, v in row.items()}


def _child_of_many_seeds(wire: Connection, path: Path, seeds: Sequence[int]) -> None:
    relay.hush(ROOT)
    found = {}
    for seed in seeds:
        heard = Heard()
        args = [LAB.contract, "--device=cpu", f"--impl={path}", f"--randomly-seed={seed}"]
        with tempfile.TemporaryDirectory() as folder:
            args.append(f"--basetemp={folder}/t")
            pytest.main([*args, *relay.PLUGINS, "-q"], plugins=[heard])
        unheard = {name: "no result" for task in LAB.tasks for name in task.tests}
        unheard = {name: why for name, why in unheard.items() if name not in heard.passed}
        found[seed] = unheard | heard.red
    wire.send_bytes(json.dumps(found).encode())


class Heard:
    """A pytest plugin that keeps what passed and what did not."""

    def __init__(self) -> None:
        self.passed: set[str] = set()
        self.red: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.rpartition("::")[2].removesuffix("[cpu]")
        if report.outcome != "passed":
            self.red[name] = str(report.longrepr)[-1000:]
        elif report.when == "call":
            self.passed.add(name)


def run_mutants(chosen: Sequence[Mutant], seed: int) -> dict[str, ContractRun]:
    with tempfile.TemporaryDirectory() as folder:
        jobs = []
        for mutant in chosen:
            path = Path(folder) / mutant.name / LAB.star
            path.parent.mkdir()
            path.write_text(mutant.source(), encoding="utf-8")
            jobs.append((path, seed))
        runs = run_all(jobs)
    return {mutant.name: run for mutant, run in zip(chosen, runs, strict=True)}


def red(run: ContractRun) -> dict[str, str]:
    """Test name -> message, for every test that is not passed."""
    return {name: t.message for name, t in run.tests.items() if t.outcome != "passed"}


def killers(run: ContractRun, task: str) -> list[str]:
    """The red tests of one task."""
    return [name for name in LAB.task(task).tests if name in red(run)]


def _table(kind: str, seed: int) -> Iterable[str]:
    if kind == "mutants":
        runs = run_mutants(mutants(), seed)
        for mutant in mutants():
            run = runs[mutant.name]
            mine = len(killers(run, mutant.killed_by))
            verdict = f"killed by {mine} of {mutant.killed_by}" if mine else "SURVIVES"
            yield f"{mutant.family:8} {mutant.name:44} {verdict}, {len(red(run))} tests red"
        killed = sum(bool(killers(runs[m.name], m.killed_by)) for m in mutants())
        yield f"{killed} of {len(runs)} mutants killed, each in its task (seed {seed})"
    else:
        for path, run in zip(VARIANTS, run_all([(v, seed) for v in VARIANTS]), strict=True):
            passed = sum(t.outcome == "passed" for t in run.tests.values())
            yield f"{path.parent.name:32} {passed} of {len(run.tests)} tests pass (seed {seed})"


if __name__ == "__main__":
    for line in _table(sys.argv[1], seed=int(sys.argv[2]) if len(sys.argv) > 2 else 1):
        print(line)
