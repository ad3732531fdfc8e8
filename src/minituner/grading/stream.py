"""Several checks through one or two workers at a time: while they compute, the judge judges.

Each check stays a plain function; it is left where it asks and taken up again with its answer
(greenlet: a switch costs a microsecond, where a thread costs a check's own time). A worker gets its
checks in a fixed order and answers in the order of the questions, so what it is asked, and after
what, never depends on the clock.
Leaves out: what a check is, and what to do about one whose worker is lost (sitting.py).
"""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from greenlet import GreenletExit, getcurrent, greenlet  # type: ignore[import-untyped]
from torch import Tensor

from minituner.grading.peer import Frame, Lost, Peer
from minituner.grading.talk import Exchange

DEPTH = 8  # checks under way in a worker: enough that it always has the next question
Done = TypeVar("Done")


class Lane(Generic[Done]):
    """One worker, the checks it is to get, and what has come of them.

    A check that is Lost is the lane's last: what was under way beside it goes back to `todo`.

    Args:
        after: begins when these checks of another lane have ended.
    """

    def __init__(self, peer: Peer, names: Sequence[str], after: Sequence[str] = ()) -> None:
        self.peer, self.todo, self.after = peer, deque(names), set(after)
        self.going: deque[tuple[str, Any]] = deque()  # Any: greenlets, which have no types
        self.results: dict[str, Done | Lost] = {}
        self.lost = False

    def begin(self, one: Callable[[str, Peer, Exchange], Done | Lost]) -> None:
        """Start checks until enough are under way."""
        hub = getcurrent()

        def exchange(header: dict[str, Any], tensors: list[Tensor]) -> Frame:
            self.peer.send(header, tensors)
            frame: Frame = hub.switch()
            return frame

        while self.todo and len(self.going) < DEPTH and not self.lost:
            name = self.todo.popleft()
            check = greenlet(partial(one, name, self.peer, exchange))
            self._after(name, check, check.switch())

    def go_on(self, seconds: float | None) -> None:
        """Wait for the next answer and give it to the check that asked."""
        name, check = self.going.popleft()
        try:
            frame = self.peer.receive(seconds)
        except Lost as lost:
            self._after(name, check, check.throw(lost))
        else:
            self._after(name, check, check.switch(frame))

    def _after(self, name: str, check: Any, result: Done | Lost) -> None:
        if not check.dead:
            self.going.append((name, check))
            return
        self.results[name] = result
        if isinstance(result, Lost):
            self.lost = True
            self.todo.extendleft([name for name, _ in reversed(self.going)])
            self.drop()

    def drop(self) -> None:
        """Leave the checks under way where they are."""
        while self.going:
            self.going.popleft()[1].throw(GreenletExit)


def stream(
    lanes: Sequence[Lane[Done]], one: Callable[[str, Peer, Exchange], Done | Lost]
) -> dict[str, Done | Lost]:
    """Name -> what came of it, for every check that ended; the others are left in `todo`.

    Raises:
        Broken, and whatever else `one` lets out.
    """
    try:
        while True:
            ended = {name for lane in lanes for name in lane.results}
            for lane in lanes:
                if lane.after <= ended:
                    lane.begin(one)
            going = [lane for lane in lanes if lane.going]
            if not going:
                return {name: result for lane in lanes for name, result in lane.results.items()}
            lane, seconds = _next(going)
            lane.go_on(seconds)
    finally:
        for lane in lanes:
            lane.drop()


def _next(going: Sequence[Lane[Done]]) -> tuple[Lane[Done], float | None]:
    """The lane that has an answer, or the one that waits alone; and how long to wait for it."""
    waiting = {lane.peer.wire: lane for lane in going if not lane.peer.reader.held}
    for lane in going:
        if len(going) == 1 or lane.peer.wire not in waiting:
            return lane, None
    poll = select.poll()
    for wire in waiting:
        poll.register(wire, select.POLLIN)
    ready = poll.poll(max(lane.peer.reply_seconds for lane in going) * 1000)
    return (waiting[ready[0][0]], None) if ready else (going[0], 0.0)
