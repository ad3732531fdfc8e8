"""The desk: a process that keeps mypy warm and reads each submitted text in a child of its own.

Started by exec, one a session and lab: `python -m minituner.grading.desk FD LAB warm|cold`, in an
empty folder that is its own. The desk never reads a submission itself; a forked child does, with
limits, so that no text leaves anything behind for the next. Linux only.
Leaves out: the gates themselves, mypy in memory (tools.py) and what an answer is worth (clerk.py).
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

from minituner.grading import tools
from minituner.grading.box import pages
from minituner.grading.clerk import LIMITS, gate_from
from minituner.grading.gates import check_source
from minituner.grading.registry import Lab, lab
from minituner.grading.report import GateResult
from minituner.grading.tools import Elsewhere, WarmMypy
from minituner.words import VARIABLE, catalog

READ_SECONDS = 5  # of CPU time; an honest file takes 0.02
WARM_TYPES_SECONDS = 3  # of CPU time, with mypy in memory; an honest file takes 0.1
TYPES_SECONDS = 10  # of CPU time, with its cache on disk; an honest file takes 2
PATIENCE = 3.0  # wall seconds a child may take for each of its CPU seconds
MORE_MEMORY = 1 << 30  # bytes of address space above the desk's own
LARGEST_FILE = 64 << 20  # bytes: mypy's disk cache
UNUSABLE = (RecursionError, MemoryError)  # what a text can do to its reader
Work = Callable[[], list[GateResult]]


class HungUp(Exception):
    """The clerk is gone."""


@dataclass(frozen=True)
class Answer:
    """What a child said, or how it ended without a word."""

    gates: tuple[GateResult, ...] = ()
    ended: str = ""  # "cpu", "wall", "elsewhere", "dead" or a reason
    ours: bool = False  # an exception of our own


def read(lab: Lab, text: str) -> list[GateResult]:
    """Every gate that needs no types; ruff's advice where the file may run at all."""
    gates = list(check_source(tools.parse(text, lab.star), lab))
    if gates[0].outcome == "passed":
        gates.append(tools.advise_text(lab.star, text))
    return gates


def types(lab: Lab, check: Callable[[str], GateResult], text: str) -> list[GateResult]:
    """mypy's gate by either road; what Python cannot parse never reaches mypy."""
    source = tools.parse(text, lab.star)
    trouble = GateResult("types", "failed", (source.trouble,))
    return [trouble if source.tree is None else check(text)]


def in_child(work: Work, seconds: int, wire: Connection) -> Answer:
    """Run work in a fork that has so many CPU seconds and may take PATIENCE times as long.

    Raises:
        HungUp: the clerk went while the child worked; the child is ended first.
    """
    listening, speaking = os.pipe()
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.close(listening)
        wire.close()
        _child(work, seconds, speaking)
    os.close(speaking)
    pipe = Connection(listening, writable=False)
    said = b""
    try:
        while (left := started + seconds * PATIENCE - time.monotonic()) > 0:
            ready = wait([pipe, wire], left)
            if wire in ready:
                raise HungUp
            part = os.read(listening, 1 << 16) if ready else b""
            if not part:
                break
            said += part
    finally:
        pipe.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # with ruff or mypy, should one still run
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # killed before it led its group
        _, status, used = os.wait4(pid, 0)
    late = time.monotonic() - started >= seconds * PATIENCE
    spent = used.ru_utime + used.ru_stime >= seconds * 0.9
    return _answer(said, spent or os.WTERMSIG(status) == signal.SIGXCPU, late)


def _answer(said: bytes, out_of_cpu: bool, late: bool) -> Answer:
    try:
        reply = json.loads(said)
    except ValueError:  # nothing, or half of it
        return Answer(ended="cpu" if out_of_cpu else "wall" if late else "dead")
    if "gates" in reply:
        return Answer(tuple(gate_from(row) for row in reply["gates"]))
    return Answer(ended=reply["ended"], ours=reply["ours"])


def _child(work: Work, seconds: int, speaking: int) -> None:
    """Work, say so, end; nothing of the desk's runs on in here."""
    try:
        os.setpgid(0, 0)
        quiet = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(quiet, standard)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))  # SIGXCPU first
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        most = pages * os.sysconf("SC_PAGE_SIZE") + MORE_MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        reply: dict[str, object]
        try:
            reply = {"gates": [gate.__dict__ for gate in work()]}
        except Elsewhere:
            reply = {"ended": "elsewhere", "ours": False}
        except UNUSABLE as error:
            reply = {"ended": type(error).__name__, "ours": False}
        except BaseException as error:  # mypy ends by SystemExit when it breaks
            reply = {"ended": f"{type(error).__name__}: {error}"[:500], "ours": True}
        left = json.dumps(reply).encode("ascii")
        while left:
            left = left[os.write(speaking, left) :]
    finally:
        os._exit(0)


