"""json: the report itself, as tests/upkeep/report.schema.json has it.

A fault of ours shows as an outcome `error` on a task or a gate; its score is then no grade.
"""

from __future__ import annotations

import json
from typing import Any

from minituner.grading.registry import Lab
from minituner.grading.report import SCHEMA_VERSION, GateResult, Report, TaskResult
from minituner.words import say


def render(report: Report, lab: Lab) -> str:
    return dumps(report.to_json())


def dumps(document: dict[str, Any]) -> str:
    """JSON as every form here writes it: readable, in UTF-8."""
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"


def load(text: str) -> Report:
    """The report that `render` wrote.

    Raises:
        ValueError: not a report, or one of another schema version.
    """
    try:
        row = json.loads(text)
        version = row.pop("schema_version")
        row["gates"] = tuple(
            GateResult(g["id"], g["outcome"], tuple(g["findings"]), tuple(g["costs"]))
            for g in row["gates"]
        )
        row["tasks"] = tuple(TaskResult(**task) for task in row["tasks"])
        report = Report(**row)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise ValueError(
            say("expected a report that --format json wrote, got {why}", why=why)
        ) from None
    if version != SCHEMA_VERSION:
        raise ValueError(
            say("schema_version: expected {want}, got {got}", want=SCHEMA_VERSION, got=version)
        )
    return report
