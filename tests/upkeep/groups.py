"""Which of the repository's own tests stay with one xdist process: they share what took it long.

The marks of --dist loadgroup do not do it: pytest-xdist 3.8 writes a mark's group into a place that
pytest 9.2 no longer reads, and spreads the tests in silence. Leaves out: which tests start first
(the mark `long`, in the root's conftest.py).
"""

from __future__ import annotations

import re
from typing import Any  # xdist has no types

import pytest

GROUPS = {
    r"test_mutants\.py::.*\[(\d\d)": "mutants",  # a lab's bugs share one run of them all
    r"test_variants\.py::test_(?:it_passes_the_gates|a_wrong_type)": "types",  # one run of mypy
    r"test_starter\.py::test_its_expressions": "expressions",  # one process asks them all
    r"test_attacks\.py::test_it_gets.*\[(0[1-9])-": "session",  # one a lab; 00 has many attacks
    r"test_exam\.py::test_the_reference_of_a_later_lab.*\[(\d\d)": "session",
    r"test_theory\.py::.*\[(0\d)-": "theory",  # a page's facts are measured once
    r"test_box(?:_files)?\.py::": "box",  # one box
    r"test_page_(?:browser|large)\.py::": "browser",  # one browser
}


def group_of(nodeid: str) -> str:
    """The group that a test stays with; its own id where it is in none."""
    for pattern, name in GROUPS.items():
        if found := re.search(pattern, nodeid):
            return "-".join([name, *filter(None, found.groups())])
    return nodeid


def scheduler(config: pytest.Config, log: Any) -> Any:
    """Whole groups to whoever is free, in the order collected."""
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

    class Grouped(LoadScopeScheduling):  # type: ignore[misc]  # Any
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return Grouped(config, log)
