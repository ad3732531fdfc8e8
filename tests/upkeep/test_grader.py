"""`grade` on files that are wrong, broken or hostile: the right words, our faults kept apart."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jsonschema
import pytest

from minituner.grading import child, practice
from minituner.grading.contract import ContractRun, run_contract
from minituner.grading.registry import ROOT, lab
from minituner.grading.report import GateResult, Report, Result, judge

LAB = lab("00")
REFERENCE = (ROOT / LAB.reference).read_text(encoding="utf-8")
SCHEMA = json.loads((ROOT / "tests/upkeep/report.schema.json").read_text(encoding="utf-8"))
FORWARD = "        out: Tensor = self.base(x)\n"
CODE = [task.id for task in LAB.tasks if task.kind == "code"]


def submit(tmp_path: Path, old: str, new: str) -> Path:
    """The reference with one edit, in a file of its own."""
    assert REFERENCE.count(old) == 1
    path = tmp_path / LAB.star
    path.write_text(REFERENCE.replace(old, new), encoding="utf-8")
    return path


def grade(path: Path, seed: int = 1) -> Report:
    report = practice.grade(LAB, practice.find(LAB, str(path)), seed=seed)
    jsonschema.validate(json.loads(json.dumps(report.to_json())), SCHEMA)
    return report


def outcomes(report: Report) -> dict[str, str]:
    return {task.id: task.outcome for task in report.tasks}


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINITUNER_LANG", "en")


def test_the_reference_gets_100() -> None:
    """Every task, the types and the notes; exit 0."""
    report = practice.grade(LAB, practice.find(LAB, "reference"))
    assert (report.score, report.exit_code) == (100, 0), report.tasks
    assert set(outcomes(report).values()) == {"passed"}
    jsonschema.validate(json.loads(json.dumps(report.to_json())), SCHEMA)


def test_the_stub_is_all_todo() -> None:
    """0 points, exit 1, code tasks todo, types and notes blocked."""
    report = practice.grade(LAB, practice.find(LAB, "student"))
    if "raise NotImplementedError" not in (ROOT / LAB.file).read_text(encoding="utf-8"):
        pytest.skip("src/minituner/lora.py is not the stub: somebody has solved it here")
    assert (report.score, report.exit_code) == (0, 1)
    expected = {task.id: "todo" if task.kind == "code" else "blocked" for task in LAB.tasks}
    assert outcomes(report) == expected


def test_one_seed_gives_one_verdict(tmp_path: Path) -> None:
    """--seed reproduces everything but the time."""
    path = submit(tmp_path, "self.scaling * update\n        # END", "update\n        # END")
    first, again = (grade(path, seed=7).to_json() for _ in range(2))
    assert first | {"duration_s": 0} == again | {"duration_s": 0}
    assert first["score"] < 100


def test_what_builds_on_a_failure_is_blocked(tmp_path: Path) -> None:
    """A missing scale is A5's failure; D2 builds on A5 and is blocked; what passes is paid."""
    path = submit(tmp_path, "self.scaling * update\n        # END", "update\n        # END")
    got = outcomes(grade(path))
    assert (got["A5"], got["D2"], got["S2"], got["S3"]) == (
        "failed",
        "blocked",
        "blocked",
        "blocked",
    )
    assert all(got[task] == "passed" for task in CODE if task not in ("A5", "D2"))


def test_a_failure_says_where_and_why(tmp_path: Path) -> None:
    """Measured, expected, cause and reading; or the learner's own line for a crash."""
    path = submit(tmp_path, "self.scaling * update\n        # END", "update\n        # END")
    a5 = next(task for task in grade(path).tasks if task.id == "A5")
    for word in ("measured:", "expected:", "likely cause:", "read:"):
        assert word in a5.message
    crash = submit(tmp_path, FORWARD, FORWARD + "        x.no_such_method()\n")
    a5 = next(task for task in grade(crash).tasks if task.id == "A5")
    assert "no_such_method" in a5.where
    assert a5.where.startswith("lora.py:")
    assert "AttributeError" in a5.message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def broken(:\n", "lora.py:1"),
        (REFERENCE.replace("class LoRALinear", "class LoraLinear"), "LoRALinear"),
        (REFERENCE.replace("def lora_state_dict", "def state_dict_of_lora"), "lora_state_dict"),
        ("import nothing_like_it\n" + REFERENCE, "nothing_like_it"),
        (REFERENCE + "\nundefined_name\n", "undefined_name"),
        (REFERENCE + "\nraise SystemExit(0)\n", "SystemExit"),
        (REFERENCE + "\nraise KeyboardInterrupt\n", "interrupt"),
        (REFERENCE + "\ntorch._C._abort()\n", "ended"),
        ("", "LoRALinear"),
    ],
    ids=["syntax", "class", "function", "import", "name", "exit", "interrupt", "abort", "empty"],
)
def test_a_file_that_cannot_be_imported_is_the_learners(
    tmp_path: Path, text: str, said: str
) -> None:
    """Exit 1, every code task failed, never error, and one message that names the cause."""
    path = tmp_path / LAB.star
    path.write_text(text, encoding="utf-8")
    report = grade(path)
    assert (report.score, report.exit_code) == (0, 1)
    assert {outcomes(report)[task] for task in CODE} == {"failed"}
    costing = [line for gate in report.gates if "*" in gate.costs for line in gate.findings]
    assert any(said in line for line in costing), costing


