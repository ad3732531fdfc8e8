"""The door: quoted output is real, and the counts it names are the repository's."""

from __future__ import annotations

from pathlib import Path

import pytest
from readme_output import BLOCK, PAGES, fresh_clone, rewritten

from minituner.grading.registry import ROOT, lab


def test_quoted_output_is_real(tmp_path: Path) -> None:
    """Running each quoted command again gives each page as it stands (make readme renews it)."""
    fresh_clone(tmp_path)
    for name in PAGES:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert len(BLOCK.findall(text)) == 2
        assert rewritten(text, tmp_path) == text


@pytest.mark.parametrize("name", PAGES)
def test_the_number_of_tests_is_the_contracts(name: str) -> None:
    """As shipped, N tests fail: N stands in the text, and it is the contract's."""
    count = sum(len(task.tests) for task in lab("00").tasks)
    text = BLOCK.sub("", (ROOT / name).read_text(encoding="utf-8"))
    assert text.count(f"{count} tests") + text.count(f"{count} pruebas") == 2


def test_the_experiment_is_where_the_page_says() -> None:
    """Every path in the README's map exists (parity.py follows the links)."""
    for path in ("Makefile", "constraints.txt", ".ci/run", "LICENSE", "CONTRIBUTING.md"):
        assert (ROOT / path).is_file(), path
