"""`minituner watch`: each save is graded at once, and the screen says what to do next.

Words and keys; grading/round.py grades, screen.py draws, saves.py and keys.py listen.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import Literal

from rich.console import Console
from rich.live import Live

from minituner import memory
from minituner.grading import child, practice
from minituner.grading.registry import ROOT, Lab
from minituner.grading.report import TaskResult
from minituner.grading.round import Failed, Finished, Known, Round, Told, Types, Typist
from minituner.keys import Keys
from minituner.next_step import first_to_do
from minituner.saves import Saves, must_poll
from minituner.screen import Screen, State, plain
from minituner.words import say

TICK = 0.25  # seconds between two looks at the terminal's size
ENDING = ("SIGTERM", "SIGHUP")
Saved = Literal["saved"]
Event = Saved | tuple[Literal["key"], str] | Told


class Watch:
    """One learner, one file.

    Args:
        poll: look for saves several times a second, where the system gives no word of them.
    """

    def __init__(
        self, lab: Lab, submission: practice.Submission, console: Console, poll: bool | None = None
    ) -> None:
        self.lab, self.submission, self.console = lab, submission, console
        self.poll = must_poll(submission.star.parent) if poll is None else poll
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        star = submission.star
        shown = star.relative_to(ROOT).as_posix() if star.is_relative_to(ROOT) else str(star)
        self.state = State(lab, shown)
        self.round: Round | None = None
        self.number = 0
        self.since = time.monotonic()
        self.live: Live | None = None
        self.size = console.size

    def run(self) -> None:
        """Until q, Ctrl-C, or the terminal is closed."""
        child.expect_many(self.lab.id)
        files = [self.submission.star]
        if self.submission.notes is not None:
            files.append(self.submission.notes)
        if self.poll:
            said = say("no word of saves here: looking {count} times a second", count=5)
            self.state.notices.append(said)
        with contextlib.ExitStack() as stack:
            stack.enter_context(_ended_by_signals())
            if self.console.is_terminal:
                self.live = stack.enter_context(
                    Live(Screen(self.state), console=self.console, screen=True, auto_refresh=False)
                )
            typist = stack.enter_context(Typist(self.lab))
            stack.callback(child.unstock)
            stack.callback(self._end_round)
            stack.enter_context(Saves(files, lambda: self.events.put("saved"), self.poll))
            stack.enter_context(Keys(lambda key: self.events.put(("key", key))))
            self._start(typist)
            with contextlib.suppress(KeyboardInterrupt):
                self._serve(typist)

    def _serve(self, typist: Typist) -> None:
        while True:
            try:
                event = self.events.get(timeout=TICK)
            except queue.Empty:
                if self.console.size != self.size:
                    self.size = self.console.size
                    self._draw()
                continue
            if event == "saved":
                self._start(typist)
            elif isinstance(event, tuple):
                if event[1] == "q":
                    return
                self._press(event[1], typist)
            elif event.round == self.number:
                self._hear(event)
            if self.events.empty():
                self._draw()

    def _start(self, typist: Typist) -> None:
        """A new round; what the last one would still say is of no interest."""
        self._end_round()
        self.number += 1
        self.since = time.monotonic()
        state = self.state
        state.doing, state.types = say("running the contract"), None
        state.tests_s, state.whole_s = None, None
        self.round = Round(self.number, self.lab, self.submission, typist, self.events.put)
        self.round.start()

    def _end_round(self) -> None:
        if self.round is not None:
            self.round.end()

    def _hear(self, told: Told) -> None:
        state, now = self.state, time.monotonic() - self.since
        if isinstance(told, Known):
            self._now(told.tasks)
            state.doing = told.doing
        elif isinstance(told, Types):
            state.types = told.gate
        elif isinstance(told, Failed):
            state.doing = say("This is our fault, not yours: {why}", why=told.why)
        else:
            self._now(told.report.tasks)
            state.report, state.doing, state.whole_s = told.report, "", now
            if state.tests_s is None:
                state.tests_s = now
            self._remember(told)
            if self.live is None:
                self.console.print(plain(state))

    def _now(self, tasks: tuple[TaskResult, ...]) -> None:
        """Take over what is known; while tests still run, keep to what was known before."""
        pending = any(t.outcome == "pending" for t in tasks if t.id in self.lab.code)
        if pending and self.state.tasks:
            return
        if not pending and self.state.tests_s is None:
            self.state.tests_s = time.monotonic() - self.since
            self.state.report = None
        before, self.state.tasks = self.state.current(), tasks
        after = self.state.current()
        if before is None or after is None or before.id != after.id:
            self.state.at, self.state.view = 0, "all" if self.state.view == "all" else "one"

    def _remember(self, told: Finished) -> None:
        """Note the run; after long on one test, offer the reference for its block."""
        if self.state.file != self.lab.file:
            return  # somebody else's file
        memory.note_run(told.report)
        todo = first_to_do(self.lab, told.report.tasks, self.state.file)
        offers = [notice for notice in self.state.notices if "minituner solution" in notice]
        for offer in offers:
            self.state.notices.remove(offer)
        if todo is not None and memory.stuck_seconds(self.lab.id) >= memory.LONG:
            self.state.notices.append(
                say(
                    "{minutes} minutes on this one: {command} shows a way",
                    minutes=int(memory.stuck_seconds(self.lab.id) // 60),
                    command=f"minituner solution {todo.id[0]}{self.lab.option}",
                )
            )

    def _press(self, key: str, typist: Typist) -> None:
        state, todo = self.state, self.state.current()
        if key == "n":
            state.at, state.view = state.at + 1, "one"
        elif key == "a":
            state.view = "one" if state.view == "all" else "all"
        elif key == "t" and todo is not None:
            state.view = "one" if state.view == "theory" else "theory"
        elif key == "h" and todo is not None:
            task = self.lab.task(todo.id)
            stage = min(memory.hints_shown(self.lab.id, task.id) + 1, len(task.hints))
            memory.note_hint(self.lab.id, task.id, stage)
            place = say("hint {stage} of {most}", stage=stage, most=len(task.hints))
            state.hint, state.view = f"{place}\n\n{task.hints[stage - 1]}", "hint"
        elif key == "r":
            self._start(typist)

    def _draw(self) -> None:
        if self.live is not None:
            self.live.update(Screen(self.state), refresh=True)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """A closed terminal, or kill, ends the loop as q does: the screen and all children with it."""

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    names = [name for name in ENDING if hasattr(signal, name)] if sys.platform != "win32" else []
    before = {name: signal.signal(getattr(signal, name), end) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)
