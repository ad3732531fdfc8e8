"""Lab 04: every check by the name of the contract test whose claim it restates, and the notes."""

from __future__ import annotations

from minituner.grading.checks import (
    lab04_conv1d,
    lab04_fill,
    lab04_folders,
    lab04_parametrize,
    lab04_reading,
    lab04_several,
    lab04_shelf,
    lab04_unwrap,
    lab04_wrap,
)
from minituner.grading.checks.asking import gathered
from minituner.grading.checks.lab04_notes import measure

__all__ = ["CHECKS", "measure"]
PARTS = (
    lab04_conv1d,
    lab04_wrap,
    lab04_parametrize,
    lab04_unwrap,
    lab04_folders,
    lab04_reading,
    lab04_fill,
    lab04_several,
    lab04_shelf,
)

CHECKS = gathered(PARTS, "bridge_")
