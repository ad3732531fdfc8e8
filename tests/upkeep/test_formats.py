"""Every form of the report: golden files, schemas, no zero for our fault, no way out of a text.

The golden files are written by tests/upkeep/golden/samples.py, which says how. Leaves out: the
platforms themselves; the schemas are read from their pages and kept in tests/upkeep/schemas.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from golden import samples
from golden.conform import conforms, properties, runners
from markdown_it import MarkdownIt

from minituner.grading.formats import FORMS, __main__, render
from minituner.grading.formats.github import commands
from minituner.grading.formats.plain import clean, tidy
from minituner.grading.formats.whole import load
from minituner.grading.report import Report
from minituner.words import LANGUAGES, VARIABLE

LAB = samples.LAB
HOSTILE = (
    "a\x1b[31mred\x1b[0m \x00\x07\r\n::error file=x::stop\n  ::set-output name=score::100\r"
    "##[command]x \u202eevil\u2069 \ud800 \ufffe </failure>]]><script>alert(1)</script> & "
    "`<i>x</i>` `````\n```\n````text\n# up\n| cell |\n[link](http://x.org) @all \x85::add-mask::y"
)


@pytest.fixture(autouse=True)
def english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "en")


def hostile() -> Report:
    """Hostile text wherever a submission's own text could come to stand."""
    mixed = samples.mixed()
    gates = tuple(replace(g, outcome="failed", findings=(HOSTILE,) * 30) for g in mixed.gates)
    tasks = tuple(
        replace(t, message=f"{i} {HOSTILE}", misconception=HOSTILE, test=HOSTILE, where=HOSTILE)
        for i, t in enumerate(mixed.tasks)
    )
    return replace(
        mixed, file=HOSTILE, gates=gates, tasks=tasks, versions=mixed.versions | {"torch": HOSTILE}
    )


