"""The commands as a learner types them: cards, exit codes, languages, reset and doctor."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from readme_output import fresh_clone

from minituner.grading.registry import ROOT, lab, labs
from minituner.grading.stub import stub

LAB = lab("00")
REFERENCE = (ROOT / LAB.reference).read_text(encoding="utf-8")


def minituner(*args: str, root: Path = ROOT, say: str = "") -> subprocess.CompletedProcess[str]:
    """`python -m minituner …` of the given clone, 80 columns, in English unless told otherwise."""
    clean = {k: v for k, v in os.environ.items() if k not in ("MINITUNER_LANG", "LC_ALL", "LANG")}
    env = clean | {"PYTHONPATH": str(root / "src"), "COLUMNS": "80", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-m", "minituner", *args]
    return subprocess.run(
        command, cwd=root, env=env, input=say, capture_output=True, encoding="utf-8", check=False
    )


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone of its own, with the stub in place: reset may write here."""
    fresh_clone(tmp_path)
    return tmp_path


def test_grade_on_a_fresh_clone(clone: Path) -> None:
    """0/100, every code task todo, what to do next, exit 1."""
    done = minituner("grade", root=clone)
    assert done.returncode == 1, done.stderr
    assert "total 0/100" in done.stdout
    assert done.stdout.count("○ todo") == sum(task.kind == "code" for task in LAB.tasks)
    assert "next  A1 · check the arguments and store the fields" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_grade_the_reference(tmp_path: Path) -> None:
    """100/100 and exit 0; --junit has a testcase a test, each with its task."""
    path = tmp_path / "junit.xml"
    done = minituner("grade", "--impl", "reference", "--junit", str(path))
    assert (done.returncode, "total 100/100" in done.stdout) == (0, True), done.stdout
    cases = ET.parse(path).getroot().findall(".//testcase")
    tasks = {c.attrib["name"].split("[")[0]: c.find(".//property[@name='task']") for c in cases}
    assert {k: v.attrib["value"] for k, v in tasks.items() if v is not None} == LAB.task_of()


def test_grade_in_spanish(clone: Path) -> None:
    """--lang es, and a Spanish locale without it; no English task title is left."""
    done = minituner("grade", "--lang", "es", root=clone)
    assert done.returncode == 1
    assert "total 0/100" in done.stdout
    for task in LAB.tasks:
        if task.title.en != task.title.es:
            assert task.title.en[:30] not in done.stdout
    assert LAB.task("A1").title.es in done.stdout
    assert f"{LAB.page.replace('.md', '.es.md')} A1" in done.stdout


def test_grade_as_json() -> None:
    """--json prints one JSON report and nothing else on stdout."""
    done = minituner("grade", "--impl", "reference", "--json", "--seed", "5")
    report = json.loads(done.stdout)
    assert (report["score"], report["seed"], report["isolation"]) == (100, 5, "none")
    assert [task["id"] for task in report["tasks"]] == [task.id for task in LAB.tasks]


def test_a_failure_fits_80_columns_and_says_what_next(tmp_path: Path) -> None:
    """Measured, expected, cause, reading, the test's name and the command to repeat it."""
    path = tmp_path / LAB.star
    path.write_text(
        REFERENCE.replace("out + self.scaling * update", "out + update"), encoding="utf-8"
    )
    done = minituner("grade", "--impl", str(path))
    shown = done.stdout.partition("next")[2]
    for word in ("A5", "measured:", "expected:", "likely cause:", "read:", "then  "):
        assert word in shown, done.stdout
    assert "pytest -k test_lora_init_identity_then_the_scale_is_alpha_over_r" in shown
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("grade", "--lab", "99"), "--lab: expected one of 00"),
        (("grade", "--impl", "no/such/place"), "--impl: expected a lora.py or a folder with one"),
        (("grade", "--lang", "fr"), "--lang: expected one of en, es, got fr"),
        (("reset", "--lab", "99"), "--lab: expected one of 00"),
        (("hint", "Z9"), "hint: expected one of A1, A2"),
        (("hint", "A5", "4"), "hint: expected a stage from 1 to 3, got 4"),
    ],
)
def test_a_wrong_call_is_one_line_and_exit_2(args: tuple[str, ...], said: str) -> None:
    """What, expected, got; no traceback."""
    done = minituner(*args)
    assert (done.returncode, done.stderr.startswith(said)) == (2, True), done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_broken_registry_is_our_fault(clone: Path) -> None:
    """Exit 2 and a line that says so, never the learner's 1."""
    (clone / "lab/labs.toml").write_text("this is no toml", encoding="utf-8")
    done = minituner("grade", root=clone)
    assert done.returncode == 2
    assert "our fault, not yours" in done.stderr


