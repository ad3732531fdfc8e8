"""gradescope: an autograder's results.json. Source: gradescope-autograders.readthedocs.io, specs.

A fault of ours: no `score` and no `tests`, so the document is no result (the page demands one of
the two); run_autograder then delivers nothing, which Gradescope shows as a failed autograder.
Leaves out: leaderboards and hidden tests, since one hidden test hides the total.
"""

from __future__ import annotations

from typing import Any

from minituner.grading.formats.view import Row, broken, rows, summary
from minituner.grading.formats.whole import dumps
from minituner.grading.registry import Lab
from minituner.grading.report import Report


def render(report: Report, lab: Lab) -> str:
    document: dict[str, Any] = {
        "output": summary(report, lab),
        "output_format": "text",
        "visibility": "visible",
        "stdout_visibility": "hidden",
        "execution_time": report.duration_s,
        "extra_data": {
            "lab": report.lab,
            "isolation": report.isolation,
            "seed": report.seed,
            "versions": report.versions,
        },
    }
    if broken(report):
        return dumps(document)
    tests = [_test(row) for row in rows(report, lab)]
    if report.score == sum(test["score"] for test in tests):  # it would override the sum
        document["score"] = report.score
    return dumps(document | {"tests": tests})


def _test(row: Row) -> dict[str, Any]:
    return {
        "score": row.task.points,
        "max_score": row.task.max_points,
        "status": "passed" if row.ok else "failed",
        "name": row.name,
        "number": row.task.id,
        "output": "\n".join(filter(None, (row.word, row.text))),
        "output_format": "text",
        "tags": [row.task.outcome],
        "visibility": "visible",
    }
