"""Each planted bug through the tests of its task, in a fork of a contract that is collected once.

To set pytest up and collect takes three quarters of so short a run. A fork puts the bug's file in
the reference's place: in sys.modules, and under each name that the contract imported from it. What
a learner's run does otherwise, collect with the file itself, a few bugs go through with every run
of the tests (test_mutants.py).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from minituner.grading import relay
from minituner.grading.child import start
from minituner.grading.contract import ContractRun, _name, _State
from minituner.grading.registry import ROOT, Lab
from minituner.standin import stand_in

SECONDS = 60  # for one bug's tests; they take a tenth of a second


@dataclass(frozen=True)
class Trial:
    """A file, and which tests of its lab's contract it meets."""

    star: Path
    tests: tuple[str, ...]


def own_runs(lab: Lab, trials: Sequence[Trial], seed: int) -> list[ContractRun]:
    """What came of each, in the trials' order; one that ended or hung has results missing."""
    ours, child = start("planting:_child", lab, trials, seed)
    runs = []
    for trial in trials:
        state, run = _State(trial.tests), ContractRun()
        for line in json.loads(ours.recv_bytes()):
            state.take(run, json.loads(line))
        runs.append(run)
    child.join()
    return runs


def _child(wire: Connection, lab: Lab, trials: Sequence[Trial], seed: int) -> None:
    relay.hush(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        args = [lab.contract, f"--impl={ROOT / lab.reference}", f"--randomly-seed={seed}"]
        args += ["--device=cpu", f"--basetemp={folder}/t"]
        pytest.main([*args, *relay.PLUGINS, "-q"], plugins=[Forked(wire, lab, trials)])


class Forked:
    """A pytest plugin that runs what was collected once a trial, each time in a fork."""

    def __init__(self, wire: Connection, lab: Lab, trials: Sequence[Trial]) -> None:
        self.wire, self.lab, self.trials = wire, lab, trials

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        for trial in self.trials:
            heard, telling = multiprocessing.Pipe(duplex=False)
            child = os.fork()
            if child == 0:
                try:
                    signal.alarm(SECONDS)
                    self._run(session, trial, telling)
                finally:
                    os._exit(0)
            telling.close()
            lines = []
            try:
                while True:
                    lines.append(heard.recv_bytes().decode())
            except EOFError:
                heard.close()
            os.waitpid(child, 0)
            self.wire.send_bytes(json.dumps(lines).encode())
        return True

    def _run(self, session: pytest.Session, trial: Trial, telling: Connection) -> None:
        """The trial's tests on its file; in a fork of its own."""
        session.config.pluginmanager.register(relay.Relay(telling, trial.star))
        items = [item for item in session.items if _name(item.nodeid) in trial.tests]
        self._put_in_place(trial.star, items[0])
        for item, following in zip(items, [*items[1:], None], strict=True):
            item.ihook.pytest_runtest_protocol(item=item, nextitem=following)

    def _put_in_place(self, star: Path, item: pytest.Item) -> None:
        reference = sys.modules[self.lab.module]
        stand_in({self.lab.module: star})
        planted = import_module(self.lab.module)
        assert isinstance(item, pytest.Function)
        contract = vars(item.module)
        for name, value in vars(reference).items():
            if not name.startswith("__") and contract.get(name) is value:
                contract[name] = getattr(planted, name)
