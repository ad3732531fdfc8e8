"""What a clone remembers of its learner between commands: .minituner/state.json, which git ignores.

It holds which hints were shown, the last verdict of each lab, and for how long each task and the
test now failing were worked on: the time between two runs, as far as somebody was there. Lost,
unreadable or not writable, it starts anew: a memory is a comfort, and no command fails without it.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any

from minituner.grading.cache import to_bytes, whole
from minituner.grading.registry import ROOT, lab
from minituner.grading.report import Report
from minituner.next_step import first_to_do

STATE = ROOT / ".minituner" / "state.json"
PAUSE = 300.0  # seconds: a longer time between two runs was a break, and counts as this much
NUMBER = (int, float)
KINDS: dict[str, Any] = {"at": NUMBER, "score": int, "max_score": int, "tasks": dict}
KINDS |= {"task": str, "test": str, "stuck": NUMBER, "seconds": dict}
LONG = 1200.0  # seconds on one failing test, after which the loop offers the reference


def hints_shown(lab_id: str, task: str) -> int:
    """The furthest stage shown of a task's hints; 0 for none."""
    stage = _hints(_state()).get(f"{lab_id}/{task}")
    return stage if type(stage) is int and stage > 0 else 0


def note_hint(lab_id: str, task: str, stage: int) -> None:
    """Remember that a stage was shown; a lower one again changes nothing."""
    if stage <= hints_shown(lab_id, task):
        return
    state = _state()
    _keep(state | {"hints": _hints(state) | {f"{lab_id}/{task}": stage}})


def note_run(report: Report, now: float | None = None) -> None:
    """Remember a verdict on the learner's own file; the time since the last goes to what was open.

    Args:
        now: seconds since 1970; by default the clock's.
    """
    state, now = _state(), time.time() if now is None else now
    before = lab_state(report.lab)
    spent = min(max(now - before.get("at", now), 0.0), PAUSE)
    seconds = dict(before.get("seconds", {}))
    task, test = before.get("task", ""), before.get("test", "")
    if task:
        seconds[task] = seconds.get(task, 0.0) + spent
    todo = first_to_do(lab(report.lab), report.tasks, report.file)
    open_now = ("", "") if todo is None else (todo.id, todo.test)
    stuck = before.get("stuck", 0.0) + spent if (task, test) == open_now and task else 0.0
    row = {
        "at": now,
        "score": report.score,
        "max_score": report.max_score,
        "tasks": {t.id: t.outcome for t in report.tasks},
        "task": open_now[0],
        "test": open_now[1],
        "stuck": stuck,
        "seconds": seconds,
    }
    labs = state.get("labs")
    _keep(state | {"labs": (labs if isinstance(labs, dict) else {}) | {report.lab: row}})


def lab_state(lab_id: str) -> dict[str, Any]:
    """What is remembered of a lab; empty where that is nothing, or spoilt."""
    labs = _state().get("labs")
    row = labs.get(lab_id) if isinstance(labs, dict) else None
    if not isinstance(row, dict) or not all(isinstance(row.get(k), t) for k, t in KINDS.items()):
        return {}
    numbers = all(isinstance(value, int | float) for value in row["seconds"].values())
    return row if numbers else {}


def stuck_seconds(lab_id: str) -> float:
    """How long the test that fails first has been worked on."""
    return float(lab_state(lab_id).get("stuck", 0.0))


def _keep(state: dict[str, Any]) -> None:
    with suppress(OSError):
        STATE.parent.mkdir(exist_ok=True)
        with whole(STATE) as file:
            file.write(to_bytes(state))


def _hints(state: dict[str, Any]) -> dict[str, Any]:
    hints = state.get("hints")
    return hints if isinstance(hints, dict) else {}


def _state() -> dict[str, Any]:
    with suppress(OSError, ValueError, RecursionError):
        state = json.loads(STATE.read_text(encoding="utf-8"))
        if isinstance(state, dict):
            return state
    return {}
