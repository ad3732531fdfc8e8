"""The desk: readers that die, a desk that is gone or still loading, and what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from harness import LAB, REFERENCE
from processes import children, desk_of

from minituner.grading.clerk import Clerk
from minituner.grading.registry import ROOT

TEXT = REFERENCE.read_text(encoding="utf-8")
UNTYPED = "def f(x):\n    return x\n"


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINITUNER_LANG", "en")


def test_a_reader_that_dies_is_the_texts_doing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Death, hunger and an endless loop in the gates' child: source failed; the desk lives on."""
    with planted(monkeypatch, "read") as clerk:
        for fault, said in (
            ("die", "its reader died"),
            ("eat", "MemoryError"),
            ("recurse", "RecursionError"),
            ("spin", "processor time"),
        ):
            gate = clerk.review(LAB, fault)["source"]
            assert (gate.outcome, gate.costs) == ("failed", ("*",)), fault
            assert said in gate.findings[0]
        gate = clerk.review(LAB, "bug")["source"]
        assert (gate.outcome, gate.costs) == ("error", ())
        cpu, core, file, memory = clerk.review(LAB, "limits")["source"].findings
        assert (cpu, core, file) == ("(1, 2)", "(0, 0)", f"({64 << 20}, {64 << 20})")
        assert 1 << 30 < int(memory.strip("()").split(",")[0]) < 8 << 30


def test_a_reader_that_sleeps_is_the_machines_doing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No CPU time used, asked twice: an error of ours; what it started is gone, the desk is not."""
    monkeypatch.setenv("MARK", str(tmp_path / "mark"))
    with planted(monkeypatch, "nap") as clerk:
        nap = f"{1000 + os.getpid()}.5"
        gate = clerk.review(LAB, f"sleep {nap}")["source"]
        assert (gate.outcome, gate.costs) == ("error", ())
        assert children(desk_of(clerk)) == []
        lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
        assert not any(nap.encode() in line for line in lines), "a child's child lives on"
        assert (tmp_path / "mark").read_text(encoding="utf-8") == "xx"
        assert clerk.review(LAB, "limits")["source"].outcome == "failed"


def test_a_mypy_that_dies_falls_back_to_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the warm one does, the answer is the command's; only a text that eats is failed."""
    with planted(monkeypatch, "warm") as clerk:
        for fault in ("die", "bug", "exit", "internal"):
            gate = clerk.types(LAB, f"x: int = {fault!r}\n")
            assert gate.outcome == "failed", (fault, gate)
            assert gate.findings[0].startswith("lora.py:1: error: Incompatible"), gate
    with planted(monkeypatch, "both") as clerk:
        assert clerk.types(LAB, "die\n").outcome == "error"
        assert clerk.types(LAB, "spin\n").outcome == "failed"
        assert clerk.types(LAB, "x = 1\n").outcome == "passed"


def planted(monkeypatch: pytest.MonkeyPatch, where: str) -> Clerk:
    """A clerk whose desk has a fault in its readers, chosen by a word in the text."""
    path = os.pathsep.join((str(ROOT / "src"), os.environ.get("PYTHONPATH", "")))
    monkeypatch.setenv("PYTHONPATH", path)
    real = subprocess.Popen

    def start(command: list[str], **kept: object) -> object:
        if "minituner.grading.desk" not in command:
            return real(command, **kept)  # type: ignore[call-overload]  # passed on as they came
        at = command.index("minituner.grading.desk")
        code = FAULTS.replace("WHERE", where)
        return real([*command[: at - 1], "-c", code, *command[at + 1 :]], **kept)  # type: ignore[call-overload]  # passed on as they came

    monkeypatch.setattr(subprocess, "Popen", start)
    return Clerk()


