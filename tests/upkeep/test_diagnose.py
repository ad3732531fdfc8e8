"""Diagnosis: the right bug by name, two at once, and silence where nothing fits."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from diagnosing import FOLDER, counted
from harness import LAB, REFERENCE, Mutant, mutants
from sessions import Sessions
from signs import digest, measured, table_of

from minituner.grading import diagnose, practice
from minituner.grading.behave import signs
from minituner.grading.contract import ContractRun
from minituner.grading.diagnose import Signs
from minituner.grading.exam import Examiner
from minituner.grading.registry import ROOT, Lab, labs
from minituner.grading.report import Result, TaskResult, judge
from minituner.next_step import first_to_do

pytest_plugins = ["shared"]
every_lab = pytest.mark.parametrize("lab", labs().values(), ids=lambda lab: lab.id)
BUGS = diagnose.bugs(LAB.star)
CHECKS = [name for task in LAB.tasks for name in task.tests]
REFERENCE_TEXT = REFERENCE.read_text(encoding="utf-8")
SOURCE_WITHOUT_LOAD = REFERENCE_TEXT[: REFERENCE_TEXT.index("def load_lora_state_dict")]


@pytest.fixture
def examiner(sessions: Sessions) -> Examiner:
    return sessions.examiner(LAB)


def planted(name: str) -> Mutant:
    return next(mutant for mutant in mutants() if mutant.name == name)


def seen_of(bug: diagnose.Bug) -> Signs:
    """What a file with this bug alone shows, from the table."""
    return {check: bug.signs.get(check, "").replace(diagnose.CHANCE, "") for check in CHECKS}


def names(groups: list[tuple[diagnose.Bug, ...]]) -> list[list[str]]:
    return [[bug.name for bug in group] for group in groups]


@every_lab
def test_the_table_is_of_these_bugs_and_checks(lab: Lab) -> None:
    """It was measured with the reference, bugs, checks and torch that are here: `make signs`."""
    table = json.loads(table_of(lab).read_text(encoding="utf-8"))
    assert table["digest"] == digest(lab), "stale; run make signs"
    assert list(table["signs"]) == [mutant.name for mutant in mutants(lab)]


@every_lab
def test_the_table_is_measured(lab: Lab) -> None:
    """Measuring some bugs again gives what is written."""
    table = json.loads(table_of(lab).read_text(encoding="utf-8"))["signs"]
    chosen = random.sample(mutants(lab), 8)
    again = {mutant.name: measured(lab, mutant.source()) for mutant in chosen}
    assert again == {mutant.name: table[mutant.name] for mutant in chosen}


@every_lab
def test_most_planted_bugs_are_named_in_every_lab(lab: Lab) -> None:
    """Each that shows anything, alone or beside the one other that behaves the same."""
    known = diagnose.bugs(lab.star)
    every = [name for task in lab.tasks for name in task.tests]
    unnamed = [bug.name for bug in known if not _is_named(bug, known, every)]
    assert len(unnamed) <= len(known) // 10, unnamed


def _is_named(bug: diagnose.Bug, known: tuple[diagnose.Bug, ...], every: list[str]) -> bool:
    shown = {check: bug.signs.get(check, "").replace(diagnose.CHANCE, "") for check in every}
    found = diagnose.name(shown, known)
    return len(found) == 1 and bug in found[0]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_named(bug: diagnose.Bug) -> None:
    """Alone, or with the one other that behaves the same."""
    found = names(diagnose.name(seen_of(bug), BUGS))
    assert len(found) == 1
    assert bug.name in found[0]
    assert len(found[0]) <= 2


def test_almost_all_are_told_apart() -> None:
    """At most one pair of bugs behaves the same."""
    pairs = [b.name for b in BUGS if len(diagnose.name(seen_of(b), BUGS)[0]) > 1]
    assert len(pairs) <= 2, pairs


def test_nothing_is_said_of_what_is_right_or_like_nothing() -> None:
    """Green has no bug; a failure that no planted bug has is not given a name."""
    assert diagnose.name(dict.fromkeys(CHECKS, ""), BUGS) == []
    assert diagnose.name({}, BUGS) == []
    odd = dict.fromkeys(CHECKS, "") | dict.fromkeys(CHECKS[::7], "OSError: something else")
    assert diagnose.name(odd, BUGS) == []


def test_a_bug_is_named_while_the_rest_is_unwritten() -> None:
    """Block A written, with α/r forgotten; B, C and D still raise."""
    bug = planted("scale-forgotten")
    half = bug.source()
    for block in ("B1", "B2", "B3", "C1", "C2", "D1"):
        begin = half.index(f"# BEGIN SOLUTION {block}\n")
        end = half.index("# END SOLUTION", begin)
        half = f'{half[:begin]}raise NotImplementedError("{block}: later")\n    {half[end:]}'
    seen = signs(LAB, half)
    assert 0 < len(seen) < len(CHECKS)
    assert names(diagnose.name(seen, BUGS)) == [["scale-forgotten"]]


def test_a_repository_without_its_bugs_says_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An instructor may hand out a fork without tests/mutants."""
    monkeypatch.setattr(diagnose, "ROOT", tmp_path)
    diagnose.bugs.cache_clear()
    try:
        assert diagnose.bugs(LAB.star) == ()
        assert diagnose.name({CHECKS[0]: "0: x = 1"}, ()) == []
    finally:
        monkeypatch.undo()
        diagnose.bugs.cache_clear()


