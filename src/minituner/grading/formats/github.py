"""github: lines for $GITHUB_OUTPUT: `result`, and a `result_<task>` each, base64 of JSON.

Source: classroom-resources/autograding-grading-reporter, src/main.js and notify-classroom.js. One
reporter adds up scores, an older one counts passes; a runner of one task gives both the same sum.
A fault of ours: status "error" and max_score 0, which the reporter leaves out of the total.
Leaves out: the grade. Whatever runs in a student's own repository is feedback.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from typing import Any

from minituner.grading.formats.view import Row, broken, rows, verdict
from minituner.grading.registry import Lab
from minituner.grading.report import Report

STATUS = {"passed": "pass", "error": "error"}  # anything else is "fail"
LINE = re.compile(r"\S+\.py:(\d+)")  # "lora.py:41  return x", in `where` or the message


def render(report: Report, lab: Lab) -> str:
    shown = rows(report, lab)
    lines = {"result": _encoded(_runner(report, lab, shown))}
    lines |= {f"result_{row.task.id}": _encoded(_runner(report, lab, [row])) for row in shown}
    return "".join(f"{name}={value}\n" for name, value in lines.items())


def commands(report: Report, lab: Lab) -> str:
    """Workflow commands that put each finding at its line of the file, each message once."""
    if broken(report):
        return f"::warning title=minituner::{_data(chr(10).join(verdict(report)))}\n"
    told: set[str] = set()
    lines = []
    for row in rows(report, lab):
        if row.task.outcome in ("failed", "todo") and row.task.message not in told:
            told.add(row.task.message)
            level = "error" if row.task.outcome == "failed" else "notice"
            place = f"file={_property(lab.file)}"
            place += f",line={_line(row)}" if _line(row) else ""
            lines.append(f"::{level} {place},title={_property(row.name)}::{_data(row.text)}\n")
    return "".join(lines)


def _runner(report: Report, lab: Lab, shown: Sequence[Row]) -> dict[str, Any]:
    """What one autograding step hands to the reporter."""
    ours = broken(report)
    status = "pass" if all(row.ok for row in shown) else "fail"
    return {
        "version": 1,
        "status": "error" if ours else status,
        "max_score": 0 if ours else sum(row.task.max_points for row in shown),
        "tests": [
            {
                "name": row.name,
                "status": STATUS.get(row.task.outcome, "fail"),
                "score": 0 if ours else row.task.points,
                "message": row.text,
                "test_code": row.task.test,
                "filename": lab.file,
                "line_no": _line(row),
                "duration": 0,
            }
            for row in shown
        ],
    }


def _line(row: Row) -> int:
    found = LINE.match(row.task.where or row.task.message)
    return int(found[1]) if found else 0


def _encoded(document: dict[str, Any]) -> str:
    return base64.b64encode(json.dumps(document, ensure_ascii=False).encode()).decode()


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
