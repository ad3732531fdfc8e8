"""What is remembered of a learner's work, and what status and solution make of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from harness import LAB, REFERENCE
from readme_output import fresh_clone
from test_cli import minituner

from minituner import cli_progress, memory
from minituner.grading.registry import ROOT
from minituner.grading.report import Report, TaskResult
from minituner.pieces import pieces


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(memory, "STATE", tmp_path / ".minituner" / "state.json")
    return tmp_path


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    fresh_clone(tmp_path)
    return tmp_path


def report(open_task: str, test: str = "test_x") -> Report:
    """A verdict in which everything before one task is green, and that one fails."""
    ids = [task.id for task in LAB.tasks]
    tasks = tuple(
        TaskResult(task.id, "passed", task.points, task.points)
        if ids.index(task.id) < ids.index(open_task)
        else TaskResult(task.id, "failed", 0, task.points, test=test)
        for task in LAB.tasks
    )
    score = sum(task.points for task in tasks)
    return Report("00", LAB.file, score, 100, "none", 1, {}, 0.1, (), tasks)


def test_time_goes_to_what_was_open(kept: Path) -> None:
    """The time between two runs is spent on the task that was open; a break counts as a pause."""
    memory.note_run(report("A1"), now=1000.0)
    memory.note_run(report("A5"), now=1060.0)
    memory.note_run(report("A5"), now=1100.0)
    memory.note_run(report("A5"), now=9100.0)
    memory.note_run(report("B1"), now=9110.0)
    seconds = memory.lab_state("00")["seconds"]
    assert seconds == {"A1": 60.0, "A5": 40.0 + memory.PAUSE + 10.0}


def test_long_on_one_test(kept: Path) -> None:
    """Only while the same test fails first; another one starts anew."""
    for run in range(6):
        memory.note_run(report("A5"), now=1000.0 + 240 * run)
    assert memory.stuck_seconds("00") == 1200.0 >= memory.LONG
    memory.note_run(report("A5", "test_y"), now=2300.0)
    assert memory.stuck_seconds("00") == 0.0


@pytest.mark.parametrize("spoilt", ['{"labs": 3}', '{"labs": {"00": {"at": "x"}}}', "[]", "\0"])
def test_a_spoilt_memory_is_none(kept: Path, spoilt: str) -> None:
    """It starts anew, and no command fails."""
    memory.STATE.parent.mkdir()
    memory.STATE.write_text(spoilt, encoding="utf-8")
    assert memory.lab_state("00") == {}
    assert memory.stuck_seconds("00") == 0.0
    memory.note_run(report("A1"), now=5.0)
    assert memory.lab_state("00")["task"] == "A1"


def test_status(clone: Path) -> None:
    """Before the first run, and after it, in each language."""
    words = {
        "en": ("not run yet", "total 0/100", "minutes at work", "next  A1"),
        "es": ("aún sin ejecutar", "total 0/100", "minutos de trabajo", "siguiente  A1"),
    }
    for language, said in words.items():
        before = minituner("status", "--lang", language, root=clone)
        assert (before.returncode, said[0] in before.stdout) == (0, True)
    assert minituner("grade", root=clone).returncode == 1
    for language, said in words.items():
        after = minituner("status", "--lang", language, root=clone)
        assert all(word in after.stdout for word in said[1:]), after.stdout
        assert max(map(len, after.stdout.splitlines())) <= 80


def test_a_solution_is_asked_for_once(clone: Path) -> None:
    """A no shows nothing, and names a hint; a yes shows the block beside one's own."""
    no = minituner("solution", "d", root=clone, say="n\n")
    assert (no.returncode, "with torch.no_grad()" in no.stdout) == (1, False)
    assert "hint D1" in no.stdout
    end = minituner("solution", "d", root=clone, say="")
    assert (end.returncode, "hint D1" in end.stdout, "Abort" in end.stderr) == (1, True, False)
    yes = minituner("solution", "D", root=clone, say="yes\n")
    assert (yes.returncode, "with torch.no_grad()" in yes.stdout) == (0, True)
    assert "raise NotImplementedError" in yes.stdout
    assert "SOLUTION" not in yes.stdout
    wrong = minituner("solution", "S", root=clone)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "expected a block of A, B, C, D, got S" in wrong.stderr


