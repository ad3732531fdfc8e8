"""Huge pages for what forks often: the same values, fewer pages, and only after many forks."""

from __future__ import annotations

import ctypes
import mmap
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from harness import LAB
from processes import desk_of

from minituner.grading.box.kernel import LIBC
from minituner.grading.box.pages import AFTER, HUGE, MADV_COLLAPSE
from minituner.grading.clerk import Clerk
from minituner.grading.expr import name
from minituner.grading.host import GIVEN, Box
from minituner.grading.talk import Talk

pytest_plugins = ["shared"]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="huge pages are Linux's")
GATHERED = """
import mmap, os
from minituner.grading.box.pages import HUGE, gather

kept = mmap.mmap(-1, 4 * HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
kept.write(bytes(range(256)) * (4 * HUGE // 256))
proc = os.open("/proc", os.O_PATH)
print(gather(proc))
assert kept[:] == bytes(range(256)) * (4 * HUGE // 256)
"""


@cache
def gathered() -> int:
    """How many huge pages a small process with 8 MiB of its own comes to have."""
    done = subprocess.run(
        [sys.executable, "-c", GATHERED], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return int(done.stdout)


@pytest.fixture
def huge_pages() -> None:
    """Asks the kernel itself, not what is tested here."""
    kept = mmap.mmap(-1, 2 * HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    kept.write(bytes([1]) * (2 * HUGE))
    first = ctypes.addressof(ctypes.c_char.from_buffer(kept))
    place = ctypes.c_void_p(-(-first // HUGE) * HUGE)
    if LIBC.madvise(place, ctypes.c_size_t(HUGE), MADV_COLLAPSE) != 0:
        pytest.skip("this kernel gathers none: MADV_COLLAPSE is of Linux 6.1")


def in_huge_pages(pid: int) -> int:
    """KiB of a process."""
    rolled = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in rolled.splitlines() if "AnonHuge" in line)


@pytest.mark.usefixtures("huge_pages")
def test_what_is_gathered_keeps_its_values() -> None:
    """At least three fit into eight megabytes that begin anywhere."""
    assert gathered() >= 3


@pytest.mark.usefixtures("huge_pages")
def test_a_box_that_forks_often_is_gathered_and_serves_on() -> None:
    """In its jail, where /proc is out of sight; without all its walls a worker would be refused."""
    with Box(GIVEN) as box:
        assert box.process is not None
        pid = box.process.pid
        for _ in range(AFTER - 3):  # one has looked which walls stand
            box.worker().close()
        before = in_huge_pages(pid)
        for _ in range(3):
            box.worker().close()
        peer = box.worker()  # answers only once the one before it is done with
        try:
            peer.load("minituner.probe", "probe.py", "found = 6 * 7\n")
            assert Talk(peer).ask(name("minituner.probe.found")) == 42
        finally:
            peer.close()
        assert in_huge_pages(pid) > before
        assert in_huge_pages(pid) > 50 * 1024


@pytest.mark.usefixtures("huge_pages")
def test_a_desk_that_reads_often_is_gathered_and_reads_on() -> None:
    """With mypy in memory; what it says of a text stays the same."""
    with Clerk() as clerk:
        assert clerk.prepare(LAB) == ""
        first = clerk.types(LAB, "x: int = 'a'\n")
        for _ in range(AFTER - 4):  # it has been asked twice
            clerk.review(LAB, "import os\n")
        before = in_huge_pages(desk_of(clerk))
        for _ in range(3):
            clerk.review(LAB, "import os\n")
        assert clerk.types(LAB, "x: int = 'a'\n") == first  # heard only after the gathering
        assert in_huge_pages(desk_of(clerk)) > before
        assert in_huge_pages(desk_of(clerk)) > 50 * 1024
