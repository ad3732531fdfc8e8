"""What is counted over a cohort: scores, tasks, misconceptions. Feeds the summary and the page.

Counters only: memory grows with the lab, never with the number of submissions.
Leaves out: how any of it looks (page.py).
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from minituner.grading.cache import Result
from minituner.grading.registry import Lab

BIN = 10  # points a bar of the distribution; full marks have a bar of their own
MOST = 12  # misconceptions or tests listed
LONGEST = 1200  # characters of one message on the page; the result file has all of it
OUTCOMES = ("passed", "failed", "todo", "blocked")
# Controls, bidirectional marks, lone surrogates: they garble a page or make it lie.
GARBLING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


@dataclass
class Figures:
    """Everything the headline, the distribution and the tables need; grows with the lab only."""

    lab: Lab
    missing: int = 0
    errors: int = 0
    scores: Counter[int] = field(default_factory=Counter)
    levels: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)  # (task, outcome)
    misconceptions: Counter[tuple[str, str]] = field(default_factory=Counter)  # (task, text)
    tests: Counter[tuple[str, str]] = field(default_factory=Counter)  # (task, failing test)

    def add(self, result: Result) -> None:
        report = result["report"]
        if report is None:  # a fault of ours is no score
            self.errors += 1
            return
        self.scores[report["score"]] += 1
        self.levels[report["isolation"]] += 1
        for task in report["tasks"]:
            self.outcomes[task["id"], task["outcome"]] += 1
            if task["outcome"] in ("failed", "blocked") and task["misconception"]:
                self.misconceptions[task["id"], task["misconception"]] += 1
            if task["outcome"] == "failed" and task["test"]:
                self.tests[task["id"], task["test"]] += 1

    @property
    def graded(self) -> int:
        return self.scores.total()

    def quantile(self, part: float) -> float | None:
        """The score below which this part of the graded lies, between neighbours their mean."""
        if not self.graded:
            return None
        ranked, at = sorted(self.scores.elements()), part * (self.graded - 1)
        low, high = ranked[int(at)], ranked[min(int(at) + 1, self.graded - 1)]
        return round(low + (at - int(at)) * (high - low), 1)

    def mean(self) -> float | None:
        total = sum(score * many for score, many in self.scores.items())
        return round(total / self.graded, 1) if self.graded else None

    def bars(self) -> list[dict[str, Any]]:
        """How many scored within each BIN points, and full marks apart."""
        full = self.lab.max_score
        rows: list[dict[str, Any]] = []
        for low in [*range(0, full, BIN), full]:
            high = low if low == full else min(low + BIN, full) - 1
            many = sum(n for score, n in self.scores.items() if low <= score <= high)
            rows.append({"label": str(low) if low == high else f"{low}–{high}", "many": many})
        tallest = max(row["many"] for row in rows) or 1
        return [row | {"part": row["many"] / tallest} for row in rows]

    def tasks(self) -> list[dict[str, Any]]:
        """Each task with its outcomes, the least passed first."""
        rows: list[dict[str, Any]] = []
        for task in self.lab.tasks:
            counts = {outcome: self.outcomes[task.id, outcome] for outcome in OUTCOMES}
            rate = counts["passed"] / self.graded if self.graded else 0.0
            row = {"id": task.id, "title": str(task.title), "points": task.points}
            rows.append(row | counts | {"rate": round(rate, 4)})
        return sorted(rows, key=lambda row: (row["rate"], row["id"]))

    def common(self) -> list[dict[str, Any]]:
        """The most common misconceptions; where none was recognised, the failing tests."""
        source = self.misconceptions or self.tests
        ranked = sorted(source.items(), key=lambda item: (-item[1], item[0]))[:MOST]
        return [{"task": task, "text": clean(text), "many": n} for (task, text), n in ranked]

    def to_json(self) -> dict[str, Any]:
        """The summary; the same results give the same bytes, whatever their order."""
        return {
            "summary_version": 1,
            "lab": self.lab.id,
            "graded": self.graded,
            "max_score": self.lab.max_score,
            "mean": self.mean(),
            "quartiles": [self.quantile(part) for part in (0.25, 0.5, 0.75)],
            "scores": {str(score): self.scores[score] for score in sorted(self.scores)},
            "isolation": dict(sorted(self.levels.items())),
            "tasks": self.tasks(),
            "recognised": bool(self.misconceptions),
            "common": self.common(),
        }


def clean(text: str, longest: int = LONGEST) -> str:
    """Text for a page: nothing that garbles it, and an end."""
    text = GARBLING.sub("\N{REPLACEMENT CHARACTER}", text.strip())
    return text if len(text) <= longest else f"{text[:longest]} …"
