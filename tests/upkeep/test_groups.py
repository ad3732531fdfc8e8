"""Tests that share what took long stay in one process, whatever pytest and xdist make of marks.

And what takes long starts first.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from groups import GROUPS, group_of

from minituner.grading.registry import ROOT

CONFTEST = """
import pytest
from groups import scheduler

@pytest.hookimpl
def pytest_xdist_make_scheduler(config, log):
    return scheduler(config, log)
"""
MUTANTS = """
import pytest

@pytest.mark.parametrize("lab", [f"0{i % 3}-bug{i}" for i in range(60)])
def test_it_dies(lab):
    pass
"""


@dataclass
class Drawn:
    """As much of a test as it takes to give it its turn."""

    name: str
    mark: pytest.MarkDecorator | None = None
    user_properties: list[tuple[str, object]] = field(default_factory=list)

    def iter_markers(self, name: str) -> Iterator[pytest.Mark]:
        return iter(())

    def get_closest_marker(self, name: str) -> pytest.Mark | None:
        return self.mark.mark if self.mark and self.mark.name == name else None


@pytest.mark.parametrize(
    ("nodeid", "group"),
    [
        (
            "tests/upkeep/test_mutants.py::test_it_dies_in_its_task[02-entries-clamped]",
            "mutants-02",
        ),
        ("tests/upkeep/test_mutants.py::test_no_two_behave_alike[02]", "mutants-02"),
        ("tests/upkeep/test_mutants.py::test_no_two_behave_alike[00]", "mutants-00"),
        (
            "tests/upkeep/test_theory.py::test_theory_doctests_run[05-x-.es.md]",
            "theory-05",
        ),
        ("tests/upkeep/test_attacks.py::test_it_gets_what[02-adapt-tells]", "session-02"),
        ("tests/upkeep/test_exam.py::test_the_reference_of_a_later_lab_gets_100[02]", "session-02"),
        ("tests/upkeep/test_box_files.py::test_x", "box"),
        ("tests/upkeep/test_variants.py::test_it_passes_the_gates[a]", "types"),
    ],
)
def test_a_test_is_in_its_group(nodeid: str, group: str) -> None:
    """By where it stands and what it is called."""
    assert group_of(nodeid) == group


def test_others_go_alone() -> None:
    """A test in no group may go anywhere."""
    alone = "tests/upkeep/test_variants.py::test_it_passes_the_contract[a]"
    assert group_of(alone) == alone


def test_every_group_is_of_tests_that_are_there() -> None:
    """A pattern that names a file or a test which has moved would group nothing."""
    here = Path(__file__).parent
    names = [
        f"{path.name}::{name}[01-x]"
        for path in here.glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)
    ]
    for pattern in GROUPS:
        assert any(re.search(pattern, name) for name in names), pattern


def test_what_takes_long_starts_first(pytestconfig: pytest.Config) -> None:
    """Before all, what needs no types of torch; the rest in the order drawn."""
    drawn = [
        Drawn("short"),
        Drawn("box", pytest.mark.long(40)),
        Drawn("early", pytest.mark.long(30, untyped=True)),
        Drawn("other"),
        Drawn("long", pytest.mark.long(130)),
    ]
    conftest = pytestconfig.pluginmanager.get_plugin(str(ROOT / "conftest.py"))
    assert conftest is not None
    conftest.pytest_collection_modifyitems(drawn)
    assert [item.name for item in drawn] == ["early", "long", "box", "short", "other"]


def test_a_group_stays_in_one_process(tmp_path: Path) -> None:
    """Seen from outside, in a run of two processes."""
    (tmp_path / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    (tmp_path / "test_mutants.py").write_text(MUTANTS, encoding="utf-8")
    words = [sys.executable, "-m", "pytest", "-v", "-n", "2", "--dist", "loadscope"]
    words += ["-p", "no:cacheprovider", "-o", f"pythonpath={Path(__file__).parent}", str(tmp_path)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    seen = defaultdict(set)
    for process, lab in re.findall(r"^\[(gw\d)\].*PASSED.*\[(0\d)-bug", done.stdout, re.MULTILINE):
        seen[lab].add(process)
    assert sorted(seen) == ["00", "01", "02"], done.stdout + done.stderr
    assert all(len(processes) == 1 for processes in seen.values()), seen
