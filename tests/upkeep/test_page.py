"""What the instructor reads, as bytes: figures, escaping, the policy, the spreadsheet, memory.

Leaves out: the page in a browser (test_page_browser.py).
"""

from __future__ import annotations

import csv
import re
import tracemalloc
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from fake_exam import LAB, fault, verdict

from minituner.grading import page
from minituner.grading.figures import Figures, clean

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\" onclick='alert(1)' {{7*7}}"


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINITUNER_LANG", "en")


def counted(*results: dict[str, Any]) -> Figures:
    figures = Figures(LAB)
    for result in results:
        figures.add(result)
    return figures


def written(tmp_path: Path, *results: dict[str, Any], missing: int = 0) -> str:
    page.write_page(iter(results), LAB, tmp_path / "report.html", missing=missing)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def scores(tmp_path: Path, *results: dict[str, Any]) -> list[dict[str, str]]:
    page.write_scores(iter(results), LAB, tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_figures_are_what_a_hand_would_count() -> None:
    """Mean, quartiles, bars and pass rates of five results; a fault of ours is no score."""
    first, *_ = LAB.tasks
    found = counted(
        verdict("a", "p"), verdict("b", "p"), verdict("c", "f"), verdict("d", "pf"), fault("e")
    )
    summary = found.to_json()
    assert (summary["graded"], found.errors) == (4, 1)
    low = first.points  # scores: 100, 100, 0 and the first task's points
    assert summary["mean"] == round((200 + low) / 4, 1)
    assert summary["quartiles"] == [round(low * 0.75, 1), (low + 100) / 2, 100]
    bars = {bar["label"]: bar["many"] for bar in found.bars()}
    assert bars == dict.fromkeys(bars, 0) | {"0–9": 2, "100": 2} and len(bars) == 11
    rates = {row["id"]: (row["rate"], row["passed"], row["failed"]) for row in found.tasks()}
    assert rates[first.id] == (0.75, 3, 1) and rates["S3"] == (0.5, 2, 2)
    assert found.tasks()[-1]["id"] == first.id, "the least passed stand first"


@pytest.mark.parametrize(
    ("score", "bar"), [(0, "0–9"), (9, "0–9"), (10, "10–19"), (99, "90–99"), (100, "100")]
)
def test_every_score_has_its_bar(score: int, bar: str) -> None:
    """Each score falls into one bar, full marks into one of their own."""
    figures = Figures(LAB)
    figures.scores[score] = 1
    assert [row["label"] for row in figures.bars() if row["many"]] == [bar]


def test_misconceptions_come_before_tests() -> None:
    """The most common misconceptions, most frequent first; without any, the failing tests."""
    alone = counted(verdict("a", "fp", test="test_x"), verdict("b", "fp", test="test_x"))
    first = LAB.tasks[0].id
    assert alone.common() == [{"task": first, "text": "test_x", "many": 2}]
    named = [verdict("a", "fp", cause="rare"), verdict("b", "fp", cause="common")]
    both = counted(*named, verdict("c", "fp", cause="common"), verdict("d", "fp"))
    assert [(row["text"], row["many"]) for row in both.common()] == [("common", 2), ("rare", 1)]
    assert both.to_json()["recognised"] and not alone.to_json()["recognised"]
    assert counted(verdict("a", "p")).common() == []


def test_submitted_text_is_shown_and_never_markup(tmp_path: Path) -> None:
    """Names, messages, causes, tests and errors are escaped; the page has two scripts, its own."""
    results = [verdict(EVIL, "f", message=EVIL, cause=EVIL, test=EVIL), fault("b", EVIL)]
    html = written(tmp_path, *results)
    assert html.count("<script>") == html.count("</script>") == 2
    assert "<img" not in html and "onclick='" not in html
    assert unescape(html).count(EVIL) >= 6, "some of it is not shown at all"


def test_the_policy_allows_nothing_from_outside(tmp_path: Path) -> None:
    """default-src 'none', style and scripts by hash; no address, no inline style, no handler."""
    html = written(tmp_path, verdict("a", "pf", message="see https://example.org"))
    policy = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    parts = dict(part.split(" ", 1) for part in unescape(policy[0]).split("; "))
    assert parts.pop("default-src") == "'none'"
    assert re.fullmatch(r"'sha256-[\w+/]{43}='( 'sha256-[\w+/]{43}=')*", parts.pop("style-src"))
    assert parts.pop("script-src").count("sha256-") == 2
    assert parts == {"base-uri": "'none'", "form-action": "'none'"}
    tags = "".join(re.findall(r"<[^>]*>", html))
    assert re.findall(r"""\s(?:src|href|action|style|on\w+)\s*=\s*(?!["']#)""", tags) == []


def test_the_page_speaks_the_readers_language(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """html lang and every sentence follow the reader's language."""
    english = written(tmp_path, verdict("a", "pf"))
    monkeypatch.setenv("MINITUNER_LANG", "es")
    spanish = written(tmp_path, verdict("a", "pf"))
    assert '<html lang="en">' in english and '<html lang="es">' in spanish
    assert "Distribución de las notas" in spanish and "Distribution" not in spanish
    assert str(LAB.tasks[0].title) in unescape(spanish)


def test_an_empty_cohort_has_a_page(tmp_path: Path) -> None:
    """No result at all, or faults alone: figures that exist, no division by zero, no score."""
    html = written(tmp_path, missing=3)
    assert '<dd id="graded">0</dd>' in html and "<dd>3</dd>" in html
    html = written(tmp_path, fault("a"), fault("b"))
    assert '<dd id="errors">2</dd>' in html and "mean score" not in html
    assert counted(fault("a")).to_json()["mean"] is None


def test_a_refused_file_says_its_reason_once(tmp_path: Path) -> None:
    """Fifteen tasks that fail for one reason are one finding; advice comes last and is capped."""
    result = verdict("a", "f", message="import os is not allowed")
    for task in result["report"]["tasks"]:
        task["test"] = ""
    gates = [{"id": "source", "findings": ["import os is not allowed"]}]
    gates.append({"id": "ruff", "findings": [f"lora.py:{i} F401" for i in range(9)]})
    result["report"]["gates"] = gates
    html = written(tmp_path, result)
    assert html.count("import os is not allowed") == 1
    assert "lora.py:4 F401" in html and "lora.py:5 F401" not in html


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", " =", "\r", "\n", "＝", "＠"])
def test_a_spreadsheet_runs_nothing(start: str, tmp_path: Path) -> None:
    """A name or an error that looks like a formula gets a quote in front; others do not."""
    name = f"{start}cmd|' /C calc'!A0"
    rows = scores(tmp_path, verdict(name, "p"), fault("b", name), verdict("a=b", "p"))
    assert [rows[0]["submission"], rows[1]["error"]] == [f"'{name}"] * 2
    assert rows[2]["submission"] == "a=b"


def test_scores_have_points_a_task_and_none_for_a_fault(tmp_path: Path) -> None:
    """One line a submission; quotes and newlines stay in their cell; no score is a blank."""
    first, second, *_ = LAB.tasks
    odd = 'x,"y"\nz \udcff'
    rows = scores(tmp_path, verdict(odd, "pf"), fault("b"))
    assert (rows[0]["submission"], rows[0][first.id]) == ('x,"y"\nz \\udcff', str(first.points))
    assert (rows[0][second.id], rows[0]["score"]) == ("0", str(first.points))
    assert [rows[1][key] for key in ("score", "max_score", first.id)] == ["", "", ""]
    assert rows[1]["error"] == "the box is gone"


def test_text_that_garbles_a_page_is_replaced() -> None:
    """Controls, bidirectional marks and lone surrogates go; newlines, accents and emoji stay."""
    assert clean("a\x1b[31m\x00\u202e\udcff\u2067b") == "a�[31m����b"
    assert clean(" línea\n\tα/r 🙂\u00a0 ") == "línea\n\tα/r 🙂"
    assert clean("x" * 50, longest=10) == "x" * 10 + " …"


def test_memory_does_not_grow_with_the_cohort(tmp_path: Path) -> None:
    """400 results with 7 MB of findings go by; the page is written from a temporary file."""

    def many() -> Iterator[dict[str, Any]]:
        for i in range(400):
            yield verdict(f"s{i}", "f", message=f"{i} " + "m" * 1100)

    tracemalloc.start()
    try:
        page.write_page(many(), LAB, tmp_path / "report.html")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    size = (tmp_path / "report.html").stat().st_size
    assert size > 6e6, f"the test is too small to tell: {size} bytes"
    assert peak < size / 3, f"{peak} bytes held at once, for a page of {size}"
