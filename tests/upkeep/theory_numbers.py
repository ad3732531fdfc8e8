"""What a number on a theory page is, what a fact is, and when the two agree."""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


DOCTEST = re.compile(r"```python\n(>>>.*?)```", re.DOTALL)  # run below, so not read as prose
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
TARGET = re.compile(r"\]\([^)]*\)")  # where a link leads
LABEL = re.compile(r"arXiv:\d{4}\.\d{4,5}|§\d+(?:\.\d+)*|\bLab 00\b|\b7B\b|N\(0, 1\)")
NUMBER = re.compile(
    r"(?<![\w.])(?<![A-Za-z]-)-?(?:\d{1,3}(?: \d{3})+|\d+)(?:\.\d+)?(?:e-?\d+)?(?!\d|\.\d)"
)
Span = tuple[int, int]


class About(NamedTuple):
    """A measured value: the page may differ from it by one in its digit number `digits`."""

    value: float
    digits: int = 1


class Fact(NamedTuple):
    """Text as it stands on both pages, and what each number in it is computed from."""

    text: str
    values: tuple[float | About, ...]


def fact(text: str, *values: float | About) -> Fact:
    return Fact(text, values)


@cache
def plain(text: str) -> str:
    """The page without doctests, comments, link targets, labels, markup and line ends."""
    for pattern, stand_in in ((DOCTEST, ""), (COMMENT, ""), (TARGET, "]"), (LABEL, "label")):
        text = pattern.sub(stand_in, text)
    return re.sub(r"\s+", " ", re.sub(r"[`$*]", "", text))


def shown(text: str) -> list[str]:
    """The numbers in a text, as they are written."""
    return [match[0] for match in NUMBER.finditer(plain(text))]


def agrees(figure: str, want: float | About) -> bool:
    """Whether the figure on the page is want, rounded as the figure is."""
    got = float(figure.replace(" ", ""))
    if isinstance(want, About):
        unit = 10.0 ** (math.floor(math.log10(abs(got))) - want.digits + 1)
        return abs(got - want.value) <= unit and 0.5 <= want.value / got <= 2.0
    mantissa, _, exponent = figure.partition("e")
    unit = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    return abs(got - want) <= 0.5 * unit * (1 + 1e-9)


def covered(text: str, part: str, starts: list[int], ends: list[int]) -> set[Span]:
    """The numbers inside the occurrences of part; an occurrence that cuts a number is none.

    Args:
        starts, ends: where each number of the text begins and ends, in order.
    """
    spans: set[Span] = set()
    start = text.find(part)
    while start >= 0:
        end = start + len(part)
        first, last = bisect_right(ends, start), bisect_left(starts, end)  # the numbers it touches
        if first < last and start <= starts[first] and ends[last - 1] <= end:
            spans.update(zip(starts[first:last], ends[first:last], strict=True))
        start = text.find(part, start + 1)
    return spans


def complaints(text: str, facts: list[Fact]) -> list[str]:
    """What is wrong between a plain page and its facts: absent facts, numbers without a fact."""
    numbers = [match.span() for match in NUMBER.finditer(text)]
    starts, ends = [a for a, _ in numbers], [b for _, b in numbers]
    found = {part: covered(text, plain(part), starts, ends) for part, _ in facts}
    known: set[Span] = set().union(*found.values())
    absent = [f"not on the page: {part}" for part, spans in found.items() if not spans]
    stray = [(a, b) for a, b in numbers if (a, b) not in known]
    return absent + [
        f"no fact for {text[a:b]} in: …{text[max(a - 40, 0) : b + 20]}…" for a, b in stray
    ]
