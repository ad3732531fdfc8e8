"""What the instructor reads: report.html, one page that needs nothing else, and scores.csv.

Figures are counted while results pass by, so memory does not grow with the cohort. The page's own
look and script stand in report.html.j2; jinja2 escapes every submitted text, and a policy in the
page forbids whatever is not its own style and script, network included.
Leaves out: grading, and which results belong to a cohort (cohort.py).
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from minituner.grading.cache import Result, whole
from minituner.grading.figures import Figures, clean
from minituner.grading.page_words import words
from minituner.grading.registry import Lab
from minituner.words import language

TEMPLATE = "report.html.j2"
ADVICE = 5  # lines of what costs nothing
LETTERS = {"passed": "p", "failed": "f", "todo": "t", "blocked": "b"}
FORMULA = tuple("=+-@\t\r\n＝＋－＠")  # a spreadsheet would run a cell that begins so


def _row(result: Result) -> dict[str, Any]:
    """What one line of the page shows."""
    row: dict[str, Any] = {"name": clean(result["submission"]), "error": clean(result["error"])}
    row |= {"score": None, "letters": "", "passed": 0, "findings": [], "brief": {}}
    report = result["report"]
    if report is None:
        return row
    # A refused file says the same for each of its tasks: once is enough.
    alike: dict[tuple[str, str, str, str], list[str]] = {}
    for task in report["tasks"]:
        if task["outcome"] == "blocked" and not task["misconception"]:
            alike.setdefault(("blocked", "", "", ""), []).append(task["id"])
        elif task["outcome"] != "passed":
            where = " · ".join(part for part in (task["test"], task["where"]) if part)
            said = (task["outcome"], task["misconception"], task["message"], where)
            alike.setdefault(said, []).append(task["id"])
    messages = [task["message"] for task in report["tasks"]]
    for gate in report["gates"]:
        new = [line for line in gate["findings"] if not any(line in said for said in messages)]
        if new:
            text = "\n".join(new[:ADVICE] + ["…"] * (len(new) > ADVICE))
            alike.setdefault(("advice", "", text, ""), []).append(gate["id"])
    findings, brief = [], dict[str, list[str]]()
    for (outcome, *texts), ids in alike.items():
        cause, text, where = map(clean, texts)
        findings.append(
            {"outcome": outcome, "tasks": ids, "cause": cause, "text": text, "where": where}
        )
        brief.setdefault(outcome, []).extend(ids)
    letters = "".join(LETTERS[task["outcome"]] for task in report["tasks"])
    return row | {
        "score": report["score"],
        "letters": letters,
        "passed": letters.count("p"),
        "findings": findings,
        "brief": brief,
        "level": report["isolation"],
        "seed": report["seed"],
    }


def write_page(results: Iterable[Result], lab: Lab, path: Path, *, missing: int = 0) -> Figures:
    """The page from results in the order they come; each is looked at once.

    Figures stand above the rows, so the rows wait in a temporary file until all are counted.
    """
    figures = Figures(lab, missing)
    folder = Path(__file__).parent
    source = (folder / TEMPLATE).read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined
    )
    environment.trim_blocks = environment.lstrip_blocks = True
    with tempfile.TemporaryFile("w+", encoding="utf-8") as waiting, whole(path) as file:
        for result in results:
            figures.add(result)
            waiting.write(json.dumps(_row(result)) + "\n")
        waiting.seek(0)
        parts = environment.get_template(TEMPLATE).generate(
            figures=figures,
            rows=map(json.loads, waiting),
            lab=lab,
            lang=language(),
            say=words(),
            letters=LETTERS,
            policy=_policy(source),
        )
        for part in parts:
            file.write(part.encode("utf-8"))
    return figures


def _policy(source: str) -> str:
    """Nothing but the page's own style and scripts, each by its hash."""

    def hashes(tag: str) -> str:
        inside = re.findall(rf"<{tag}>(.*?)</{tag}>", source, re.DOTALL)
        digests = (hashlib.sha256(text.encode("utf-8")).digest() for text in inside)
        return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)

    parts = (
        "default-src 'none'",
        f"style-src {hashes('style')}",
        f"script-src {hashes('script')}",
        "base-uri 'none'",
        "form-action 'none'",
    )
    return "; ".join(parts)


def write_scores(results: Iterable[Result], lab: Lab, path: Path) -> None:
    """One line a submission for a spreadsheet; a grader's fault has no score, not a zero."""
    ids = [task.id for task in lab.tasks]
    with whole(path) as raw:
        file = io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", newline="")
        table = csv.writer(file)
        table.writerow(
            ["submission", "result", "score", "max_score", "isolation", "seed", "error", *ids]
        )
        for result in results:
            table.writerow([_cell(value) for value in _line(result, ids)])
        file.flush()
        file.detach()  # whole() syncs and closes what is below


def _line(result: Result, ids: list[str]) -> Iterator[object]:
    report = result["report"]
    yield from (result["submission"], result["result"])
    if report is None:
        yield from ("", "", "", "", result["error"], *("" for _ in ids))
        return
    points = {task["id"]: task["points"] for task in report["tasks"]}
    yield from (report["score"], report["max_score"], report["isolation"], report["seed"], "")
    yield from (points.get(task, "") for task in ids)


def _cell(value: object) -> object:
    """Text that a spreadsheet would take for a formula gets a quote in front."""
    if isinstance(value, str) and value.lstrip(" ").startswith(FORMULA):
        return f"'{value}"
    return value