@pytest.mark.parametrize(
    "line",
    [
        "raise SystemExit(0)",
        "raise KeyboardInterrupt",
        "torch._C._abort()",
        "import pytest; pytest.exit('all fine', 0)",
        "import pytest; pytest.skip('no need')",
        "import pytest; pytest.xfail('as expected')",
        "import unittest; raise unittest.SkipTest",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    ],
)
def test_leaving_in_the_middle_earns_nothing(tmp_path: Path, line: str) -> None:
    """Exits, skips, aborts and signals inside forward fail the tests that meet them."""
    path = submit(tmp_path, FORWARD, f"        {line}\n{FORWARD}")
    run = run_contract(LAB, path, seed=3)
    assert run.broken == ""
    assert set(run.tests) == {name for task in LAB.tasks for name in task.tests}
    a5 = LAB.task("A5").tests
    assert all(run.tests[name].outcome == "failed" for name in a5)


def test_an_exit_code_of_zero_is_not_believed(tmp_path: Path) -> None:
    """atexit with os._exit(0) makes pytest's exit code 0; the verdict counts tests instead."""
    path = submit(tmp_path, "self.scaling * update\n        # END", "update\n        # END")
    text = path.read_text(encoding="utf-8")
    path.write_text(text + "\nimport atexit, os\natexit.register(lambda: os._exit(0))\n")
    run = run_contract(LAB, path, seed=3)
    name = "test_lora_init_identity_then_the_worked_example"
    assert run.tests[name].outcome == "failed"
    assert run.tests["test_lora_merge_the_worked_example"].outcome == "passed"


@pytest.mark.parametrize("loop", ["while True: pass", "import time; time.sleep(1e6)"])
def test_an_endless_loop_is_stopped_and_named(tmp_path: Path, loop: str) -> None:
    """The test that hangs fails with the learner's line; the rest is told why it did not run."""
    path = submit(tmp_path, FORWARD, f"        {loop}\n{FORWARD}")
    run = run_contract(LAB, path, seed=3, test_seconds=1.0)
    assert run.broken == ""
    stopped = [t for t in run.tests.values() if "endless loop" in t.message]
    assert stopped
    assert any(loop in t.where or loop in t.message for t in stopped)
    assert all(t.outcome == "failed" for t in stopped)


def test_an_endless_import_is_stopped(tmp_path: Path) -> None:
    """A loop at module level is the learner's, with its line."""
    path = tmp_path / LAB.star
    path.write_text(REFERENCE + "\nwhile True: pass\n", encoding="utf-8")
    child.stock(1)  # the server has started: to import may take three times as long as a test
    run = run_contract(LAB, path, seed=3, test_seconds=1.0)
    assert run.broken == ""
    assert "while True: pass" in run.unrunnable


def test_a_test_without_a_result_is_our_error() -> None:
    """A required id that never came back is never a pass and never the learner's zero."""
    passed = {name: Result("passed") for task in LAB.tasks for name in task.tests}
    lost = LAB.task("A3").tests[0]
    tasks = judge(LAB, {k: v for k, v in passed.items() if k != lost}, {})
    a3 = next(task for task in tasks if task.id == "A3")
    assert (a3.outcome, a3.points, lost in a3.message) == ("error", 0, True)


def test_judging_pays_what_passes_and_blocks_what_waits() -> None:
    """A task whose tests pass is paid though a needed one failed; gates cost what they say."""
    tests = {name: Result("passed") for task in LAB.tasks for name in task.tests}
    tests[LAB.task("A1").tests[0]] = Result("failed", "why")
    tests[LAB.task("A2").tests[0]] = Result("failed", "because")
    tests[LAB.task("D3").tests[0]] = Result("todo", "D1: …")
    got = {task.id: task for task in judge(LAB, tests, {})}
    assert [got[t].outcome for t in ("A1", "A2", "A3", "D3", "S2")] == [
        "failed", "blocked", "passed", "todo", "blocked",
    ]  # fmt: skip
    green = {name: Result("passed") for name in tests}
    gate = GateResult("parameters", "failed", ("a linear",), ("A2",))
    got = {task.id: task for task in judge(LAB, green, {"parameters": gate})}
    assert (got["A2"].outcome, got["A2"].message, got["A3"].outcome) == (
        "failed",
        "a linear",
        "passed",
    )


def test_missing_and_pending_differ() -> None:
    """While results come in a task is pending; once the run is over it is an error."""
    names = {task.outcome for task in judge(LAB, {}, {}, finished=False)}
    assert names == {"pending"}
    assert {t.outcome for t in judge(LAB, {}, {}) if t.id in CODE} == {"error"}


def test_results_come_as_they_are_made() -> None:
    """The grader hears of each test before the last one has run."""
    heard: list[int] = []

    def hear(run: ContractRun) -> None:
        heard.append(len(run.tests))

    run_contract(LAB, ROOT / LAB.reference, seed=1, on_result=hear)
    assert heard[:3] == [1, 2, 3]
    assert heard[-1] == sum(len(task.tests) for task in LAB.tasks)


def test_a_folder_in_either_layout(tmp_path: Path) -> None:
    """The repository's own paths come first, then the flat names."""
    flat, deep = tmp_path / "flat", tmp_path / "deep"
    (deep / LAB.file).parent.mkdir(parents=True)
    flat.mkdir()
    for target in (flat / LAB.star, deep / LAB.file, deep / LAB.star):
        target.write_text("", encoding="utf-8")
    shutil.copy(ROOT / "solutions" / LAB.notes_flat, flat)
    assert practice.find(LAB, str(flat)).star == flat / LAB.star
    assert practice.find(LAB, str(flat)).notes == flat / LAB.notes_flat
    assert practice.find(LAB, str(deep)).star == deep / LAB.file
    with pytest.raises(practice.NoSuchFile, match=r"expected a lora\.py or a folder with one"):
        practice.find(LAB, str(tmp_path))
