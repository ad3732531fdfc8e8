"""Which processes a process has started, as Linux tells it."""

from __future__ import annotations

from pathlib import Path

from harness import LAB

from minituner.grading.clerk import Clerk


def children(parent: int) -> list[int]:
    """Those that run; none where the parent has gone."""
    listed = Path(f"/proc/{parent}/task/{parent}/children")
    return [int(number) for number in listed.read_text().split()] if listed.exists() else []


def descendants(parent: int) -> list[int]:
    """Its children, and theirs."""
    return [one for child in children(parent) for one in (child, *descendants(child))]


def desk_of(clerk: Clerk) -> int:
    """The process of lab 00's desk."""
    return clerk._desks[LAB.id].process.pid
