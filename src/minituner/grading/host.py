"""Starts the box (a zygote, by exec) and asks it for workers; knows which walls stand.

Tries the strongest set of layers first and falls back where the kernel refuses, so the level that a
report names is the one reached, never the one hoped for. Linux only.
Leaves out: the layers themselves (box/sandbox.py) and talking to a worker (peer.py).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from minituner.grading.box import protocol
from minituner.grading.box.start import REFUSED
from minituner.grading.levels import BASIC, KERNEL, OWN_USER, SPACES, level
from minituner.grading.peer import REPLY_SECONDS, Broken, Peer
from minituner.grading.registry import given
from minituner.words import needs_linux, say

START_SECONDS = 120.0  # importing torch on a cold disk
HELLO_SECONDS = 30.0
GIVEN = given()  # what the labs give
CPU_SECONDS = 5
MEMORY_BYTES = 2 << 30  # on top of what a fresh worker has mapped
SPARES = 3  # a submission's two, and the one in which its notes are measured


class Box:
    """One zygote; a context manager that leaves no process behind.

    Args:
        given: module name -> file, what a submission may import of ours.
        layers: exactly these, for the tests of a single layer; by default the strongest that work.
    """

    def __init__(self, given: Mapping[str, Path], layers: Sequence[str] | None = None) -> None:
        self.given = {name: str(path) for name, path in given.items()}
        choices: list[Sequence[str]] = [OWN_USER] if os.geteuid() == 0 else []
        choices += [SPACES, KERNEL, (*BASIC, "seccomp"), (*BASIC, "landlock"), BASIC]
        self.choices = choices if layers is None else [layers]
        self.memory_bytes = MEMORY_BYTES  # a worker's
        self.standing: tuple[str, ...] = ()
        self.spare: list[Peer] = []  # forked, behind their walls, and not yet listened to
        self.process: subprocess.Popen[bytes] | None = None
        self.control: socket.socket | None = None

    def __enter__(self) -> Box:
        if sys.platform != "linux":
            raise Broken(needs_linux())
        refused = ""
        for layers in self.choices:
            try:
                self._start(layers)
                peer = self._asked_for(CPU_SECONDS)
                self.standing = self._greeted(peer, layers)
                peer.close()
                return self
            except Broken as error:
                refused = str(error)
                self.stop()
        raise Broken(say("no worker could be started: {why}", why=refused))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def level(self) -> str:
        return level(self.standing)

    def worker(
        self, *, cpu_seconds: float = CPU_SECONDS, reply_seconds: float = REPLY_SECONDS
    ) -> Peer:
        """A fresh worker behind the same walls as the first one.

        Raises:
            Broken: it did not start, or a wall is missing.
        """
        if cpu_seconds == CPU_SECONDS and self.spare:
            peer = self.spare.pop(0)
            peer.reply_seconds = reply_seconds
        else:
            peer = self._asked_for(cpu_seconds, reply_seconds)
        self._greeted(peer, self.standing)
        return peer

    def stock(self) -> None:
        """Have the next submission's workers forked and warm before it comes."""
        while len(self.spare) < SPARES:
            self.spare.append(self._asked_for(CPU_SECONDS))

    def _start(self, layers: Sequence[str]) -> None:
        # A message a worker: on a stream two that come close together would be read as one.
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        config = json.dumps({"layers": list(layers), "given": self.given})
        module = "minituner.grading.box.start"
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-m", module, str(theirs.fileno()), config],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=_environment(),
        )
        theirs.close()
        self.control = ours
        try:
            ready, _ = protocol.receive(ours.fileno(), time.monotonic() + START_SECONDS)
        except (protocol.Closed, protocol.TooSlow, protocol.Malformed):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=2)
            refused = self.process.returncode == REFUSED
            why = (
                f"unshare: {os.strerror(errno.EPERM)}" if refused else say("the box did not start")
            )
            raise Broken(why) from None
        if "broken" in ready:
            raise Broken(str(ready["broken"]))

    def _asked_for(self, cpu_seconds: float, reply_seconds: float = REPLY_SECONDS) -> Peer:
        """A worker that is on its way."""
        if self.control is None:
            raise Broken(say("the box did not start"))
        wire, its_wire = socket.socketpair()
        line, its_line = socket.socketpair()
        with its_wire, its_line:
            limits = {"cpu_seconds": cpu_seconds, "memory_bytes": self.memory_bytes}
            try:
                fds = [its_wire.fileno(), its_line.fileno()]
                socket.send_fds(self.control, [json.dumps(limits).encode("ascii")], fds)
            except OSError:
                wire.close()
                line.close()
                raise Broken(say("the box is gone")) from None
        wire.setblocking(False)
        return Peer(
            wire.detach(), line.detach(), cpu_seconds=cpu_seconds, reply_seconds=reply_seconds
        )

    def _greeted(self, peer: Peer, wanted: Sequence[str]) -> tuple[str, ...]:
        """The walls that stand around a worker; it says so before it sees a submission.

        Raises:
            Broken: it did not start, or one of those that are wanted is missing.
        """
        try:
            hello, _ = peer.reader.receive(time.monotonic() + HELLO_SECONDS)
        except (protocol.Closed, protocol.TooSlow, protocol.Malformed):
            hello = {"broken": say("a worker did not start")}
        missing = ", ".join(sorted(set(wanted) - set(hello.get("standing", ()))))
        if "broken" in hello or missing:
            peer.close()
            why = hello.get("broken") or say("a worker came up without {layers}", layers=missing)
            raise Broken(str(why))
        return tuple(hello["standing"])

    def stop(self) -> None:
        """Hang up; the zygote ends by itself, its keepers with it."""
        while self.spare:
            self.spare.pop().close()
        if self.control is not None:
            self.control.close()
            self.control = None
        if self.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=2)
            self.process.kill()
            self.process.wait()
            self.process = None


def _environment() -> dict[str, str]:
    """Nothing of the caller's: a secret in a variable would be inherited by every worker."""
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return dict.fromkeys(threads, "1") | {"LANG": "C.UTF-8", "PATH": os.defpath}
