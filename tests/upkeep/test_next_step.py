"""What a card asks for next: what is written and wrong first, where it is written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from harness import LAB, REFERENCE

from minituner.grading.registry import ROOT, labs
from minituner.grading.report import TaskResult
from minituner.next_step import detail_of, first_to_do
from minituner.pieces import pieces, tasks_at


def tasks(told: Mapping[str, TaskResult]) -> tuple[TaskResult, ...]:
    """Lab 00's tasks, passed but for those told."""
    return tuple(
        told.get(task.id, TaskResult(task.id, "passed", task.points, task.points))
        for task in LAB.tasks
    )


def failed(task: str, where: str = "", cause: str = "") -> TaskResult:
    return TaskResult(task, "failed", 0, 5, "a message", cause, "test_x", where)


def todo(task: str, raising: str = "") -> TaskResult:
    return TaskResult(task, "todo", 0, 5, f"{raising or task}: write it", test="test_x")


@pytest.mark.parametrize(
    ("told", "first"),
    [
        ([todo("B1"), failed("D1")], "D1"),
        ([todo("B1"), failed("C1"), failed("D1", cause="a cause")], "D1"),
        ([failed("A4"), TaskResult("A5", "blocked", 0, 9, "m", "a cause")], "A5"),
        ([todo("A1", raising="A2"), todo("A2")], "A2"),
        ([failed("A3"), failed("A5")], "A3"),
        ([TaskResult("S2", "blocked", 0, 6)], "S2"),
    ],
)
def test_wrong_comes_before_unwritten(told: list[TaskResult], first: str) -> None:
    """A known cause, then what failed, then what is to be written, then what waits."""
    found = first_to_do(LAB, tasks({task.id: task for task in told}))
    assert found is not None
    assert found.id == first


def line_of(text: str, source: str) -> str:
    number = next(i for i, line in enumerate(source.splitlines(), 1) if text in line)
    return f"lora.py:{number}  {text}"


def test_a_crash_is_where_it_is_written(tmp_path: Path) -> None:
    """A4's test dies in forward: that is A5's, though it be blocked by A4."""
    star = tmp_path / "lora.py"
    source = REFERENCE.read_text(encoding="utf-8")
    star.write_text(source, encoding="utf-8")
    where = line_of("update = F.linear(", source)
    told = {"A4": failed("A4", where), "A5": TaskResult("A5", "blocked", 0, 9, "m", where=where)}
    found = first_to_do(LAB, tasks(told), str(star))
    assert found is not None
    assert found.id == "A5"
    inside = line_of("super().__init__()", source)
    found = first_to_do(LAB, tasks({"A4": failed("A4", inside)}), str(star))
    assert found is not None
    assert found.id == "A4", "A4 is written in __init__ as well"


def test_a_line_that_nobody_knows_changes_nothing(tmp_path: Path) -> None:
    """No file, another file, a file with a slip, a function of the learner's own: no task."""
    star, source = tmp_path / "lora.py", REFERENCE.read_text(encoding="utf-8")
    star.write_text(source, encoding="utf-8")
    known = line_of("update = F.linear(", source)
    assert tasks_at(LAB, str(star), known) == ("A5",)
    assert tasks_at(LAB, "", known) == ()
    assert tasks_at(LAB, str(tmp_path / "none.py"), known.replace("lora", "none")) == ()
    assert tasks_at(LAB, str(star), known.replace("lora", "other")) == ()
    star.write_text("def mine() -> None:\n    pass\n", encoding="utf-8")
    assert tasks_at(LAB, str(star), "lora.py:2  pass") == ()
    assert tasks_at(LAB, str(star), "") == ()
    star.write_text("def (:\n", encoding="utf-8")
    assert tasks_at(LAB, str(star), "lora.py:1  def (:") == ()


@pytest.mark.parametrize("lab_id", list(labs()))
def test_every_code_task_is_written_in_a_function(lab_id: str) -> None:
    """But those that another task's code pays for, each block of the reference has its home."""
    lab = labs()[lab_id]
    source = (ROOT / lab.reference).read_text(encoding="utf-8")
    marked = {task for piece in pieces(source).values() for task in piece.tasks}
    assert marked <= {task.id for task in lab.tasks}
    assert {task[0] for task in marked} == {task.id[0] for task in lab.tasks if task.kind == "code"}


def test_the_learners_line_is_said_once() -> None:
    """The exam's message begins with it, the contract's does not."""
    line = "lora.py:7  a line"
    for message in (f"{line}\nRuntimeError: x", "RuntimeError: x"):
        task = TaskResult("A5", "failed", 0, 9, message, test="test_x", where=line)
        assert detail_of(LAB, (task,), task).plain.count(line) == 1