def test_a_green_block_is_shown_at_once(clone: Path) -> None:
    """Whoever has written it may compare."""
    (clone / LAB.file).write_text(REFERENCE.read_text(encoding="utf-8"), encoding="utf-8")
    minituner("grade", root=clone)
    shown = minituner("solution", "A", root=clone)
    assert (shown.returncode, shown.stdout.count("yours: ")) == (0, 2)  # __init__ and forward


def test_every_task_is_in_its_block() -> None:
    """The pieces of the blocks hold each marked region of the reference, once."""
    text = REFERENCE.read_text(encoding="utf-8")
    for block in "ABCD":
        shown = "\n".join(piece for _, piece in cli_progress.chosen(text, block))
        for body in re.findall(rf"# BEGIN SOLUTION {block}\d\n(.*?)# END", text, re.DOTALL):
            lines = [line.strip() for line in body.splitlines() if line.strip()]
            assert all(line in shown for line in lines)
    assert pieces("def broken(:") == {}


NOTES = (ROOT / LAB.notes).read_text(encoding="utf-8")


def test_each_line_to_predict_stands_in_the_notes() -> None:
    """The form asks for what the registry lists, in both languages, and for nothing else."""
    asked = [line for line in NOTES.splitlines() if re.match(r"- .* · .*:$", line)]
    listed = [f"- {one.label.en} · {one.label.es}:" for one in LAB.predict]
    assert sorted(asked) == sorted(listed)
    tasks = {task.id for task in LAB.tasks}
    assert {one.task for one in LAB.predict} <= tasks
    assert all(f"`{key}`" in NOTES for one in LAB.predict for key in one.keys)


def test_prediction_and_measurement_side_by_side(clone: Path) -> None:
    """The card of a green file shows both; an empty line, or one never measured, is left out."""
    (clone / LAB.file).write_text(REFERENCE.read_text(encoding="utf-8"), encoding="utf-8")
    notes = clone / LAB.notes
    asked = f"- {LAB.predict[1].label.en} · {LAB.predict[1].label.es}:"
    assert asked in NOTES
    text = NOTES.replace(asked, f"{asked} about 0.1?")
    notes.write_text(text.replace("| 0.0 | |", "| 0.0 | 0.0 |", 1), encoding="utf-8")
    for language, words in (("en", "you predicted"), ("es", "predijiste")):
        card = minituner("grade", "--lang", language, root=clone).stdout
        assert words in card
        assert re.search(r"about 0\.1\? +0\.0", card), card
        assert str(getattr(LAB.predict[0].label, language)) not in card


def test_a_prediction_is_asked_for_before_a_task(clone: Path) -> None:
    """While the line is empty and the task unwritten; an answer ends it."""
    a1 = REFERENCE.read_text(encoding="utf-8")
    begin = a1.index("# BEGIN SOLUTION A2\n")
    end = a1.index("# END SOLUTION", begin)
    a1 = f'{a1[:begin]}raise NotImplementedError("A2: later")\n        {a1[end:]}'
    (clone / LAB.file).write_text(a1, encoding="utf-8")
    words = {"en": "predict first", "es": "predice primero"}
    for language, word in words.items():
        assert word in minituner("grade", "--lang", language, root=clone).stdout
    asked = f"- {LAB.predict[0].label.en} · {LAB.predict[0].label.es}:"
    (clone / LAB.notes).write_text(NOTES.replace(asked, f"{asked} 1024"), encoding="utf-8")
    for language, word in words.items():
        assert word not in minituner("grade", "--lang", language, root=clone).stdout