# --- golden files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sample", samples.SAMPLES)
def test_the_form_is_the_golden_file_and_conforms(
    sample: str, form: str, language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the byte, in both languages, and as the platform's schema has it."""
    monkeypatch.setenv(VARIABLE, language)
    path = samples.golden(sample, form, language)
    text = render(samples.SAMPLES[sample](), LAB, form)
    assert text == path.read_text(encoding="utf-8"), f"{path.name}: see golden/samples.py"
    conforms(form, text)


def test_no_golden_file_is_left_over() -> None:
    """Every file in golden/ is one that the samples write."""
    wanted = {
        samples.golden(s, f, lang) for s in samples.SAMPLES for f in FORMS for lang in LANGUAGES
    }
    assert {p for p in samples.HERE.glob("*.*.*.*") if p.suffix != ".pyc"} == wanted


def test_an_unknown_form_is_refused_in_one_line() -> None:
    """What was expected, and what was got."""
    with pytest.raises(ValueError, match=r"^--format: expected one of json, .*, got yaml$"):
        render(samples.green(), LAB, "yaml")


# --- points ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", ["green", "mixed", "refused"])
def test_every_form_gives_the_same_points(sample: str) -> None:
    """Sums, fractions and both ways of adding up runners agree with the report."""
    report = samples.SAMPLES[sample]()
    scope = json.loads(render(report, LAB, "gradescope"))
    assert sum(test["max_score"] for test in scope["tests"]) == 100
    assert scope["score"] == sum(test["score"] for test in scope["tests"]) == report.score
    prairie = json.loads(render(report, LAB, "prairielearn"))
    assert prairie["score"] == sum(test["points"] for test in prairie["tests"]) / 100
    assert prairie["score"] == report.score / 100
    found = runners(render(report, LAB, "github"))
    whole = found.pop("result")
    assert sum(test["score"] for test in whole["tests"]) == report.score
    assert whole["max_score"] == 100
    one_by_one = list(found.values())
    by_sum = sum(test["score"] for runner in one_by_one for test in runner["tests"])
    by_count = sum(r["max_score"] for r in one_by_one if r["tests"][0]["status"] == "pass")
    assert by_sum == by_count == report.score
    suite = properties(render(report, LAB, "junit"))
    assert (suite["score"], suite["max_score"]) == (str(report.score), "100")


def test_a_score_that_is_not_the_sum_is_left_out() -> None:
    """Gradescope's top-level score would override the tests."""
    report = replace(samples.mixed(), score=100)
    assert "score" not in json.loads(render(report, LAB, "gradescope"))


def test_our_fault_is_never_a_score() -> None:
    """Each platform is told that there is no result, in its own way."""
    report = samples.error()
    scope = json.loads(render(report, LAB, "gradescope"))
    assert not {"score", "tests"} & scope.keys()
    prairie = json.loads(render(report, LAB, "prairielearn"))
    assert prairie["gradable"] is False
    for runner in runners(render(report, LAB, "github")).values():
        assert (runner["status"], runner["max_score"]) == ("error", 0)
        assert {test["score"] for test in runner["tests"]} == {0}
    xml = render(report, LAB, "junit")
    assert not properties(xml).keys() & {"score", "max_score", "points A1"}
    assert int(ET.fromstring(xml)[0].attrib["errors"]) == 2  # the gate and the task
    page = render(report, LAB, "markdown")
    assert "our fault" in page
    assert not re.search(r"\d+/\d+", page)
    assert commands(report, LAB).startswith("::warning title=minituner::This is our fault")


def test_a_level_without_walls_is_no_grade() -> None:
    """Practice says what it is worth; standard says that it is a grade."""
    for level, told in (("none", "feedback"), ("practice", "feedback"), ("standard", "graded in")):
        report = replace(samples.green(), isolation=level)
        assert told in render(report, LAB, "markdown"), level


# --- text that a submission made ------------------------------------------------------------------


def _texts(value: object) -> list[str]:
    """Every string in a JSON document."""
    if isinstance(value, dict):
        return [t for pair in value.items() for item in pair for t in _texts(item)]
    if isinstance(value, list):
        return [t for item in value for t in _texts(item)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("form", FORMS)
def test_hostile_text_stays_text(form: str) -> None:
    """No control, direction or surrogate character; no workflow command; the schema still holds."""
    text = render(hostile(), LAB, form)
    conforms(form, text)
    text.encode("utf-8")
    texts = [text]
    if form == "github":
        assert re.fullmatch(r"(result(_[A-D S]\d)?=[A-Za-z0-9+/=]+\n)+", text)
        texts = _texts(list(runners(text).values()))
    elif form in ("json", "gradescope", "prairielearn"):
        texts = _texts(json.loads(text))
    elif form == "junit":
        texts += [node.text or "" for node in ET.fromstring(text).iter()]
    for said in texts:
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffe]", said)
        assert not re.search(r"(?m)^\s*::|##\[", said), said


def test_hostile_text_in_markdown_is_code_only() -> None:
    """No tag, link, heading or table of the submission's; all of it stands in code."""
    tokens = MarkdownIt("gfm-like", {"html": True, "linkify": False}).parse(
        render(hostile(), LAB, "markdown")
    )
    every = [child for token in tokens for child in (token, *(token.children or []))]
    assert not {"html_block", "html_inline", "link_open", "image"} & {t.type for t in every}
    shown = [t.content for t in every if t.type not in ("fence", "code_inline", "inline")]
    assert not [content for content in shown if "evil" in content or "alert" in content]
    assert sum(token.type == "table_open" for token in tokens) == 1
    headings = [t for t in tokens if t.type == "heading_open"]
    fences = [t for t in tokens if t.type == "fence"]
    assert len(fences) == len(headings)  # the gates' under the title, then one a task
    assert len(headings) > 3
    assert fences[0].content.count("<script>") == 20 * len(hostile().gates)  # of 30 each


def test_commands_cannot_be_ended_by_a_message() -> None:
    """One workflow command a line, whatever the messages hold, each message once."""
    lines = commands(tidy(hostile(), 4000), LAB).splitlines()
    command = (
        r"::(error|notice) file=src/minituner/lora\.py,(line=\d+,)?title=[^:,]*(%3A|%2C|[^:])*::"
    )
    assert all(re.match(command, line) for line in lines)
    assert len(lines) == sum(t.outcome in ("failed", "todo") for t in hostile().tasks)
    assert commands(samples.refused(), LAB).count("\n") == 1
    for place in ("line=41,title=A5", "line=88,title=C3"):  # from `where`, and from the message
        assert f"file=src/minituner/lora.py,{place}" in commands(samples.mixed(), LAB)


@pytest.mark.parametrize("form", FORMS)
def test_the_size_is_bounded(form: str) -> None:
    """Megabytes of messages in wide characters fit the platform's limit, and the cut is told."""
    mixed = samples.mixed()
    long = "\U0001f600" * 300_000
    tasks = tuple(replace(t, outcome="failed", message=f"{t.id}{long}") for t in mixed.tasks)
    gates = tuple(replace(g, outcome="failed", findings=(long,) * 500) for g in mixed.gates)
    text = render(replace(mixed, tasks=tasks, gates=gates), LAB, form)
    assert len(text.encode()) <= (120_000 if form == "github" else 1_000_000)
    conforms(form, text)
    told = "\n".join(_texts(runners(text)["result"])) if form == "github" else text
    assert " more characters" in told


def test_clean_keeps_honest_text_and_lines() -> None:
    """Greek, slices, tabs and empty lines are nobody's attack; every line break is one."""
    honest = "y = W x + (α/r) B A x\n\n\tx[::2]  # ¿qué?"
    assert clean(honest, 4000) == honest
    assert clean("12345678", 5) == "12345\n… 3 more characters"
    assert clean("\x1b[31mred\x1b[0m\rb\u2028c\r\n::d", 99) == "red\nb\nc\n· ::d"


# --- a stored report ------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", samples.SAMPLES.values())
def test_a_stored_report_is_read_back(sample: Callable[[], Report]) -> None:
    """json is the whole report: nothing is lost on the way."""
    assert load(render(sample(), LAB, "json")) == sample()


def test_the_module_converts_a_stored_report(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each form and the annotations from one JSON; a wrong call or file is exit 2, in one line."""
    stored = tmp_path / "report.json"
    stored.write_text(render(samples.mixed(), LAB, "json"), encoding="utf-8")
    for form in FORMS:
        assert __main__.main([form, str(stored)]) == 0
        assert capfd.readouterr().out == render(samples.mixed(), LAB, form)
    assert __main__.main(["annotations", str(stored)]) == 0
    assert capfd.readouterr().out == commands(samples.mixed(), LAB)
    other = tmp_path / "other.json"
    other.write_text(stored.read_text(encoding="utf-8").replace('_version": 1', '_version": 9'))
    for call in ([], ["yaml", str(stored)], ["json", str(other)], ["json", str(tmp_path / "no")]):
        assert __main__.main(call) == 2
        out, err = capfd.readouterr()
        assert (out, err.count("\n")) == ("", 1), call
