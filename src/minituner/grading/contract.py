"""Runs a lab's contract on one file, in a child process that may crash, hang or exit.

The child is forked from a server that has torch and pytest loaded (Linux), else started afresh.
The verdict counts required test ids one by one: no exit code is trusted, no output is parsed.
Leaves out: isolation. The child is the learner's own machine (practice); the exam is elsewhere.
"""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from minituner.grading.child import IMPORT_SLACK, OnChild, end, start
from minituner.grading.registry import ROOT, Lab
from minituner.grading.report import Result
from minituner.words import say

START_SECONDS = 120.0  # importing torch on a cold disk
TEST_SECONDS = 10.0  # an honest test takes milliseconds
RELAY = "minituner.grading.relay:main"  # the child's side
PATIENCE = 2  # how many tests may end or hang the process before the rest is left unrun


@dataclass
class ContractRun:
    """What came back: results by test name on the cpu, the same for other devices, our faults."""

    tests: dict[str, Result] = field(default_factory=dict)
    elsewhere: dict[str, Result] = field(default_factory=dict)  # "name[cuda]"
    unrunnable: str = ""  # why the file cannot be imported: the learner's, and every test fails
    broken: str = ""  # why the run itself failed: ours
    culprit: str = ""  # the last test that ended or hung its process, and why


OnResult = Callable[[ContractRun], None]


@dataclass(frozen=True)
class _Ears:
    """Who hears of a run, and how long one of its tests may take."""

    on_result: OnResult
    on_child: OnChild
    test_seconds: float


def run_contract(
    lab: Lab,
    star: Path,
    *,
    seed: int,
    junit: Path | None = None,
    on_result: OnResult = lambda run: None,
    test_seconds: float = TEST_SECONDS,
    on_child: OnChild = lambda end: None,
    parts: int = 1,
) -> ContractRun:
    """Run the tests of the lab's contract against the file `star`.

    Args:
        seed: of the run; the same seed draws the same shapes and the same order.
        junit: where pytest writes its own JUnit XML.
        on_result: called after each result with what is known so far.
        test_seconds: wall time after which one test is ended; it then earns nothing.
        on_child: hears how to end each child that starts; what it raises ends the run.
        parts: children that share the tests, at the same time; junit needs one.
    """
    wanted = [name for task in lab.tasks for name in task.tests]
    runs = [ContractRun() for _ in range(parts)]
    lock = threading.Lock()

    def heard(part: ContractRun) -> None:
        with lock:
            on_result(_merged(runs))

    with (
        # A folder of its own: pytest's shared one is tidied by every other run on the machine.
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        ThreadPoolExecutor(parts) as pool,
    ):
        ears = _Ears(heard, on_child, test_seconds)
        going = []
        for number, run in enumerate(runs):
            own = Path(folder) / str(number)
            share = _Share(lab, star, seed, tuple(wanted[number::parts]), own, parts == 1)
            going.append(pool.submit(_run_in_children, run, share, junit, ears))
        for part in going:
            part.result()
    run = _merged(runs)
    on_result(run)
    return run


def _merged(runs: Sequence[ContractRun]) -> ContractRun:
    """All of them as one."""
    whole = ContractRun()
    for run in runs:
        whole.tests |= run.tests
        whole.elsewhere |= run.elsewhere
        whole.unrunnable = whole.unrunnable or run.unrunnable
        whole.broken = whole.broken or run.broken
        whole.culprit = whole.culprit or run.culprit
    return whole


@dataclass(frozen=True)
class _Share:
    """What one child, and the one after it where it is ended, has to run."""

    lab: Lab
    star: Path
    seed: int
    tests: tuple[str, ...]
    folder: Path
    whole: bool  # the whole contract, which is quicker to ask for

    def select(self, names: Iterable[str]) -> list[str]:
        """pytest's arguments for these tests, on every device."""
        return [f"{self.lab.contract}::{name}" for name in names]


def _run_in_children(run: ContractRun, share: _Share, junit: Path | None, ears: _Ears) -> None:
    """A share in one child; where a test ends it, the tests that are left in another."""
    for attempt in range(PATIENCE):
        selected = share.select(share.tests)
        if attempt > 0:  # other devices cost no points, and get no second try
            selected = [*share.select(_left(share.tests, run)), "--device=cpu"]
        elif share.whole:
            selected = [share.lab.contract]
        args = [*selected, f"--impl={share.star}", f"--randomly-seed={share.seed}"]
        args.append(f"--basetemp={share.folder}-{attempt}")
        if junit is not None and share.whole and attempt == 0:
            args.append(f"--junitxml={junit}")
        ended_early = _one_child(run, share.star, args, share.tests, ears)
        if not ended_early or run.broken or run.unrunnable or not _left(share.tests, run):
            break
    else:
        unrun = Result("failed", say("not run, because of an earlier test") + f": {run.culprit}")
        run.tests |= dict.fromkeys(_left(share.tests, run), unrun)


