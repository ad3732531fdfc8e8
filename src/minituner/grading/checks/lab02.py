"""Lab 02: every check by the name of the contract test whose claim it restates, and the notes."""

from __future__ import annotations

from collections.abc import Callable

from minituner.grading.checks import (
    lab02_data,
    lab02_evaluation,
    lab02_loop,
    lab02_resume,
    lab02_state,
)
from minituner.grading.checks.asking import Asking
from minituner.grading.checks.lab02_notes import MEASURE_SECONDS, measure

__all__ = ["CHECKS", "MEASURE_SECONDS", "measure"]
PARTS = (lab02_data, lab02_loop, lab02_evaluation, lab02_state, lab02_resume)

CHECKS: dict[str, Callable[[Asking], None]] = {
    f"test_{name}": check
    for part in PARTS
    for name, check in vars(part).items()
    if name.startswith("adapt_")
}
