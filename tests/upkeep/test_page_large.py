"""The instructor's page under strain: 10,000 rows, paper, a narrow screen, no scripts.

Skips visibly where there is no browser (browser.py says what it needs).
Leaves out: the single controls (test_page_browser.py).
"""

from __future__ import annotations

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
MANY = 10_000
TIMED = "const s = performance.now(); {}; document.body.offsetHeight; return performance.now() - s"
LOAD_MS, ACT_MS = (
    60_000,
    5_000,
)  # measured 4,000 and 330 on two busy cores: this catches n², not noise


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    started = start(tmp_path_factory.mktemp("profile"))
    yield started
    started.quit()


@pytest.fixture(scope="module", autouse=True)
def _english() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINITUNER_LANG", "en")
        yield


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "report.html"
    every = (verdict(f"s{i}", "p" * (i % 17) + "f", message="m" * 200) for i in range(MANY))
    write_page(every, LAB, path)
    return path


@pytest.fixture
def page(driver: Any, tmp_path: Path) -> Page:
    """A long name, a long message, a fault of ours, and full marks."""
    results = [
        verdict("anna", "p"),
        verdict("x" * 240, "pf", message="long_word" * 60, cause="the scale is missing"),
        fault("cleo", "gone" * 60),
        verdict("dora", "pppb"),
    ]
    write_page(iter(results), LAB, tmp_path / "report.html")
    opened = Page(driver)
    opened.open(tmp_path / "report.html")
    return opened


def test_ten_thousand_rows_sort_and_filter(driver: Any, large: Path) -> None:
    """Loading, sorting and filtering answer at once; the rows of one page are laid out, no more."""
    page = Page(driver)
    page.open(large)
    loaded = page.do("return performance.getEntriesByType('navigation')[0].domComplete")
    assert loaded < LOAD_MS, f"{loaded} ms to load"
    assert len(page.shown()) == 200
    sort = "document.querySelector('th[data-by=score] button').click()"
    find = "const t = document.getElementById('text'); t.value = 's99';"
    find += "t.dispatchEvent(new Event('input'))"
    for action in (sort, find):
        took = page.do(TIMED.replace("{}", action))
        assert took < ACT_MS, f"{took} ms for {action}"
    page.said("1 to 111 of 111 shown; 10000 in all")


def test_pages_turn(driver: Any, large: Path) -> None:
    """Next and previous move through all rows, none twice, and stop at the ends."""
    page = Page(driver)
    page.open(large)
    page.choose("size", "1000")
    seen: list[str] = []
    for first in range(1, MANY, 1000):
        page.said(f"{first} to {first + 999} of 10000 shown; 10000 in all")
        seen += page.shown()
        assert page.get("#previous").is_enabled() is (first > 1)
        assert page.get("#next").is_enabled() is (first < 9001)
        if first < 9001:
            page.get("#next").click()
    assert seen == [f"s{i}" for i in range(MANY)]
    page.get("#previous").click()
    page.said("8001 to 9000 of 10000 shown; 10000 in all")


def test_paper_has_every_row_and_no_controls(page: Page) -> None:
    """Printing shows all that match, whatever page they are on, black on white, no filters."""
    page.do("document.querySelector('#size option').value = 1")
    page.choose("size", "1")
    page.choose("fault", "no")
    assert len(page.shown()) == 1
    page.do("dispatchEvent(new Event('beforeprint'))")
    page.media(kind="print", scheme="dark")
    low, back = page.do(CONTRAST)
    assert (len(page.shown()), low, back[:3]) == (3, [], [255, 255, 255])
    assert not page.get("#text").is_displayed() and page.get("#list").is_displayed()
    page.do("dispatchEvent(new Event('afterprint'))")
    assert len(page.shown()) == 1


def test_without_scripts_every_row_is_there(page: Page) -> None:
    """Where scripts are off, the whole table stands and no dead control is shown."""
    page.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page.driver.refresh()
        rows = page.driver.find_elements("css selector", "#list tbody tr")
        assert [row.is_displayed() for row in rows] == [True] * 4
        assert not page.get("#text").is_displayed()
    finally:
        page.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_a_narrow_screen_needs_no_sideways_scrolling(page: Page) -> None:
    """At 380 pixels neither the page nor the list is wider than the screen, findings opened."""
    size = {"width": 380, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page.get("#open").click()
        wide = page.do("return [document.documentElement.scrollWidth, innerWidth]")
        region = "document.getElementById('list').parentElement"
        over = page.do(f"const l = {region}; return l.scrollWidth - l.clientWidth")
        assert wide[0] <= wide[1] and over <= 0, (wide, over)
        roles = "return [...document.querySelectorAll('#list tbody tr.on > *')].map(e => e.role)"
        assert page.do(roles) == ["rowheader", "cell", "cell", "cell"] * 4
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