def test_a_contract_that_lost_a_test_is_our_fault(clone: Path) -> None:
    """A required id that does not exist is an error of ours: exit 2, no judgement."""
    contract = clone / LAB.contract
    text = contract.read_text(encoding="utf-8")
    lost = LAB.task("A3").tests[0]
    contract.write_text(text.replace(f"def {lost}", f"def {lost}_renamed"), encoding="utf-8")
    done = minituner("grade", "--impl", "reference", root=clone)
    assert done.returncode == 2, done.stdout
    assert "our fault, not yours" in done.stdout
    assert lost in done.stdout


def test_a_written_step_waits_for_the_one_still_raising(clone: Path) -> None:
    """With A1 written the card says that it waits for A2, names A2 next, and where it raises."""
    text = (clone / LAB.file).read_text(encoding="utf-8")
    raised = text[text.index("        raise NotImplementedError(") :]
    block = raised[: raised.index("        )\n") + len("        )\n")]
    answer = REFERENCE.partition("# BEGIN SOLUTION A1\n")[2].partition("        # END SOLUTION")[0]
    (clone / LAB.file).write_text(text.replace(block, answer, 1), encoding="utf-8")
    done = minituner("grade", root=clone)
    assert "○ waits A2   A1" in done.stdout, done.stdout
    assert "next  A2 · " in done.stdout
    assert "raises it: write the code there" in done.stdout


def test_reset_asks_keeps_a_copy_and_restores(clone: Path) -> None:
    """No changes nothing; yes restores the stub to the byte and keeps what was there."""
    path = clone / LAB.file
    path.write_text("mine = 1\n", encoding="utf-8")
    no = minituner("reset", root=clone, say="n\n")
    assert (no.returncode, path.read_text(encoding="utf-8")) == (1, "mine = 1\n")
    yes = minituner("reset", root=clone, say="y\n")
    assert yes.returncode == 0
    assert path.read_bytes() == stub(LAB).encode()
    kept = list(path.parent.glob("lora.py.2*"))
    assert [p.read_text(encoding="utf-8") for p in kept] == ["mine = 1\n"]
    again = minituner("reset", root=clone)
    assert "as shipped already" in again.stdout


def test_reset_without_the_solutions_says_what_to_do(clone: Path) -> None:
    """An instructor may take solutions/ out; then git has the stub."""
    (clone / LAB.reference).unlink()
    done = minituner("reset", "--yes", root=clone)
    assert done.returncode == 2
    assert f"git checkout {LAB.file}" in done.stderr


def test_grade_works_without_the_solutions(clone: Path) -> None:
    """A fork for students has no solutions/ folder: grading is the same."""
    shutil.rmtree(clone / "solutions")
    done = minituner("grade", root=clone)
    assert (done.returncode, "○ todo       D3" in done.stdout) == (1, True), done.stdout


def test_hints_come_one_at_a_time(clone: Path) -> None:
    """The first is a question; each call shows the next and says how, the last stays; es, too."""
    hints = LAB.task("A5").hints
    shown = [minituner("hint", "a5", root=clone).stdout for _ in range(4)]
    for text, hint in zip(shown, (*hints, hints[2]), strict=True):
        assert [other.en in text for other in hints] == [other is hint for other in hints]
    assert ["minituner hint A5" in text for text in shown] == [True, True, False, False]
    assert hints[0].en in minituner("hint", "A5", "1", root=clone).stdout
    assert ["minituner solution A" in text for text in shown] == [False, False, True, True]
    assert hints[2].es in minituner("hint", "A5", "--lang", "es", root=clone).stdout
    again = minituner("hint", "A6", "--lang", "es", root=clone).stdout
    assert "minituner hint A6 --lang es" in again, "the next command speaks the same language"
    assert LAB.task("A4").hints[0].en in minituner("hint", "A4", root=clone).stdout