def test_a_bug_that_is_not_known_is_seldom_given_a_name() -> None:
    """Each bug against all the others: some are near neighbours, most are like nothing else."""
    others = {bug: [b for b in BUGS if b is not bug] for bug in BUGS}
    misnamed = [bug.name for bug in BUGS if diagnose.name(seen_of(bug), others[bug])]
    assert len(misnamed) <= 24, misnamed  # 20 of 181, as measured


@pytest.mark.parametrize(
    ("one", "other", "least", "most"),
    [
        ("0: max|x| = 2.11", "0: max|x| = 2.12", 1, 1),  # the same but for the last digits
        ("0: max|x| = 2.11", "0: max|x| = 4.22", 0, 0.3),  # another number is another bug
        ("0: max|x| = 2.11", "0: max|x| = ~2.3", 0.7, 0.9),  # drawn by luck: near will do
        ("0: max|x| = 2.11", "0: max|x| = ~40.0", 0.5, 0.65),
        ("0: max|x| = 2.11", "1: max|x| = 2.11", 0, 0.2),  # another claim of the same check
        ("TypeError: no", "ValueError: no", 0, 0.2),
        ("0: f(r=0) -> 'my words'", "0: f(r=0) -> 'your own'", 1, 1),  # what a learner's error says
        ("0: f(r=0) -> None", "0: f(r=0) -> 'your own'", 0, 0.85),
        ("0: x = (True, False, True)", "0: x = (True, True, True)", 0.5, 0.8),
    ],
)
def test_how_alike_two_signs_are(one: str, other: str, least: float, most: float) -> None:
    """Claims first, then words, then numbers; what luck has drawn is compared loosely."""
    assert least <= diagnose.alike(one, other) <= most


def test_what_a_file_says_cannot_break_the_judge(examiner: Examiner, tmp_path: Path) -> None:
    """An error text with the table's own mark of chance, and a very long one: advice, at most."""
    text = "The size of tensor a (~8) must match the size of tensor b (~3) at non-singleton "
    for said in (repr(f"{text}dimension ~1"), "'~1 ' * 50_000"):
        body = "def load_lora_state_dict(model: nn.Module, state: object) -> None:\n"
        source = f"{SOURCE_WITHOUT_LOAD}{body}    raise RuntimeError({said})\n"
        (tmp_path / LAB.star).write_text(source, encoding="utf-8")
        report = examiner.examine(tmp_path)
        assert {task.outcome for task in report.tasks} <= {"passed", "failed", "blocked"}
        assert report.score < 100
    results = {"a": Result("failed", sign="0: x = ~1" + "y" * 999), "b": Result("failed")}
    signs_seen = diagnose.seen(results)
    assert set(signs_seen) == {"a"}  # b lost its worker: it neither passed nor showed anything
    assert signs_seen["a"].startswith("0: x = 1y")
    assert len(signs_seen["a"]) == diagnose.LONGEST


