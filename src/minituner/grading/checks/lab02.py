"""Lab 02: every check by the name of the contract test whose claim it restates, and the notes."""

from __future__ import annotations

from minituner.grading.checks import (
    lab02_data,
    lab02_evaluation,
    lab02_loop,
    lab02_resume,
    lab02_state,
)
from minituner.grading.checks.asking import gathered
from minituner.grading.checks.lab02_notes import MEASURE_SECONDS, measure

__all__ = ["CHECKS", "MEASURE_SECONDS", "measure"]
PARTS = (lab02_data, lab02_loop, lab02_evaluation, lab02_state, lab02_resume)

CHECKS = gathered(PARTS, "adapt_")
