"""Memory that is warm and stays, gathered into huge pages: what many forks then cost.

A fork copies an entry for each page its parent has: about 45,000 of 4 KiB with torch loaded, or
some 80 of 2 MiB. Gathering takes the better part of a second and pays after some thirty forks, so
it waits until there have been as many. A page that is written to becomes small again, so it is done
anew, at ever longer intervals.
Source: man 2 madvise, MADV_COLLAPSE (Linux 6.1). Leaves out: kernels without it; there all stays
as it is, and a fork costs what it did.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time

from minituner.grading.box.kernel import LIBC

MADV_COLLAPSE = 25
HUGE = 2 << 20  # bytes
AFTER = 40  # forks, then twice as many, and so on
PASSES, PAUSE = 5, 0.01  # seconds; a child that is ending holds on to some pages for a moment


class Forks:
    """Counts a process's forks, and gathers its memory once it has forked often.

    Args:
        proc: a descriptor of /proc, which may be out of sight by then.
    """

    def __init__(self, proc: int) -> None:
        self.proc = proc
        self.count, self.due = 0, AFTER

    def one_more(self) -> None:
        self.count += 1
        if self.count == self.due:
            with contextlib.suppress(OSError):  # a comfort: without it a fork only costs more
                gather(self.proc)
            self.due *= 2


def gather(proc: int) -> int:
    """Put what this process alone has mapped into huge pages; how many there are then."""
    file = os.open("self/maps", os.O_RDONLY, dir_fd=proc)
    with os.fdopen(file, encoding="utf-8", errors="replace") as maps:
        lines = maps.read().splitlines()
    places = [start for line in lines for start in _places(line)]
    for _ in range(PASSES - 1):
        _collapsed_of(places)
        time.sleep(PAUSE)
    return _collapsed_of(places)


def _places(line: str) -> range:
    """Where a huge page fits in a mapping that is private, writable and of no file."""
    span, rights, _, _, inode = line.split()[:5]
    if rights != "rw-p" or inode != "0":
        return range(0)
    first, end = (int(part, 16) for part in span.split("-"))
    return range(-(-first // HUGE) * HUGE, end // HUGE * HUGE, HUGE)


def _collapsed_of(places: list[int]) -> int:
    """How many of these are huge pages now; a place without memory cannot be, nor one in use."""
    size = ctypes.c_size_t(HUGE)
    done = [LIBC.madvise(ctypes.c_void_p(start), size, MADV_COLLAPSE) for start in places]
    return done.count(0)
