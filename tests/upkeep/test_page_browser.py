"""The instructor's page in a real browser: each control by mouse and keyboard, light and dark.

Skips visibly where there is no browser (browser.py says what it needs).
Leaves out: the bytes (test_page.py); many rows, paper and odd screens (test_page_large.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import CONTRAST, MISSING, Page, start
from fake_exam import LAB, fault, verdict

from minituner.grading.page import write_page

pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {MISSING}"),
    pytest.mark.long(40),
]
EVIL = "</td><script>document.title=1</script><img src=https://example.org/x onerror=alert(1)>"
CONTROLS = ["skip", "text", "task", "outcome", "fault", "size", "reset", "open"]
CONTROLS += ["name", "score", "passed", "findings"]
FOCUS = """const e = document.activeElement, s = getComputedStyle(e);
return [e.id || e.closest('th')?.dataset.by || e.className || e.localName,
  s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2]"""
OPENED = "return document.querySelectorAll('#list details[open]').length"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    started = start(tmp_path_factory.mktemp("profile"))
    yield started
    started.quit()


@pytest.fixture
def page(driver: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Page:
    """Seven submissions: names that sort as numbers, one hostile, one fault of ours."""
    monkeypatch.setenv("MINITUNER_LANG", "en")
    results = [
        verdict("anna-10", "p"),
        verdict("anna-9", "ppf", message="measured: 0.5", cause="the scale is missing"),
        verdict("ben", "t", message="A1: write it"),
        fault("cleo", "the box is gone"),
        verdict("dora", "pppb"),
        verdict(EVIL, "f", message=EVIL, cause=EVIL),
        verdict("zoë", "ppppp" + "f" * 12),
    ]
    write_page(iter(results), LAB, tmp_path / "report.html")
    opened = Page(driver)
    opened.open(tmp_path / "report.html")
    return opened


def test_nothing_is_loaded_run_or_complained_about(page: Page) -> None:
    """One request, for the page itself; the console is silent; submitted markup stays text."""
    page.said("1 to 7 of 7 shown; 7 in all")
    assert page.driver.get_log("browser") == []
    events = [json.loads(row["message"])["message"] for row in page.driver.get_log("performance")]
    asked = [event for event in events if event["method"] == "Network.requestWillBeSent"]
    sent = [event["params"]["request"]["url"] for event in asked]
    assert sent == [page.driver.current_url]
    assert page.driver.title == "Lab 00: results"
    assert page.do("return document.images.length + document.scripts.length") == 2
    assert EVIL in page.shown()


def test_the_policy_stops_what_escaping_might_miss(page: Page) -> None:
    """Were markup to slip through, the page's policy would run and load none of it."""
    page.do(
        "const s = document.createElement('script'); s.textContent = 'document.title = 1';"
        "document.body.append(s); document.body.insertAdjacentHTML('beforeend',"
        "'<img src=https://example.org/x onerror=alert(1)><p style=color:red id=p>')"
    )
    assert page.driver.title == "Lab 00: results"
    colour = page.do("return getComputedStyle(document.getElementById('p')).color")
    assert colour != "rgb(255, 0, 0)"
    found = [row["message"] for row in page.driver.get_log("browser")]
    assert sum("Content Security Policy" in line for line in found) >= 3, found


@pytest.mark.parametrize("press", ["click", "ENTER", "SPACE"])
@pytest.mark.parametrize(
    ("by", "up"),
    [
        ("name", [EVIL, "anna-9", "anna-10", "ben", "cleo", "dora", "zoë"]),
        ("score", [EVIL, "ben", "anna-9", "dora", "zoë", "anna-10", "cleo"]),
        ("passed", [EVIL, "ben", "anna-9", "dora", "zoë", "anna-10", "cleo"]),
        ("findings", ["anna-10", "ben", "dora", "zoë", "anna-9", EVIL, "cleo"]),
    ],
    ids=["name", "score", "passed", "findings"],
)
def test_every_column_sorts(by: str, up: list[str], press: str, page: Page) -> None:
    """By mouse, Enter or space: up, then down, said by aria-sort; a fault stands last."""
    assert page.order() == {"name": "ascending"}, "how it stands at first"
    if by == "name":  # sorted by it already: go away first
        page.get("th[data-by=score] button").click()
    button = page.get(f"th[data-by={by}] button")
    orders, names = [], []
    for _ in range(2):
        if press == "click":
            button.click()
        else:
            page.do("arguments[0].focus()", button)
            page.press(press)
        orders.append(page.order())
        names.append(page.shown())
    assert orders == [{by: "ascending"}, {by: "descending"}]
    assert names[0] == up
    if by == "name":
        assert names[1] == up[::-1]
    else:
        ties = {EVIL, "ben", "dora"}  # equal ones stay in the order of their names
        graded = [name for name in names[1][:-1] if name not in ties]
        assert graded == [name for name in up[-2::-1] if name not in ties]
        assert names[1][-1] == "cleo"


