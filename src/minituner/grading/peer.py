"""The judge's end of one worker: sends, waits no longer than it should, believes nothing.

Source: box/protocol.py for the frames, box/worker.py for what they say. Leaves out: how a question
is put (talk.py), what to ask (checks/) and starting processes (host.py).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
import unicodedata
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from minituner.grading.box import protocol
from minituner.words import say

REPLY_SECONDS = 20.0  # of wall time, four times the CPU time; an honest reply takes milliseconds
END_SECONDS = 10.0
MAX_DEPTH = 12
SIGXCPU, SIGKILL = 24, 9
SCALARS = frozenset((str, int, float, bool, type(None)))  # as JSON gives them
Frame = tuple[dict[str, Any], list[Tensor]]


class Raised(Exception):
    """The submission raised: which kinds of exception, what it said, and where."""

    def __init__(self, kinds: list[str], said: str, where: str) -> None:
        super().__init__(said)
        self.kinds, self.said, self.where = kinds, said, where


class Lost(Exception):
    """The worker ended, hung, or answered with nonsense: the submission's doing."""

    def __init__(self, why: str, *, idle: bool = False) -> None:
        super().__init__(why)
        self.idle = idle  # out of wall time with CPU time to spare: worth one more try, alone


class Broken(Exception):
    """Something of ours failed."""


@dataclass(frozen=True)
class Odd:
    """A value that does not cross: only its type's name does."""

    kind: str


