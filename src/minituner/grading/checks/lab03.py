"""Lab 03: every check by the name of the contract test whose claim it restates, and the notes."""

from __future__ import annotations

from minituner.grading.checks import (
    lab03_budgets,
    lab03_factors,
    lab03_spectrum,
    lab03_subspaces,
)
from minituner.grading.checks.asking import gathered
from minituner.grading.checks.lab03_notes import measure

__all__ = ["CHECKS", "measure"]
PARTS = (lab03_spectrum, lab03_factors, lab03_subspaces, lab03_budgets)

CHECKS = gathered(PARTS, "rank_")