def test_a_bug_is_told_at_its_own_task() -> None:
    """Where that failed; else at the first task that failed because of it."""
    every = tuple(TaskResult(task.id, "failed", 0, task.points, test="x") for task in LAB.tasks)
    task_of = LAB.task_of()
    late = [b for b in BUGS if b.task != min(task_of[check] for check in b.signs)]
    assert late, "no bug shows first in a task before its own"
    for bug in late[:5]:
        seen = seen_of(bug)
        assert set(misconceptions(diagnose.told(LAB, every, seen))) == {bug.task}
        without = tuple(task for task in every if task.id != bug.task)
        (place,) = misconceptions(diagnose.told(LAB, without, seen))
        assert place == min({task_of[check] for check in bug.signs} - {bug.task})


def test_the_cause_comes_before_what_follows_from_it() -> None:
    """A5 is blocked by A4, which fails only because of it: A5 is where to work."""
    bug = next(bug for bug in BUGS if bug.name == "scale-on-the-whole-output")
    tests = {check: Result("failed" if check in bug.signs else "passed", "x") for check in CHECKS}
    tasks = judge(LAB, tests, {})
    outcomes = {task.id: task.outcome for task in tasks}
    assert (outcomes["A4"], outcomes["A5"]) == ("failed", "blocked")
    tasks = diagnose.told(LAB, tasks, seen_of(bug))
    assert set(misconceptions(tasks)) == {"A5"}
    first = first_to_do(LAB, tasks)
    assert first is not None
    assert first.id == "A5"


def misconceptions(tasks: tuple[TaskResult, ...]) -> dict[str, str]:
    return {task.id: task.misconception for task in tasks if task.misconception}


def test_grade_and_exam_say_the_same(
    examiner: Examiner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two bugs, each told at its own task, in both verdicts and both languages."""
    star = tmp_path / LAB.star
    source = (FOLDER / "p_comprehensions" / LAB.star).read_text(encoding="utf-8")
    star.write_text(source, encoding="utf-8")
    told = {}
    for language in ("en", "es"):
        monkeypatch.setenv("MINITUNER_LANG", language)
        report = practice.grade(LAB, practice.Submission(star, None))
        told[language] = misconceptions(report.tasks)
        assert misconceptions(examiner.examine(tmp_path).tasks) == told[language]
    rows = [planted(name) for name in ("bare-suffix", "merge-without-the-scale")]
    for language in ("en", "es"):
        assert set(told[language]) == {row.killed_by for row in rows}
        for row in rows:
            said = told[language][row.killed_by]
            assert said.startswith(getattr(row.pitfall, language))
            cited = said.removeprefix(getattr(row.pitfall, language)).strip(" ()").split(", ")
            for place in cited:
                assert (ROOT / place.split()[0]).is_file(), place


def test_what_hangs_or_ends_is_not_diagnosed() -> None:
    """Its message says enough, and nothing more of it is run."""
    tests = {CHECKS[0]: Result("failed", "x")}
    assert practice.worth_diagnosing(ContractRun(tests))
    assert not practice.worth_diagnosing(ContractRun({CHECKS[0]: Result("todo", "A1: x")}))
    for trouble in ("unrunnable", "broken", "culprit"):
        run = ContractRun(tests)
        setattr(run, trouble, "x")
        assert not practice.worth_diagnosing(run)


@pytest.mark.long(20)
def test_on_solutions_by_other_hands() -> None:
    """`make diagnosis`: right names often, wrong ones hardly ever."""
    counts = counted().values()
    bugs, first, told, bad = (
        sum(getattr(count, field) for count in counts)
        for field in ("bugs", "first", "told", "wrong")
    )
    assert sum(count.files for count in counts) >= 70
    assert first / bugs >= 0.9, f"{first} of {bugs}"
    assert bad / told <= 0.03, f"{bad} of {told}"


def test_the_seed_alone_decides_what_is_asked() -> None:
    """Not the order of a set, which Python shuffles from process to process: an appeal repeats."""
    told = (
        "import sys, json; sys.path.insert(0, 'tests/upkeep');"
        "from harness import LAB, mutants; from minituner.grading.behave import signs;"
        "chosen = {'bare-suffix', 'state-by-the-text-lora', 'only-the-targets-frozen'};"
        "found = [signs(LAB, m.source()) for m in mutants() if m.name in chosen];"
        "print(json.dumps(found))"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", told],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]
    assert len(json.loads(runs[0])) == 3
    assert runs[0] == runs[1]
