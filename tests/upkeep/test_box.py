"""The walls, one by one: each is shown to bite on the production path, and its absence to be seen.

A probe is a submission that tries one thing when it is loaded and keeps what came of it. It runs in
a real worker twice: behind that wall alone, and behind none. Both have to come out as they should.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
from processes import descendants

from minituner.grading.box import kernel, protocol
from minituner.grading.expr import name
from minituner.grading.host import GIVEN, Box
from minituner.grading.peer import Broken, Lost, Peer
from minituner.grading.registry import ROOT
from minituner.grading.talk import Talk

pytest_plugins = ["shared"]
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the box needs Linux"),
    pytest.mark.long(40),
]
PROLOGUE = """
import ctypes, fcntl, os, resource, socket, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
def tried(call):
    try:
        return f"did {call()}"
    except BaseException as error:
        return type(error).__name__
"""


def outcome(layers: tuple[str, ...], probe: str) -> str:
    """What a probe found behind these layers alone."""
    peer = box_of(layers).worker()
    try:
        peer.load("minituner.probe", "probe.py", PROLOGUE + textwrap.dedent(probe))
        found = Talk(peer).ask(name("minituner.probe.found"))
    finally:
        peer.close()
    assert isinstance(found, str)
    return found


@pytest.mark.parametrize("blocks", [True, False])
def test_a_silent_wire_is_left_at_its_deadline(blocks: bool) -> None:
    """Also one that blocks, as that on which a keeper gives its word: the judge never hangs."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(blocks)
        theirs.sendall(b"half")
        end = threading.Timer(5.0, theirs.shutdown, [socket.SHUT_RDWR])  # were it to hang
        end.start()
        try:
            with pytest.raises(protocol.TooSlow):
                protocol.receive(ours.fileno(), time.monotonic() + 0.1)
        finally:
            end.cancel()


@cache
def box_of(layers: tuple[str, ...]) -> Box:
    """One box a set of layers, for as long as this file's tests run."""
    try:
        return OPEN.enter_context(Box(GIVEN, layers))
    except Broken as error:
        if "not permitted" in str(error) or "landlock: this kernel" in str(error):
            pytest.skip(f"this kernel refuses {', '.join(layers)}: {error}")
        raise


@pytest.fixture(scope="module", autouse=True)
def _closed_in_the_end() -> Iterator[None]:
    yield
    OPEN.close()
    box_of.cache_clear()


@pytest.fixture
def listener() -> Iterator[int]:
    """A port on which this process listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


OPEN = ExitStack()
NONE = ("no_new_privs",)  # the kernel wants it for the next two; it stops nothing by itself
WALLS = {
    "rlimits": ("rlimits",),
    "landlock": (*NONE, "landlock"),
    "seccomp": (*NONE, "seccomp"),
    "mount": ("user", "mount"),
    "net": ("user", "net"),
    "pid": ("user", "pid"),
}
ACTS = {
    "memory": "len(bytes(3 << 30))",
    "files": "len([os.open('/', os.O_RDONLY) for _ in range(100)])",
    "writing": "os.write(os.open({mark!r}, os.O_RDWR | os.O_CREAT), b'x')",
    "reading": "open('/etc/passwd').read(4)",
    "the repository": "open({readme!r}).read(4)",
    "a folder where Python lies": "os.mkdir(os.path.dirname(ctypes.__file__) + '/made')",
    "fork": "os.fork() or os._exit(0)",
    "threads": "threading.Thread(target=int).start()",
    "exec": "os.posix_spawn('/bin/true', ['true'], {{}}) > 0",
    "sockets": "socket.socket().fileno() > 0",
    "loopback": "socket.create_connection(('127.0.0.1', {port}), 5).close()",
    "a signal": "os.kill({judge}, 0)",
    "a signal by fcntl": "fcntl.fcntl(0, fcntl.F_SETOWN, {judge})",
    "limits": "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))",
}
BITES = [
    ("rlimits", "memory", "MemoryError"),
    ("rlimits", "files", "OSError"),
    ("rlimits", "writing", "OSError"),
    ("landlock", "reading", "PermissionError"),
    ("landlock", "the repository", "PermissionError"),
    ("landlock", "writing", "PermissionError"),
    ("landlock", "loopback", "PermissionError"),
    ("landlock", "a signal", "PermissionError"),
    ("seccomp", "fork", "OSError"),
    ("seccomp", "threads", "RuntimeError"),
    ("seccomp", "exec", "OSError"),
    ("seccomp", "sockets", "OSError"),
    ("seccomp", "a signal", "OSError"),
    ("seccomp", "a signal by fcntl", "PermissionError"),
    ("seccomp", "writing", "PermissionError"),
    ("seccomp", "limits", "ValueError"),
    ("mount", "reading", "FileNotFoundError"),
    ("mount", "the repository", "FileNotFoundError"),
    ("mount", "a folder where Python lies", "OSError"),
    ("net", "loopback", "OSError"),
    ("pid", "a signal", "ProcessLookupError"),
]
SINCE = {"loopback": 4, "a signal": 6}  # the version of Landlock that has the rule
WITHOUT_CONTROL = {"a folder where Python lies"}  # the control would really make it


@pytest.mark.parametrize(("wall", "act", "refusal"), BITES)
def test_a_wall_bites_alone(
    wall: str, act: str, refusal: str, tmp_path: Path, listener: int
) -> None:
    """The act fails behind this wall and no other, and succeeds behind none."""
    if wall == "landlock" and kernel.landlock_abi() < SINCE.get(act, 1):
        pytest.skip(f"this kernel's Landlock (ABI {kernel.landlock_abi()}) has no rule for it yet")
    mark, readme = str(tmp_path / "mark"), str(ROOT / "README.md")
    code = ACTS[act].format(mark=mark, readme=readme, judge=os.getpid(), port=listener)
    assert outcome(WALLS[wall], f"found = tried(lambda: {code})") == refusal
    if act not in WITHOUT_CONTROL:
        assert outcome(NONE, f"found = tried(lambda: {code})").startswith("did ")


def test_no_new_privs_is_set() -> None:
    """A set-user-id program could give nothing back: the bit is on, and off without the layer."""
    probe = "found = str(libc.prctl(39, 0, 0, 0, 0))"  # PR_GET_NO_NEW_PRIVS
    assert outcome(("no_new_privs",), probe) == "1"
    assert outcome(("rlimits",), probe) == "0"


def test_a_user_namespace_holds_one_user_without_capabilities() -> None:
    """In it nobody else exists; capabilities are gone."""
    probe = """
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    found = open("/proc/self/uid_map").read().split()[2] + " " + status["CapEff"].strip()
    """
    assert outcome(("user",), probe) == "1 0000000000000000"
    assert not outcome(("rlimits",), probe).startswith("1 ")


def test_memory_shared_by_number_stays_outside() -> None:
    """A System V segment of this process cannot be found from another ipc namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    key = 0x6D540000 + os.getpid() % 0xFFFF
    segment = libc.shmget(key, 4096, 0o1666)
    assert segment >= 0
    try:
        probe = f"found = 'did' if libc.shmget({key}, 1, 0) >= 0 else 'absent'"
        assert outcome(("user", "ipc"), probe) == "absent"
        assert outcome(NONE, probe) == "did"
    finally:
        libc.shmctl(segment, 0, None)


