"""How often diagnosis names the right bug, on wrong solutions by other hands.

    python tests/upkeep/diagnosing.py [names]

A bug counts as named when it is among the one or two told for it, as first when it is told alone or
first; a name that is none of the file's bugs is wrong. Files whose bug is not among the planted
ones have nothing to be named. With "names": each file, its bugs, and what was told.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from harness import LAB

from minituner.grading import diagnose
from minituner.grading.behave import signs

FOLDER = Path(__file__).with_name("diagnosis")


@dataclass
class Count:
    """Over some files."""

    files: int = 0
    bugs: int = 0  # that are there to be named
    named: int = 0  # of them
    first: int = 0  # of them, alone or first
    told: int = 0  # bugs told in all, an either-or as one
    wrong: int = 0  # told, and none of the file's

    def add(self, row: Mapping[str, Any], groups: Sequence[Sequence[str]]) -> None:
        mine = set(row["bugs"])
        self.files += 1
        self.bugs += len(mine)
        self.told += len(groups)
        self.named += sum(any(bug in group for group in groups) for bug in mine)
        self.first += sum(any(bug == group[0] for group in groups) for bug in mine)
        self.wrong += sum(not mine & set(group) for group in groups)


def wrong() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = tomllib.loads((FOLDER / "wrong.toml").read_text("utf-8"))["wrong"]
    return rows


def named(file: str) -> list[list[str]]:
    """The names told for one file."""
    source = (FOLDER / file / LAB.star).read_text(encoding="utf-8")
    groups = diagnose.name(signs(LAB, source), diagnose.bugs(LAB.star))
    return [[bug.name for bug in group] for group in groups]


def kind(row: Mapping[str, Any]) -> str:
    return ("a bug the list lacks", "one bug", "two bugs")[len(row["bugs"])]


def counted(names: bool = False) -> dict[str, Count]:
    """Every file, by kind."""
    counts: dict[str, Count] = {}
    for row in wrong():
        with contextlib.redirect_stdout(io.StringIO()):  # one of them prints
            groups = named(row["file"])
        counts.setdefault(kind(row), Count()).add(row, groups)
        if names:
            print(row["file"], row["bugs"], "->", groups)
    return counts


def main(names: bool) -> None:
    torch.set_num_threads(1)
    counts = counted(names)
    print(f"{'':22} files  bugs  named  first  told  wrong")
    for what, c in sorted(counts.items()):
        print(f"{what:22} {c.files:5} {c.bugs:5} {c.named:6} {c.first:6} {c.told:5} {c.wrong:6}")
    bugs, first, told, bad = (
        sum(getattr(c, field) for c in counts.values())
        for field in ("bugs", "first", "told", "wrong")
    )
    print(f"top-1 accuracy {first}/{bugs} = {first / bugs:.0%}")
    print(f"wrong names {bad}/{told} = {bad / max(told, 1):.0%}")


if __name__ == "__main__":
    main("names" in sys.argv[1:])
