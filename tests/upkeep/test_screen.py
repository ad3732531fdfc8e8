"""watch without a terminal: what its screen shows, what it remembers, which folders it looks at."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import pytest
from harness import LAB
from rich.console import Console

from minituner import memory, saves
from minituner.grading import practice
from minituner.grading.registry import ROOT
from minituner.grading.report import GateResult, Report, TaskResult
from minituner.grading.round import Finished
from minituner.screen import Screen, State, pitfall
from minituner.watch import Watch


@pytest.mark.parametrize(
    ("mounts", "distant"),
    [
        ("/dev/sda / ext4 rw 0 0\n", False),
        ("/dev/sda / ext4 rw 0 0\nhost:/x /home nfs4 rw 0 0\n", True),
        ("/dev/sda / ext4 rw 0 0\nC: /home/ada 9p rw 0 0\n", True),
        ("host:/x / nfs rw 0 0\n/dev/sdb /home/ada xfs rw 0 0\n", False),
        ("host:/x /home/adam cifs rw 0 0\n/dev/sda / ext4 rw 0 0\n", False),
        ("", False),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="/proc/mounts")
def test_which_folders_are_looked_at(tmp_path: Path, mounts: str, distant: bool) -> None:
    """By the file system of the nearest mount above."""
    listed = tmp_path / "mounts"
    listed.write_text(mounts, encoding="utf-8")
    assert saves.must_poll(Path("/home/ada/minituner"), listed) is distant
    assert not saves.must_poll(Path("/home/ada"), tmp_path / "absent")


def crowded(language: str, monkeypatch: pytest.MonkeyPatch) -> State:
    """A state with more to say than a small screen holds."""
    monkeypatch.setenv("MINITUNER_LANG", language)
    tasks = tuple(
        TaskResult(
            task.id,
            "failed",
            0,
            task.points,
            "measured: x\n" * 12,
            "y " * 200,
            "test_x",
            "lora.py:1",
        )
        for task in LAB.tasks
    )
    types = GateResult("types", "failed", ("lora.py:3: error: " + "long " * 60,))
    report = Report("00", LAB.file, 0, 100, "none", 1, {}, 0.1, (), tasks)
    return State(LAB, LAB.file, tasks, report, "doing", types, 0.4, 1.2, notices=["z " * 30])


@pytest.mark.parametrize("language", ["en", "es"])
@pytest.mark.parametrize("view", ["one", "all", "hint", "theory"])
@pytest.mark.parametrize("size", [(80, 24), (60, 20), (120, 50)])
def test_every_screen_fits(
    monkeypatch: pytest.MonkeyPatch, language: str, view: str, size: tuple[int, int]
) -> None:
    """As many lines as the terminal has, none wider; the keys are on the last one."""
    state = crowded(language, monkeypatch)
    state.view, state.hint = view, "h " * 900
    console = Console(width=size[0], height=size[1], force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(Screen(state), end="")
    lines = capture.get().split("\n")
    assert len(lines) == size[1]
    assert max(len(line) for line in lines) <= size[0]
    assert " q " in lines[-1]  # salir, quit


@pytest.mark.parametrize(("outcome", "counted"), [("failed", True), ("pending", False)])
def test_open_tasks_are_counted_when_all_is_known(
    monkeypatch: pytest.MonkeyPatch, outcome: Literal["failed", "pending"], counted: bool
) -> None:
    """While tests still run, nobody knows how many there are."""
    state = crowded("en", monkeypatch)
    last = replace(state.tasks[-1], outcome=outcome)
    state.tasks = (*state.tasks[:-1], last)
    console = Console(width=80, height=24, color_system=None)
    with console.capture() as capture:
        console.print(Screen(state), end="")
    assert (" open" in capture.get()) == counted


def test_a_pitfall_is_the_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its section and no more, in the reader's language."""
    for language, word in (("en", "Cure:"), ("es", "Remedio:")):
        monkeypatch.setenv("MINITUNER_LANG", language)
        for task in LAB.tasks:
            text = pitfall(LAB, task.pitfall)
            assert text.startswith(f"### {task.pitfall} · ")
            assert text.count("\n### ") == 0
        assert word.strip(":") in pitfall(LAB, "P1")


@pytest.mark.parametrize(
    ("language", "word"), [("en", "minutes on this one"), ("es", "minutos con")]
)
def test_after_twenty_minutes_the_reference_is_offered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, language: str, word: str
) -> None:
    """Of work on one failing test, and only while it is that one."""
    state = crowded(language, monkeypatch)
    assert state.report is not None
    monkeypatch.setattr(memory, "STATE", tmp_path / "state.json")
    star = ROOT / LAB.file
    watching = Watch(LAB, practice.Submission(star, None), Console(), poll=False)
    offered = []
    for now in (0.0, 290.0, 580.0, 870.0, 1160.0, 1210.0):
        monkeypatch.setattr(time, "time", partial(float, 1000.0 + now))
        watching._remember(Finished(1, state.report))
        offered.append([line for line in watching.state.notices if word in line])
    assert offered[:5] == [[]] * 5
    assert len(offered[5]) == 1
    assert "minituner solution A" in offered[5][0]
    other = replace(state.report, tasks=state.report.tasks[1:])
    watching._remember(Finished(2, other))
    assert watching.state.notices == []