@pytest.mark.skipif(os.geteuid() != 0, reason="a user of its own needs root")
def test_as_root_a_worker_is_a_user_of_its_own() -> None:
    """It can read no file that is root's alone, in a folder open to all; two are two users."""
    with tempfile.TemporaryDirectory() as folder:  # tmp_path lies in one that is root's alone
        Path(folder).chmod(0o755)
        files = {Path(folder) / "secret": 0o600, Path(folder) / "public": 0o644}
        for file, mode in files.items():
            file.write_text("s", encoding="utf-8")
            file.chmod(mode)
        reads = [f"tried(lambda: open({str(file)!r}).read())" for file in files]
        probe = f"found = '|'.join([{', '.join(reads)}, str(os.getuid())])"
        first, second = (outcome(("uid",), probe).split("|") for _ in range(2))
        assert outcome(NONE, probe) == "did s|did s|0"
    assert first[:2] == second[:2] == ["PermissionError", "did s"]
    assert first[2] != second[2]
    assert int(first[2]) >= 1_000_000


def test_a_worker_does_not_look_for_garbage(box: Box) -> None:
    """It ends before that would pay: start.py has switched it off."""
    peer = box.worker()
    try:
        peer.load("minituner.probe", "probe.py", "import gc\nfound = gc.isenabled()\n")
        assert Talk(peer).ask(name("minituner.probe.found")) is False
    finally:
        peer.close()


@pytest.mark.parametrize("seconds", [1, 0.25])
def test_cpu_time_is_limited(box: Box, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that ignores every signal ends after the CPU seconds it was given, and says so."""
    told: dict[Peer, dict[str, float]] = {}
    stop = Peer._stop
    monkeypatch.setattr(Peer, "_stop", lambda peer: told.setdefault(peer, stop(peer)))
    source = """
import signal
for number in set(range(1, 65)) - {9, 19, 32, 33}:
    signal.signal(number, signal.SIG_IGN)
while True:
    pass
"""
    peer = box.worker(cpu_seconds=seconds, reply_seconds=30)
    with pytest.raises(Lost, match=f"{seconds} s of CPU time"):
        peer.load("minituner.probe", "probe.py", source)
    assert seconds / 2 < told[peer]["cpu_s"] < seconds + 0.5, (
        "the kernel's own limit has whole seconds"
    )


def test_the_kernels_limit_on_cpu_time_stands_behind_the_keepers(box: Box) -> None:
    """The next whole second, and nothing in the worker can raise it."""
    peer = box.worker(cpu_seconds=0.25)
    source = "import resource\nfound = resource.getrlimit(resource.RLIMIT_CPU)\n"
    try:
        peer.load("minituner.probe", "probe.py", source)
        assert Talk(peer).ask(name("minituner.probe.found")) == (1, 1)
    finally:
        peer.close()


def test_nothing_is_left_when_the_judge_dies() -> None:
    """kill -9 on the judge in the middle of a loop: zygote, keeper and worker end by themselves."""
    code = (
        "from pathlib import Path\nfrom minituner.grading.host import Box\n"
        f"with Box({{'minituner.minigpt': Path({str(GIVEN['minituner.minigpt'])!r})}}) as box:\n"
        "    peer = box.worker(cpu_seconds=60, reply_seconds=60)\n    print('up', flush=True)\n"
        "    peer.load('minituner.probe', 'probe.py', 'while True: pass')"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as judge:
        assert judge.stdout is not None
        judge.stdout.readline()
        time.sleep(0.5)
        family = descendants(judge.pid)
        judge.send_signal(signal.SIGKILL)
    assert len(family) == 3
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and any(map(_runs, family)):
        time.sleep(0.05)
    assert [pid for pid in family if _runs(pid)] == []


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
