"""A terminal for tests: a program in a pty, its screen as pyte sees it, keys, and what it leaves.

Leaves out: Windows, which has no pty.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyte

WAIT = 90.0  # seconds until a text has to be there, on a busy machine


class Terminal:
    """A program in a terminal of its own; a context manager that leaves neither behind."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        rows: int = 24,
        columns: int = 80,
    ) -> None:
        self.screen = pyte.Screen(columns, rows)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=dict(env),
            cwd=cwd,
            start_new_session=True,
            preexec_fn=_as_a_shell_does,
        )
        os.close(slave)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.master)

    def _read(self, seconds: float) -> None:
        if select.select([self.master], [], [], seconds)[0]:
            with contextlib.suppress(OSError):  # the program has ended
                part = os.read(self.master, 1 << 16)
                self.raw += part
                self.stream.feed(part)

    @property
    def text(self) -> str:
        """What is on the screen."""
        return "\n".join(line.rstrip() for line in self.screen.display)

    def until(self, *wanted: str, without: str = "\0") -> str:
        """The screen, once all of this is on it, spaces and line ends aside."""
        end = time.monotonic() + WAIT
        while time.monotonic() < end:
            self._read(0.1)
            shown = " ".join(self.text.split())
            if all(" ".join(w.split()) in shown for w in wanted) and without not in shown:
                return self.text
        raise AssertionError(f"expected {wanted} without {without!r}, got\n{self.text}")

    def press(self, key: str) -> None:
        os.write(self.master, key.encode())

    def ended(self) -> int:
        """The exit code, when it has ended."""
        end = time.monotonic() + WAIT
        while self.process.poll() is None and time.monotonic() < end:
            self._read(0.1)
        return self.process.wait(timeout=1)


def _as_a_shell_does() -> None:
    """Ctrl-C ends the program, also where these tests run in the background and ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def running(mark: str) -> list[int]:
    """The processes that have this in their command line or environment."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            with contextlib.suppress(OSError):
                told = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
                if mark.encode() in told:
                    found.append(int(folder.name))
    return found


def none_running(mark: str, seconds: float = 15.0) -> bool:
    end = time.monotonic() + seconds
    while running(mark) and time.monotonic() < end:
        time.sleep(0.1)
    return not running(mark)
