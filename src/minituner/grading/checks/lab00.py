"""Lab 00: every check by the name of the contract test whose claim it restates, and the notes.

A later lab is one more module like this one: CHECKS and measure.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

from minituner.grading.checks import (
    lab00_fields,
    lab00_forward,
    lab00_merge,
    lab00_state,
    lab00_wrap,
)
from minituner.grading.checks.asking import Asking
from minituner.grading.checks.lab00_notes import measure

__all__ = ["CHECKS", "measure"]
Check = Callable[[Asking], None]
PARTS = (lab00_fields, lab00_forward, lab00_wrap, lab00_state, lab00_merge)


def _checks(part: ModuleType) -> dict[str, Check]:
    found = {name: value for name, value in vars(part).items() if name.startswith("lora_")}
    return {f"test_{name}": check for name, check in found.items() if callable(check)}


CHECKS: dict[str, Check] = {name: check for part in PARTS for name, check in _checks(part).items()}