def test_a_hint_for_no_task_is_for_the_open_one(clone: Path) -> None:
    """What the last run left open; before any run, the first task of the lab."""
    first = minituner("hint", "--lab", "01", root=clone)
    assert (first.returncode, first.stdout[:4]) == (0, "A1 ·")
    (clone / ".minituner").mkdir(exist_ok=True)
    row = {"at": 1, "score": 0, "max_score": 100, "tasks": {}, "task": "A5", "test": "x"}
    state = {"labs": {"00": row | {"stuck": 0, "seconds": {}}}}
    (clone / ".minituner/state.json").write_text(json.dumps(state), encoding="utf-8")
    assert minituner("hint", root=clone).stdout.startswith("A5 ·")


def test_no_hint_is_skipped(clone: Path) -> None:
    """A later stage than the next is refused with the command to type, and is not remembered."""
    done = minituner("hint", "A5", "3", root=clone)
    assert (done.returncode, done.stdout) == (2, "")
    assert "expected stage 1 of 3, which comes next, got 3; minituner hint A5 shows" in done.stderr
    assert LAB.task("A5").hints[0].en in minituner("hint", "A5", root=clone).stdout


SPOILT = ["", "[1]", '{"hints": [2]}', '{"hints": {"00/A5": "3"}}', '{"hints": {"00/A5": -1}}']


@pytest.mark.parametrize("held", [*SPOILT, pytest.param("[" * 9**5, id="deep")])
def test_a_spoilt_memory_starts_anew(clone: Path, held: str) -> None:
    """Whatever stands in the state file, the learner gets the first hint."""
    (clone / ".minituner").mkdir()
    (clone / ".minituner/state.json").write_text(held, encoding="utf-8")
    for hint in LAB.task("A5").hints[:2]:
        assert hint.en in minituner("hint", "A5", root=clone).stdout


def test_without_a_place_to_remember_a_hint_is_still_shown(clone: Path) -> None:
    """A file where the folder should be: nothing is kept, nothing fails."""
    (clone / ".minituner").touch()
    done = minituner("hint", "A5", root=clone)
    assert (done.returncode, done.stderr) == (0, "")
    assert LAB.task("A5").hints[0].en in done.stdout


@pytest.mark.long(20)
def test_doctor_is_well_here() -> None:
    """Python, every pinned tool, and the reference at 100."""
    done = minituner("doctor")
    assert done.returncode == 0, done.stdout
    assert "the reference gets 100/100" in done.stdout
    assert "torch" in done.stdout


def test_doctor_names_what_is_ill(clone: Path) -> None:
    """A tool of another version, and a reference that is not green: exit 2, each with its cure."""
    constraints = clone / "constraints.txt"
    text = constraints.read_text(encoding="utf-8")
    constraints.write_text(text.replace("ruff==", "ruff==0.0."), encoding="utf-8")
    reference = clone / LAB.reference
    reference.write_text(REFERENCE.replace("nn.init.zeros_", "nn.init.ones_"), encoding="utf-8")
    for other in list(labs().values())[1:]:
        (clone / other.reference).unlink()
    done = minituner("doctor", root=clone)
    assert done.returncode == 2
    assert "run: make lab" in done.stdout
    assert "A3 failed" in done.stdout
    assert done.stdout.count("is not here: the reference was not graded") == len(labs()) - 1


def test_every_command_has_an_example_and_a_sentence() -> None:
    """--help of each command shows one example."""
    top = minituner("--help").stdout
    for command in ("grade", "hint", "reset", "doctor"):
        assert command in top
        assert f"minituner {command}" in minituner(command, "--help").stdout