FAULTS = """
import os, resource, subprocess, sys
from minituner.grading import desk, report, tools
def fault(text):
    if "die" in text: os.kill(os.getpid(), 11)
    if "eat" in text: [bytes(1 << 30) for _ in range(99)]
    if "recurse" in text: fault(text)
    while "spin" in text: pass
    if "sleep" in text:
        with open(os.environ["MARK"], "a") as mark: mark.write("x")
        subprocess.run(text.split())
    if "limits" in text:
        names = ("CPU", "CORE", "FSIZE", "AS")
        got = (str(resource.getrlimit(getattr(resource, "RLIMIT_" + name))) for name in names)
        return [report.GateResult("source", "failed", tuple(got))]
    if "bug" in text: raise KeyError
    if "exit" in text: sys.exit(2)
    return text
desk.READ_SECONDS, desk.PATIENCE = 1, 2.0 if "WHERE" == "nap" else 8.0
desk.WARM_TYPES_SECONDS = desk.TYPES_SECONDS = 2
if "WHERE" in ("read", "nap"): desk.read = lambda lab, text: fault(text)
check = tools.WarmMypy.check
def warm(self, text):
    if "internal" in text: return tools.types_gate(["lora.py:1: error: INTERNAL ERROR"])
    return check(self, fault(text))
if "WHERE" in ("warm", "both"): tools.WarmMypy.check = warm
command = tools.check_types
if "WHERE" == "both": tools.check_types = lambda path, text: command(path, fault(text))
desk.main(*sys.argv[1:])
"""


def test_a_desk_that_is_gone_is_replaced_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between two questions, the next is answered; if none can start it is our error."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Clerk(warm=False) as clerk:
        assert clerk.review(LAB, TEXT)["source"].outcome == "passed"
        first = desk_of(clerk)
        os.kill(first, signal.SIGKILL)
        assert clerk.review(LAB, TEXT)["source"].outcome == "passed"
        assert desk_of(clerk) != first
        os.kill(desk_of(clerk), signal.SIGKILL)
        monkeypatch.setattr(sys, "executable", "/bin/false")
        assert clerk.review(LAB, TEXT)["source"].outcome == "error"
        gate = clerk.types(LAB, TEXT)
        assert (gate.outcome, gate.costs) == ("error", ())
        assert "exit 1" in gate.findings[0]
        monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
        assert "did not start" in clerk.types(LAB, TEXT).findings[0]
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No process and no folder: after `with`, and after kill -9 with a question in flight."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Clerk(warm=False) as clerk:
        clerk.types(LAB, UNTYPED)
        desk = desk_of(clerk)
        assert len(list(tmp_path.iterdir())) == 1
    assert not Path(f"/proc/{desk}").exists()
    assert list(tmp_path.iterdir()) == []
    code = (
        "import json, tempfile, threading; from minituner.grading.clerk import Clerk\n"
        "from minituner.grading.registry import lab; clerk = Clerk(warm=False)\n"
        f"tempfile.tempdir = {str(tmp_path)!r}; clerk.review(lab('00'), '')\n"
        "print(clerk._desks['00'].process.pid, flush=True); clerk.types(lab('00'), 'x = 1')\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as judge:
        assert judge.stdout is not None
        desk = json.loads(judge.stdout.readline())
        deadline = time.monotonic() + 20
        while not children(desk) and time.monotonic() < deadline:
            time.sleep(0.01)  # until mypy runs for it
        judge.kill()
    while time.monotonic() < deadline and (Path(f"/proc/{desk}").exists() or os.listdir(tmp_path)):
        time.sleep(0.05)
    assert not Path(f"/proc/{desk}").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_desk_that_is_still_loading_ends_with_its_clerk(tmp_path: Path) -> None:
    """mypy may load for half a minute: hung up on meanwhile, the desk is gone, its folder too."""
    told = (
        "import sys; from multiprocessing.connection import Connection;"
        "from minituner.grading import desk\n"
        "with desk._ended_by_hanging_up(Connection(int(sys.argv[1]))):\n"
        "    print('loading', flush=True)\n"
        "    while True: pass"
    )
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command, file = [sys.executable, "-c", told], theirs.fileno()
        with subprocess.Popen(
            [*command, str(file)], cwd=tmp_path, stdout=subprocess.PIPE, pass_fds=[file]
        ) as loading:
            assert loading.stdout is not None and loading.stdout.readline() == b"loading\n"
            ours.close()
            try:
                assert loading.wait(60) == 0
            finally:
                loading.kill()
    assert not tmp_path.exists()
