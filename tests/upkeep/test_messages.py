"""A number in a message: in any notation, and not where another one stands."""

from __future__ import annotations

import math

import pytest

from minituner.messages import tells

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *[(f"share: expected [0, 1), got {told}", -0.5) for told in ("-0.5", "-0.50", "-5e-1")],
        ("dropout of -25%", -0.25),
        ("got 0.333", 1 / 3),
        ("got 1.", 1.0),
        ("got 1", 1.0),
        ("4x3 and [7,12]", 3),
        ("4x3 and [7,12]", 12),
        *[(f"got {told}", NAN) for told in ("nan", "NaN", "NAN")],
        ("got -inf", -INF),
        ("Infinity", INF),
        (".5", 0.5),
    ],
)
def test_it_is_told(text: str, number: float) -> None:
    assert tells(text, number)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("expected [0, 1), got something", -0.5),
        ("expected [0, 1)", 1.25),
        ("got 0.5", -0.5),
        ("got 0.4", 1 / 3),
        ("got 12", 2),
        ("got 1e2", 1.0),
        ("not finite", INF),
        ("a banana", NAN),
        ("got inf", -INF),
        ("got nothing", 0.0),
    ],
)
def test_it_is_not_told(text: str, number: float) -> None:
    assert not tells(text, number)
