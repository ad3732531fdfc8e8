"""Names as tokens: a to z and one mark that stands before and after; two halves by first letter.

Source: the task of makemore (Karpathy 2022); minituner.corpora reads the names and halves them.
Leaves out: padding, as there is no batch axis. Imports nothing but corpora and what Python has.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "src"))  # where nothing is installed
from minituner import corpora

LETTERS = "abcdefghijklmnopqrstuvwxyz"
END = len(LETTERS)  # the mark
FEWEST = 10  # names in a half: two of them are held out


@dataclass(frozen=True)
class Half:
    """The names of one half of the alphabet, as tokens; a fifth is never trained on."""

    train: list[list[int]]
    held_out: list[list[int]]


def encoded(name: str) -> list[int]:
    return [END, *(LETTERS.index(letter) for letter in name), END]


def decoded(tokens: Sequence[int]) -> str:
    return "".join(LETTERS[token] for token in tokens)


def halves(path: Path | None, longest: int, rng: random.Random) -> tuple[Half, Half]:
    """A to M and N to Z, each in an order drawn from rng.

    Args:
        path: one name a line; None takes corpora's short list.
        longest: names with more letters are left out.

    Raises:
        ValueError: fewer than ten names in a half, or a name with something else than a-z.
    """
    both = corpora.halves(name for name in corpora.names(path) if len(name) <= longest)
    if min(map(len, both)) < FEWEST:
        got = f"{len(both[0])} from A to M and {len(both[1])} from N to Z"
        raise ValueError(f"names: expected at least {FEWEST} in each half, got {got}")
    found = []
    for half in both:
        own = [encoded(name) for name in half]
        rng.shuffle(own)
        cut = len(own) // 5
        found.append(Half(train=own[cut:], held_out=own[:cut]))
    return found[0], found[1]
