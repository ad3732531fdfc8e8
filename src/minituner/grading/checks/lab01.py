"""Lab 01: every check by the name of the contract test whose claim it restates, and the notes."""

from __future__ import annotations

from minituner.grading.checks import (
    lab01_activations,
    lab01_audit,
    lab01_memory,
    lab01_parameters,
    lab01_wrapped,
)
from minituner.grading.checks.asking import gathered
from minituner.grading.checks.lab01_notes import measure

__all__ = ["CHECKS", "measure"]
PARTS = (lab01_parameters, lab01_wrapped, lab01_memory, lab01_activations, lab01_audit)

CHECKS = gathered(PARTS, "counts_")
