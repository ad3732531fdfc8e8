"""What a message tells: whether a number stands in it, however it is written.

For contracts and checks that want to hear what was got, in no set form. Leaves out: words.
"""

from __future__ import annotations

import math
import re

NUMBER = re.compile(
    r"[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|(?<![a-z])(?:nan|inf(?:inity)?)(?![a-z]))(%?)", re.I
)


def tells(text: str, number: float) -> bool:
    """Whether the number is in the text: -0.5 as -0.50, -5e-1 or -50%, 0.52 also as 0.5.

    A whole number stands for itself alone: 1 is not what 1.25 is told by.
    """
    return any(_stands_for(found[0], number) for found in NUMBER.finditer(text))


def _stands_for(token: str, number: float) -> bool:
    """Whether a number as it is written is this one, rounded to the decimals that it has."""
    digits, percent = token.rstrip("%"), token.endswith("%")
    value, want = float(digits), number * 100 if percent else number
    if math.isnan(want) or math.isinf(want):
        return str(value) == str(want)
    decimals = 0 if "e" in digits.lower() else len(digits.partition(".")[2])
    return value == want or (decimals > 0 and abs(value - want) <= 0.5001 * 10.0**-decimals)