class Peer:
    """One worker with one submission in it."""

    def __init__(
        self, wire: int, line: int, *, cpu_seconds: float, reply_seconds: float = REPLY_SECONDS
    ) -> None:
        self.wire, self.line = wire, line
        self.reader = protocol.Reader(wire)
        self.cpu_seconds, self.reply_seconds = cpu_seconds, reply_seconds
        self.numbers = itertools.count()  # of the values that are kept there
        self.waiting = 0  # questions that have no answer yet
        self.source: list[str] = []
        self.lost, self.late = "", False

    def begin(self, module: str, file: str, source: str) -> None:
        """Have the submission's source run there; loaded() tells how that went."""
        self.source = source.splitlines()
        self.send({"load": [module, file, source]}, [])

    def loaded(self) -> None:
        """Wait until the source has run.

        Raises:
            Raised, Lost.
        """
        self.answer(self.receive())

    def load(self, module: str, file: str, source: str) -> None:
        """Run the submission's source there.

        Raises:
            Raised, Lost.
        """
        self.begin(module, file, source)
        self.loaded()

    def exchange(self, header: dict[str, Any], tensors: list[Tensor]) -> Frame:
        """Send a frame and wait for its answer.

        Raises:
            Lost.
        """
        self.send(header, tensors)
        return self.receive()

    def send(self, header: dict[str, Any], tensors: list[Tensor]) -> None:
        """Send a frame. What goes wrong shows when its answer is waited for."""
        if self.lost:
            return
        frame = protocol.pack(header, tensors)
        self.waiting += 1
        try:
            deadline = time.monotonic() + self.reply_seconds
            protocol.send(self.wire, frame, deadline, self.reader)
        except protocol.Closed:
            pass  # it may have answered earlier frames before it ended
        except protocol.TooSlow:
            self.late = True

    def receive(self, seconds: float | None = None) -> Frame:
        """The answer to the earliest frame that has none.

        Args:
            seconds: how long to wait; by default reply_seconds.
        Raises:
            Lost.
        """
        if self.lost:
            raise Lost(self.lost)
        try:
            if self.late:
                raise protocol.TooSlow
            seconds = self.reply_seconds if seconds is None else seconds
            frame = self.reader.receive(time.monotonic() + seconds)
            self.waiting -= 1
            if not self.reader.more_than(self.waiting):
                return frame
            self.lost = say("it sent more answers than there were questions")
            self.end()  # a flood: nobody need wait it out
        except protocol.Closed:
            self.lost = self.end()
        except protocol.Malformed as error:
            self.lost = say("it answered with what is no frame: {why}", why=error)
            self.end()
        except protocol.TooSlow:
            cpu = self._stop().get("cpu_s", 0.0)
            waited = f"{self.reply_seconds:g}"
            self.lost = say(
                "no answer after {seconds} s: does it wait for something?", seconds=waited
            )
            raise Lost(self.lost, idle=cpu < self.reply_seconds / 2) from None
        raise Lost(self.lost)

    def answer(self, frame: Frame) -> Any:
        """The value in an answer: None, a bool, number, str, Tensor, list, tuple, dict, or Odd.

        Raises:
            Raised: it, or a step before it, raised. Lost.
        """
        header, tensors = frame
        try:
            if "raised" in header:
                raise self._raised(header["raised"])
            return self._decoded(header.get("value"), tensors, MAX_DEPTH)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            self.lost = say("it answered with what is no frame: {why}", why="header")
            self.end()
            raise Lost(self.lost) from None

    def _raised(self, told: dict[str, Any]) -> Raised:
        kinds = [clean(kind, 80) for kind in told["kinds"]][:20]
        where = ""
        if isinstance(told["at"], list):
            file, line = told["at"]
            if type(line) is int and 1 <= line <= len(self.source):
                where = f"{clean(file, 40)}:{line}  {clean(self.source[line - 1].strip(), 200)}"
        return Raised(kinds, clean(told["said"], 2000), where)

    def _decoded(self, value: Any, tensors: list[Tensor], depth: int) -> Any:
        if depth == 0:
            raise ValueError("nested too deeply")
        if not isinstance(value, list):
            if isinstance(value, dict):
                raise TypeError("an object where a value was expected")
            return value
        kind = value[0]
        if kind == "t":
            index = value[1]
            if type(index) is not int or index < 0:
                raise IndexError(index)
            return tensors[index]
        if kind == "told":
            return self._raised(value[1])
        if kind == "odd":
            return Odd(clean(value[1], 80))
        if kind == "dict":
            rows = [
                (self._decoded(k, tensors, 1), self._decoded(v, tensors, depth - 1))
                for k, v in value[1]
            ]
            return dict(rows)
        items = [
            item if type(item) in SCALARS and depth > 1 else self._decoded(item, tensors, depth - 1)
            for item in value[1]
        ]
        if kind not in ("list", "tuple"):
            raise ValueError(kind)
        return items if kind == "list" else tuple(items)

    def end(self) -> str:
        """Wait for the worker's end, or bring it about; in words, why it ended."""
        told = self._stop()
        if "broken" in told:
            raise Broken(told["broken"])
        used = told.get("cpu_s", 0.0)
        # The kernel's limit counts ticks, its usage nanoseconds: on a busy machine they differ.
        if told.get("signal") in (SIGXCPU, SIGKILL) and used > self.cpu_seconds * 0.5:
            seconds = f"{self.cpu_seconds:g}"
            return say(
                "it was stopped after {seconds} s of CPU time: is there an endless loop?",
                seconds=seconds,
            )
        if told.get("signal"):
            return say("it crashed (signal {number})", number=told["signal"])
        return say("it ended its process: is there an exit?")

    def _stop(self) -> dict[str, Any]:
        """Hang up, and read the keeper's word on how the worker ended."""
        if self.wire < 0:
            return {}
        os.close(self.wire)
        self.wire = -1
        try:
            os.set_blocking(self.line, True)
            with contextlib.suppress(OSError):
                os.write(self.line, b".")
            told, _ = protocol.receive(self.line, time.monotonic() + END_SECONDS)
        except (protocol.Closed, protocol.TooSlow, protocol.Malformed):
            told = {"broken": say("a keeper gave no word")}
        os.close(self.line)
        return told

    def close(self) -> None:
        """Hang up. The keeper ends the worker at once; nobody waits for it."""
        if self.wire >= 0:
            os.close(self.wire)
            self.wire = -1
            os.close(self.line)


def clean(text: object, most: int) -> str:
    """Submitted text as one may print it: no control characters, no surrogates, not too long."""
    if not isinstance(text, str):
        raise TypeError("a text that is none")
    if text[:most].replace("\n", "").isprintable():
        return text[:most]
    kept = (c if c == "\n" or unicodedata.category(c)[0] != "C" else "�" for c in text[:most])
    return "".join(kept)