class Desk:
    """One desk: a lab, and mypy warm or not."""

    def __init__(self, wire: Connection, lab: Lab, warm: bool) -> None:
        self.wire, self.lab = wire, lab
        self.warm: WarmMypy | None = None
        self.why_cold = "" if warm else "asked"
        self.ready = False
        self.forks = pages.Forks(os.open("/proc", os.O_PATH | os.O_CLOEXEC))
        catalog()  # loaded here, once, not in each child
        read(lab, "")  # likewise ruff's module and whatever else is imported late

    def prepare(self) -> None:
        """Everything in memory, or at least on disk, before a limited child needs it."""
        if self.ready:
            return
        self.ready = True
        if not self.why_cold:
            try:
                with _ended_by_hanging_up(self.wire):
                    self.warm = WarmMypy(self.lab.imports, self.lab.star)
                gc.disable()  # mypy has switched it on again; a child ends before it would pay
                gc.freeze()  # should one collect all the same, it touches, and so copies, less
                bad = self._types("x: int = 'a'\n").gates
                if not (bad and bad[0].outcome == "failed"):
                    raise RuntimeError("expected a finding on a wrong type, got none")
                return
            except HungUp:
                raise
            except BaseException as error:  # other internals, or mypy ended by SystemExit
                self.warm, self.why_cold = None, f"{type(error).__name__}: {error}"
        imports = "".join(f"import {module}\n" for module in self.lab.imports)
        tools.check_types(Path(self.lab.star), imports)

    def _types(self, text: str) -> Answer:
        answer = Answer(ended="cold")
        warm, star = self.warm, Path(self.lab.star)
        if warm is not None:
            work = functools.partial(types, self.lab, warm.check, text)
            answer = in_child(work, WARM_TYPES_SECONDS, self.wire)
        spent = answer.ended in LIMITS  # the other road would only take as much again
        if not spent and (not answer.gates or answer.gates[0].outcome == "error"):
            check = functools.partial(tools.check_types, star)
            work = functools.partial(types, self.lab, check, text)
            answer = in_child(work, TYPES_SECONDS, self.wire)
        return answer

    def _read(self, text: str) -> Answer:
        answer = in_child(lambda: read(self.lab, text), READ_SECONDS, self.wire)
        if answer.ended == "wall":  # time that others used: once more
            answer = in_child(lambda: read(self.lab, text), READ_SECONDS, self.wire)
        return answer

    def serve(self) -> None:
        """Answer until the clerk hangs up."""
        while True:
            try:
                request = json.loads(self.wire.recv_bytes())
            except (EOFError, OSError):
                return
            os.environ[VARIABLE] = request["language"]
            answer = Answer()
            if request["what"] == "read":
                answer = self._read(request["text"])
            else:
                self.prepare()
                if request["what"] == "types":
                    answer = self._types(request["text"])
            gates = [gate.__dict__ for gate in answer.gates]
            reply = {"gates": gates, "ended": answer.ended, "ours": answer.ours}
            reply["cold"] = self.why_cold
            self.wire.send_bytes(json.dumps(reply).encode("ascii"))
            self.forks.one_more()


@contextlib.contextmanager
def _ended_by_hanging_up(wire: Connection) -> Iterator[None]:
    """Should the clerk go meanwhile, the desk ends at once: mypy may load for half a minute."""
    done, over = os.pipe()
    poll = select.poll()
    poll.register(wire, select.POLLRDHUP)
    poll.register(done, select.POLLHUP)
    looking = threading.Thread(target=_look, args=(poll, done))
    looking.start()
    try:
        yield
    finally:
        os.close(over)
        looking.join()  # no thread may be there when a child is forked
        os.close(done)


def _look(poll: select.poll, done: int) -> None:
    if done not in dict(poll.poll()):
        shutil.rmtree(os.getcwd(), ignore_errors=True)
        os._exit(0)


def main(file: str, lab_id: str, warmth: str) -> None:
    tempfile.tempdir = os.getcwd()  # what a child leaves behind goes with the folder
    gc.disable()  # what is loaded stays
    try:
        with contextlib.suppress(HungUp):
            Desk(Connection(int(file)), lab(lab_id), warmth == "warm").serve()
    finally:
        shutil.rmtree(os.getcwd(), ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
