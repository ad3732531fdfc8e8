"""What a clone remembers of its learner between commands: .minituner/state.json, which git ignores.

It holds which hints were shown. Lost, unreadable or not writable, it starts anew: a memory is a
comfort, and no command fails for the want of it.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from minituner.grading.cache import to_bytes, whole
from minituner.grading.registry import ROOT

STATE = ROOT / ".minituner" / "state.json"


def hints_shown(lab: str, task: str) -> int:
    """The furthest stage shown of a task's hints; 0 for none."""
    stage = _hints(_state()).get(f"{lab}/{task}")
    return stage if type(stage) is int and stage > 0 else 0


def note_hint(lab: str, task: str, stage: int) -> None:
    """Remember that a stage was shown; a lower one again changes nothing."""
    if stage <= hints_shown(lab, task):
        return
    state = _state()
    with suppress(OSError):
        STATE.parent.mkdir(exist_ok=True)
        with whole(STATE) as file:
            file.write(to_bytes(state | {"hints": _hints(state) | {f"{lab}/{task}": stage}}))


def _hints(state: dict[str, Any]) -> dict[str, Any]:
    hints = state.get("hints")
    return hints if isinstance(hints, dict) else {}


def _state() -> dict[str, Any]:
    with suppress(OSError, ValueError, RecursionError):
        state = json.loads(STATE.read_text(encoding="utf-8"))
        if isinstance(state, dict):
            return state
    return {}
