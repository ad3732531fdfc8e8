"""Single keys from the terminal, without Enter; none where there is no terminal.

Leaves out: what a key does.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
from collections.abc import Callable

TICK = 0.2  # seconds between two looks at whether to stop


class Keys:
    """A thread that calls `pressed` for each key; the terminal is put back as it was."""

    def __init__(self, pressed: Callable[[str], None]) -> None:
        self.pressed = pressed
        self.stopping = threading.Event()
        self.undo: list[Callable[[], None]] = []
        self.there = sys.stdin is not None and sys.stdin.isatty()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Keys:
        if self.there:
            if sys.platform != "win32":
                self._one_at_a_time()
            self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        if self.there:
            self.thread.join(timeout=1)
        while self.undo:
            self.undo.pop()()

    def _one_at_a_time(self) -> None:
        if sys.platform == "win32":
            return
        import termios
        import tty

        file = sys.stdin.fileno()
        before = termios.tcgetattr(file)
        tty.setcbreak(file)
        self.undo.append(lambda: termios.tcsetattr(file, termios.TCSADRAIN, before))

    def _run(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # the terminal is gone
            while not self.stopping.is_set():
                key = self._next()
                if key:
                    self.pressed(key.lower())

    def _next(self) -> str:
        if sys.platform == "win32":
            import msvcrt

            if not msvcrt.kbhit():
                self.stopping.wait(TICK)
                return ""
            return msvcrt.getwch()
        file = sys.stdin.fileno()
        if not select.select([file], [], [], TICK)[0]:
            return ""
        data = os.read(file, 64)
        if not data:
            self.stopping.set()
        return data.decode("ascii", "ignore")[:1]