def _name(test_id: str) -> str:
    """The function's name of a required test: on the cpu, or on no device in particular."""
    return test_id.rpartition("::")[2].removesuffix("[cpu]")


def _required(test_id: str) -> bool:
    return "[" not in _name(test_id)


def _left(wanted: Sequence[str], run: ContractRun) -> list[str]:
    return [name for name in wanted if name not in run.tests]


def _one_child(
    run: ContractRun,
    star: Path,
    args: list[str],
    wanted: Sequence[str],
    ears: _Ears,
) -> bool:
    """Start one child and listen to it; True when a test ended or hung it before the end."""
    ours, child = start(RELAY, str(ROOT), str(star), args, ears.test_seconds)
    state = _State(wanted)
    try:
        ears.on_child(partial(end, child))
        for event in _events(ours, state, ears.test_seconds):
            state.take(run, event)
            if event["event"] == "result":
                ears.on_result(run)
        if state.last == "done":
            return _cut_short(run, state)
        if not state.ready:
            run.broken = say("the test process did not start")
        else:
            _blame(run, state, _why(state.last, child, ears.test_seconds))
        return True
    finally:
        end(child)
        ours.close()


@dataclass
class _State:
    """What one child has told so far."""

    wanted: Sequence[str]
    ready: bool = False
    running: str = ""  # the test id in progress
    collected: frozenset[str] | None = None
    stuck: str = ""  # the learner's line on which a test hangs
    stopped: str = ""  # an exception that ended pytest itself: exit() at import, say
    last: str = ""

    def take(self, run: ContractRun, event: dict[str, Any]) -> None:
        self.last = event["event"]
        if self.last == "ready":
            self.ready = True
        elif self.last == "collected":
            self.collected = frozenset(map(_name, event["ids"]))
        elif self.last == "start":
            self.running = event["id"]
        elif self.last == "result":
            self.running = ""
            _keep(run, event)
        elif self.last == "uncollected":
            # A file that cannot be imported fails every test by itself.
            run.unrunnable = "\n".join(filter(None, (event["where"], event["message"])))
        elif self.last == "broken":
            run.broken = event["message"]
        elif self.last == "stuck":
            self.stuck = event["where"]
        elif self.last == "stopped":
            self.stopped = event["message"]


def _events(wire: Connection, state: _State, test_seconds: float) -> Iterator[dict[str, Any]]:
    """The child's events, up to "done"; or "silent" when it hangs, or "gone" when it ended."""
    while state.last != "done":
        try:
            if state.last == "stuck":
                yield {"event": "silent"}
                return
            # A little more than the child's own watch, which can name the line.
            limit = test_seconds if state.running else test_seconds * IMPORT_SLACK
            if not wire.poll(limit + 1 if state.ready else START_SECONDS):
                yield {"event": "silent"}
                return
            event = json.loads(wire.recv_bytes(1 << 20))
        except (EOFError, OSError):
            yield {"event": "gone"}
            return
        yield event


def _cut_short(run: ContractRun, state: _State) -> bool:
    """pytest ended by itself: a required test without a result has somebody to answer for it."""
    left = _left(state.wanted, run)
    if not left or run.broken or run.unrunnable:
        return False
    lost = [name for name in left if state.collected and name not in state.collected]
    if lost:
        run.broken = say("the contract has no test {name}", name=lost[0])
    else:
        _blame(run, state, state.stopped or say("the run was interrupted from inside the file"))
    return not lost


def _keep(run: ContractRun, event: dict[str, Any]) -> None:
    result = Result(event["outcome"], event["message"], event["where"])
    _results(run, event["id"])[_name(event["id"])] = result


def _results(run: ContractRun, test_id: str) -> dict[str, Result]:
    return run.tests if _required(test_id) else run.elsewhere


def _why(kind: str, child: BaseProcess, test_seconds: float) -> str:
    if kind == "silent":
        return say(
            "no end after {seconds} s, so it was stopped: is there an endless loop?",
            seconds=f"{test_seconds:g}",
        )
    child.join(timeout=5)
    return say(
        "the process ended here (exit code {code}): is there an exit or a crash?",
        code=child.exitcode,
    )


def _blame(run: ContractRun, state: _State, why: str) -> None:
    """A test that ended the process failed; an import that did is a file that cannot be run."""
    failed = Result("failed", why, state.stuck)
    if not state.running:
        run.unrunnable = "\n".join(filter(None, (state.stuck, why)))
        return
    run.culprit = f"{_name(state.running)}\n{state.stuck}\n{why}".replace("\n\n", "\n")
    _results(run, state.running)[_name(state.running)] = failed
