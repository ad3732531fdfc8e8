"""markdown: a page for a job summary or a comment (GitHub Flavored Markdown).

What a submission can write stands in code only, in fences longer than any inside, so nothing in it
is markup, a link or a mention. A fault of ours: said first, and no score.
Leaves out: colour and HTML.
"""

from __future__ import annotations

import re

from minituner.grading.formats.view import Row, broken, findings, heading, rows, verdict
from minituner.grading.registry import Lab
from minituner.grading.report import Report
from minituner.words import say

MARKS = {"passed": "✓", "failed": "✗", "todo": "○", "blocked": "·", "error": "!", "pending": "…"}
MARKUP = re.compile(r"([\\`*_{}\[\]#|~])")


def render(report: Report, lab: Lab) -> str:
    score, *worth = verdict(report)
    parts = [f"# {inline(heading(lab))}", f"**{inline(score)}**", *map(inline, worth)]
    found = "\n".join(findings(report))
    if found:
        parts.append(fence(found))
    shown = rows(report, lab)
    parts.append(_table(shown, broken(report)))
    told: set[str] = {"\n".join(gate.findings) for gate in report.gates}  # above already
    for row in shown:
        if row.task.outcome in ("failed", "todo", "error") and row.task.message not in told:
            told.add(row.task.message)
            parts += [f"## {inline(f'{row.name}: {row.word}')}", fence(row.text)]
    parts.append(code(report.file))
    return "\n\n".join(parts) + "\n"


def _table(shown: tuple[Row, ...], hidden: bool) -> str:
    """A line a task; without points when there is no score."""
    lines = [f"| | {say('task')} | {say('verdict')} | {say('points')} |", "|---|---|---|---|"]
    for row in shown:
        points = "–" if hidden else f"{row.task.points}/{row.task.max_points}"
        mark = MARKS[row.task.outcome]
        lines.append(f"| {mark} | {inline(row.name)} | {inline(row.word)} | {points} |")
    return "\n".join(lines)


def inline(text: str) -> str:
    """Text in which nothing is markup."""
    safe = MARKUP.sub(r"\\\1", " ".join(text.split()))
    return safe.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _longest(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


def code(text: str) -> str:
    """A code span that the text cannot end."""
    ticks = "`" * (_longest(text) + 1)
    return f"{ticks} {' '.join(text.split())} {ticks}"


def fence(text: str) -> str:
    """A block of code that the text cannot end."""
    ticks = "`" * max(3, _longest(text) + 1)
    return f"{ticks}text\n{text}\n{ticks}"