def test_filters_narrow_and_count(page: Page) -> None:
    """Text, task with outcome, outcome alone and faults; each alone, together, and cleared."""
    page.get("#text").send_keys("SCALE is missing")
    page.said("1 to 1 of 1 shown; 7 in all")
    assert page.shown() == ["anna-9"]
    page.get("#reset").click()
    page.said("1 to 7 of 7 shown; 7 in all")
    assert page.do("return document.activeElement.id") == "text"
    page.choose("outcome", "f")
    assert page.shown() == [EVIL, "anna-9", "zoë"]
    page.choose("task", "2")  # the third
    assert page.shown() == [EVIL, "anna-9"]
    page.choose("outcome", "n")
    assert page.shown() == [EVIL, "anna-9", "ben"]
    page.choose("outcome", "")
    assert len(page.shown()) == 7, "a task alone, with any outcome, leaves nobody out"
    page.choose("outcome", "n")
    page.get("#text").send_keys("nobody")
    page.said("No submission matches; 7 in all")
    assert page.shown() == []
    page.get("#reset").click()
    page.choose("fault", "only")
    assert page.shown() == ["cleo"]
    page.choose("fault", "no")
    assert len(page.shown()) == 6 and "cleo" not in page.shown()


def test_findings_open_alone_and_all_together(page: Page) -> None:
    """A row's findings open by keyboard; one button opens and closes all that are shown."""
    page.do("document.querySelector('#list tr.on summary').focus()")
    page.press("ENTER")
    assert page.do(OPENED) == 1 and page.get("#list details[open] li").is_displayed()
    button = page.get("#open")
    button.click()
    assert (page.do(OPENED), button.text) == (6, "Close all findings")
    button.click()
    assert (page.do(OPENED), button.text) == (0, "Open all findings")


def test_every_control_is_reached_by_tab_and_shows_it(page: Page) -> None:
    """Tab goes through links, tables, filters and headers in order, with a visible focus."""
    seen: list[tuple[str, bool]] = []
    page.press("TAB")
    while (found := page.do(FOCUS))[0] != "body" and len(seen) < 40:
        seen.append(found)
        page.press("TAB")
    names = [name for name, _ in seen]
    assert [name for name, visible in seen if not visible] == []
    assert [name for name in names if name in CONTROLS] == CONTROLS, names
    assert names.count("summary") == 7, "the chart's table and six rows' findings"
    assert names.count("wide") == 4, "each region that may scroll can be scrolled by keyboard"


def test_everything_has_a_name_for_a_screen_reader(page: Page) -> None:
    """Every control, table, region and picture has a name; the count is a polite live region."""
    nodes = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    kept = ("button", "combobox", "searchbox", "image", "region", "search", "columnheader")
    found: dict[str, list[str]] = {role: [] for role in kept}
    for node in nodes:
        role = node.get("role", {}).get("value", "")
        if role in found and not node["ignored"]:
            found[role].append(node.get("name", {}).get("value", ""))
    empty = {role: names for role, names in found.items() if not names or "" in names}
    assert empty == {}, f"without a name: {empty}"
    picture = next(node for node in nodes if node.get("role", {}).get("value") == "image")
    assert "100: 1" in picture["description"]["value"]
    assert page.get("#count").get_attribute("aria-live") == "polite"
    assert page.get("html").get_attribute("lang") == "en"


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_text_can_be_read_in_light_and_dark(scheme: str, dark: bool, page: Page) -> None:
    """Every visible text has a contrast of 4.5 or more, findings opened; dark is dark."""
    page.media(scheme=scheme)
    page.get("#open").click()
    low, back = page.do(CONTRAST)
    assert low == []
    assert (max(back[:3]) < 60) is dark
