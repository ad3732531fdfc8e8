"""prairielearn: results.json of an external grader. Source: docs.prairielearn.com/externalGrading.

A fault of ours: `gradable` false without a score, so no points and no attempt are lost. The page
shows messages through its own escaping (pl-external-grader-results), so they stay plain text.
Leaves out: images.
"""

from __future__ import annotations

from typing import Any

from minituner.grading.formats.view import Row, broken, findings, heading, rows, verdict
from minituner.grading.formats.whole import dumps
from minituner.grading.registry import Lab
from minituner.grading.report import Report


def render(report: Report, lab: Lab) -> str:
    document: dict[str, Any] = {
        "gradable": not broken(report),
        "message": "\n".join((heading(lab), *verdict(report))),
        "output": "\n".join(findings(report)),
        "images": [],
    }
    if broken(report):
        return dumps(document | {"format_errors": list(verdict(report))})
    score = report.score / report.max_score
    return dumps(document | {"score": score, "tests": [_test(row) for row in rows(report, lab)]})


def _test(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "description": row.word,
        "points": row.task.points,
        "max_points": row.task.max_points,
        "message": row.text,
        "output": "",
        "images": [],
    }
