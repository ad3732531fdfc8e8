"""A headless Chromium for the tests of pages: started without a network of its own, then driven.

Needs chromium, chromedriver and selenium (Debian: apt-get install chromium chromium-driver);
MISSING says what is not here. Nothing is looked up or downloaded.
Leaves out: any claim about a page.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((path for name in BROWSERS if (path := shutil.which(name))), None)
DRIVER = shutil.which("chromedriver")
HERE = {"chromium": BROWSER, "chromedriver": DRIVER, "selenium": find_spec("selenium")}
MISSING = ", ".join(name for name, found in HERE.items() if not found)
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --window-size=1200,1400"
)
SHOWN = "return [...document.querySelectorAll('#list tbody tr.on th')].map(e => e.textContent)"
HEADS = """return [...document.querySelectorAll('#list thead th')]
    .map((e) => [e.dataset.by, e.ariaSort])"""


def start(folder: Path) -> Any:  # Any: selenium may be absent where mypy runs
    """A driver whose browser keeps its profile in folder; quit() ends both."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in (*FLAGS.split(), f"--user-data-dir={folder}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(str(DRIVER), env=os.environ | {"HOME": str(folder)})
    return webdriver.Chrome(options=options, service=service)


class Page:
    """One browser with one page open; `do` runs a script in it."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self.do: Callable[..., Any] = driver.execute_script
        self.media()  # a test before this one may have pretended to be paper

    def open(self, path: Path) -> None:
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)  # what came before is not this page's
        self.driver.get(path.as_uri())

    def get(self, css: str) -> Any:
        return self.driver.find_element("css selector", css)

    def shown(self) -> list[str]:
        names: list[str] = self.do(SHOWN)
        return names

    def said(self, text: str) -> None:
        """Wait until the live region says it."""
        until = time.monotonic() + 10
        while (now := self.get("#count").text) != text:
            assert time.monotonic() < until, f"the live region says {now!r}, expected {text!r}"
            time.sleep(0.05)

    def choose(self, control: str, value: str) -> None:
        self.get(f"#{control} option[value='{value}']").click()

    def order(self) -> dict[str, str]:
        """aria-sort by column, where there is one."""
        return {by: way for by, way in self.do(HEADS) if way}

    def media(self, *, kind: str = "", scheme: str = "light") -> None:
        """Pretend to be paper or a screen of that scheme."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        what = {"media": kind, "features": features}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", what)

    def press(self, key: str) -> None:
        """A key, for whatever has the focus."""
        from selenium.webdriver.common.keys import Keys

        self.driver.switch_to.active_element.send_keys(getattr(Keys, key))


CONTRAST = """
const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
const light = ([r, g, b]) =>
  0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
const back = (e) => {
  for (; e; e = e.parentElement) {
    const colour = rgb(getComputedStyle(e).backgroundColor);
    if (colour.length < 4 || colour[3] > 0) return colour;
  }
  return [255, 255, 255];
};
const low = [];
for (const e of document.querySelectorAll('body *')) {
  const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  if (!own || e.disabled || !e.checkVisibility()) continue;
  const style = getComputedStyle(e);
  const pair = [light(rgb(e.closest('svg') ? style.fill : style.color)), light(back(e))];
  const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  if (ratio < 4.5) low.push([e.outerHTML.slice(0, 80), ratio]);
}
return [low, back(document.body)];
"""  # WCAG 2.2, 1.4.3
