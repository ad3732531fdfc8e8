"""Lab 00: every check by the name of the contract test whose claim it restates, and the notes.

A later lab is one more module like this one: CHECKS and measure.
"""

from __future__ import annotations

from minituner.grading.checks import (
    lab00_fields,
    lab00_forward,
    lab00_merge,
    lab00_state,
    lab00_wrap,
)
from minituner.grading.checks.asking import gathered
from minituner.grading.checks.lab00_notes import measure

__all__ = ["CHECKS", "measure"]
PARTS = (lab00_fields, lab00_forward, lab00_wrap, lab00_state, lab00_merge)

CHECKS = gathered(PARTS, "lora_")
