"""A progress bar for many like things: how many are done, how fast, how long it still takes.

On a terminal one line that moves; elsewhere (a job's log) a line now and then.
Leaves out: what is being done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from minituner.words import say

LOG_SECONDS = 30.0


@contextmanager
def bar(console: Console) -> Iterator[Callable[[int, int, int], None]]:
    """Yields what to call with (done, all, errors of ours), as often as you like."""
    columns = (
        BarColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    first: tuple[float, int] | None = None  # what was there before we began says nothing of speed
    logged = 0.0
    with Progress(*columns, console=console, disable=not console.is_terminal) as shown:
        task = shown.add_task("", total=None)

        def show(done: int, total: int, errors: int) -> None:
            nonlocal first, logged
            now = time.monotonic()
            if first is None:
                first = (now, done)
                shown.reset(task, total=total, completed=done)
            rate = (done - first[1]) / max(now - first[0], 1e-3)
            said = say(
                "{done} of {total}, {rate} a second", done=done, total=total, rate=f"{rate:.1f}"
            )
            if errors:
                said += ", " + say("{errors} errors of ours", errors=errors)
            shown.update(task, completed=done, description=said)
            if not console.is_terminal and (now - logged > LOG_SECONDS or done == total):
                logged = now
                console.print(said, highlight=False)

        yield show
