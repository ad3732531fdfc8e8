"""A scene for an attack to act in, and what is seen of it afterwards: marks, bystanders, ports.

Everything is made for one attack and in a folder of its own; every process started here is in a
session of its own and is ended. Leaves out: what a judge asks (outside.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import secrets
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import build  # the neighbour: outside.py is run by its path
import torch

from minituner.grading.box import protocol
from minituner.grading.host import CPU_SECONDS, MEMORY_BYTES
from minituner.grading.registry import ROOT, given, lab

SECONDS = 6.0  # for an answer; what needs memory or disk gets four times as much
GIVEN = {name: str(path) for name, path in given().items()}
Talk = Callable[[build.Attack, socket.socket, str, set[str], str, float], None]


class Box:
    """The exam's own zygote, with layers or, to show what an attack can do, without any."""

    def __init__(self, layers: list[str], secret: str) -> None:
        self.layers, self.secret = layers, secret
        self.start()

    def start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        config = json.dumps({"layers": self.layers, "given": GIVEN})
        command = [sys.executable, "-I", "-m", "minituner.grading.box.start"]
        environment, passed = {"PATH": os.environ["PATH"]}, [theirs.fileno()]
        if not self.layers:  # something to find, in the memory and in a descriptor
            environment["MINITUNER_PRIVATE"] = self.secret
            self.file = tempfile.TemporaryFile()  # noqa: SIM115  # as long as the zygote
            self.file.write(self.secret.encode())
            self.file.flush()
            passed.append(self.file.fileno())
        self.process = subprocess.Popen(
            [*command, str(theirs.fileno()), config],
            pass_fds=passed,
            env=environment,
            start_new_session=True,
        )
        theirs.close()
        self.control = ours
        said = ours.recv(1 << 16)
        if not said:
            sys.exit(f"zygote: ended before it began (exit {self.process.wait()})")
        print("zygote:", protocol.unpack(*_split(said))[0], flush=True)

    def worker(self, wire: socket.socket) -> socket.socket:
        ours, theirs = socket.socketpair()
        limits = json.dumps({"cpu_seconds": CPU_SECONDS, "memory_bytes": MEMORY_BYTES}).encode()
        socket.send_fds(self.control, [limits], [wire.fileno(), theirs.fileno()])
        theirs.close()
        return ours

    def end(self) -> None:
        """End the zygote and, in its session, its keepers."""
        self.control.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _split(frame: bytes) -> tuple[bytes, bytes]:
    head, _ = protocol.LENGTHS.unpack(frame[:8])
    return frame[8 : 8 + head], frame[8 + head :]


@dataclass
class Stage:
    """One attack's folder and what it could harm; `harm` says what it did."""

    folder: Path
    fields: dict[str, str]
    before: dict[str, object]
    listening: list[socket.socket]
    victim: subprocess.Popen[bytes]

    def harm(self) -> set[str]:
        """What is not as it was; whatever is left running is ended."""
        seen: set[str] = set()
        mark, title = Path(self.fields["MARK"]), self.fields["TITLE"]
        left = _titled(title)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        seen |= {"process"} if left else set()
        if mark.exists() or mark.is_symlink():
            seen.add("mark")
        if _state(Path(self.fields["TREE"])) != self.before:
            seen.add("tree")
        beside = Path(torch.__file__).parents[1] / f"{title}.txt"
        if beside.exists():
            seen.add("site")
            beside.unlink()
        if select.select(self.listening, [], [], 0)[0]:
            seen.add("port")
        if self.victim.poll() is not None or _troubled(self.victim.pid):
            seen.add("victim")
        return seen


@contextlib.contextmanager
def stage(attack: build.Attack, secret: str) -> Iterator[Stage]:
    """The attack's submission, made in a folder of its own, among things to harm."""
    with tempfile.TemporaryDirectory(prefix="attack") as name, contextlib.ExitStack() as stack:
        os.chmod(name, 0o777)
        here = Path(name)
        tree, mark, folder = here / "tree", here / "mark", here / "in"
        for path in (tree, folder):
            path.mkdir()
        for path in (tree / "test_lora.py", tree / "deep/key.txt"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"MINITUNER_PRIVATE={secret}\n")
        title = "att" + secrets.token_hex(4)
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(tcp.getsockname())
        hidden = stack.enter_context(socket.socket(socket.AF_UNIX))
        hidden.bind(f"\0{title}")
        hidden.listen()
        environment = os.environ | {"MINITUNER_PRIVATE": secret}
        victim = subprocess.Popen(["sleep", "300"], start_new_session=True, env=environment)
        stack.callback(victim.wait)
        stack.callback(victim.kill)
        fields = {"MARK": str(mark), "TREE": str(tree), "PORT": str(tcp.getsockname()[1])}
        fields |= {"VICTIM": str(victim.pid), "TITLE": title, "ROOT": str(ROOT)}
        build.make(attack, folder, fields)
        yield Stage(folder, fields, _state(tree), [tcp, udp, hidden], victim)


def run(attack: build.Attack, box: Box, talk: Talk) -> set[str]:
    """Everything that was seen."""
    seen: set[str] = set()
    with stage(attack, box.secret) as scene:
        star = lab(attack.lab).star
        text = (scene.folder / star).read_bytes().decode("utf-8", "replace")
        ours, theirs = socket.socketpair()
        if box.process.poll() is not None:
            box.start()
        line = box.worker(theirs)
        theirs.close()
        slow = attack.outside in ("mark", "memory")
        seconds = SECONDS * (4 if slow else 1)
        talk(attack, ours, text, seen, box.secret, seconds)
        if attack.outside in ("mark", "process"):
            time.sleep(2.5)
        ours.close()
        with contextlib.suppress(OSError):
            line.shutdown(socket.SHUT_WR)
        try:
            told, _ = protocol.receive(line.fileno(), time.monotonic() + 20)
            if told.get("peak_bytes", 0) > 3 << 30:
                seen.add("memory")
        except (protocol.Closed, protocol.TooSlow):
            seen.add("grader")
        line.close()
        seen |= scene.harm()
    return seen


def _state(tree: Path) -> dict[str, object]:
    return {
        str(p): (p.stat().st_mode, p.read_bytes() if p.is_file() else b"") for p in tree.rglob("*")
    }


def _titled(title: str) -> list[int]:
    found = []
    for comm in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if comm.read_text().strip() == title:
                found.append(int(comm.parent.name))
    return found


def _troubled(pid: int) -> bool:
    """Whether somebody changed a process's limits, priority or standing."""
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE) != resource.getrlimit(
        resource.RLIMIT_NOFILE
    )
    priority = os.getpriority(os.PRIO_PROCESS, pid) != os.getpriority(os.PRIO_PROCESS, 0)
    oom = (
        Path(f"/proc/{pid}/oom_score_adj").read_text()
        != Path("/proc/self/oom_score_adj").read_text()
    )
    return limits or priority or oom
