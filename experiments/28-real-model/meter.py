"""What a fine-tuning shows while it runs: steps, loss, tokens a second, time left.

On a terminal one line that moves; elsewhere a line now and then. Leaves out: what is trained.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from tuning import Show

from minituner.words import say

LOG_SECONDS = 30.0


@contextmanager
def meter(console: Console) -> Iterator[Show]:
    """Yields what to call after each step."""
    logged = 0.0
    columns = (BarColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)

        def show(done: int, steps: int, loss: float, speed: float, left: float) -> None:
            nonlocal logged
            said = say(
                "step {done} of {steps}, loss {loss}, {speed} tokens a second, {left} left",
                done=done,
                steps=steps,
                loss=f"{loss:.3f}",
                speed=f"{speed:.0f}",
                left=clock(left),
            )
            bar.update(task, total=steps, completed=done, description=said)
            now = time.monotonic()
            if not console.is_terminal and (now - logged > LOG_SECONDS or done == steps):
                logged = now
                console.print(said, highlight=False)

        yield show


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02}"
