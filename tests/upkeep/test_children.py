"""Children of a run: forked from one server, ended with what they leave, and cheap to the command.

What a child says is in test_grader.py; the exam's workers are in test_box.py.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness import LAB, REFERENCE
from processes import descendants

from minituner.grading import child, notes
from minituner.grading.child import REHEARSED
from minituner.grading.contract import run_contract
from minituner.grading.registry import ROOT, labs

SOURCE = REFERENCE.read_text(encoding="utf-8")
WITHOUT = """
import sys
import minituner.cli
from minituner.grading import practice
from minituner.grading.registry import lab

report = practice.grade(lab("00"), practice.find(lab("00"), sys.argv[1]))
found = {"torch", "pytest"} & set(sys.modules)
assert not found, found
print(report.score, [task.id for task in report.tasks if task.misconception])
"""


def write(folder: Path, text: str) -> Path:
    path = folder / LAB.star
    path.write_text(text, encoding="utf-8")
    return path


def test_a_command_loads_neither_torch_nor_pytest(tmp_path: Path) -> None:
    """Its children have them: a verdict, with the bug by name, that the command waits for less."""
    path = write(tmp_path, SOURCE.replace("out + self.scaling * update", "out + update"))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "['A5']" in done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is no server")
def test_a_child_does_not_look_for_garbage(tmp_path: Path) -> None:
    """It ends before that would pay; a run of pytest by hand looks, once all is loaded."""
    tells = "import gc\n        raise ValueError(f'looks: {gc.isenabled()}')\n        out: Tensor ="
    run = run_contract(LAB, write(tmp_path, SOURCE.replace("out: Tensor =", tells)), seed=3)
    said = "".join(test.message for test in run.tests.values())
    assert ("looks: False" in said, "looks: True" in said, gc.isenabled()) == (True, False, True)


@pytest.mark.skipif(sys.platform != "linux", reason="lists processes as Linux does")
def test_measuring_that_does_not_end_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The notes fail, and say what to run; nothing of it goes on."""
    monkeypatch.setenv("MINITUNER_LANG", "en")
    monkeypatch.setattr(notes, "MEASURE_SECONDS", 1.0)
    path = write(tmp_path, f"{SOURCE}\nwhile True:\n    pass\n")
    child.stock(1)  # the server has started
    child.unstock()
    before = set(descendants(os.getpid()))
    gate = notes.check_notes(LAB, path, ROOT / "solutions" / LAB.notes_flat)
    assert gate.outcome == "failed"
    assert "gave no values; run it yourself" in gate.findings[0]
    assert set(descendants(os.getpid())) <= before


def test_measuring_says_what_the_command_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The values of every lab as the command line gave them; and a stale digest is told."""
    monkeypatch.setenv("MINITUNER_LANG", "en")
    for lab in labs().values():
        star, written = ROOT / lab.reference, ROOT / "solutions" / lab.notes_flat
        assert notes.check_notes(lab, star, written).outcome == "passed", lab.id
    path = write(tmp_path, SOURCE + "\n")
    gate = notes.check_notes(LAB, path, ROOT / "solutions" / LAB.notes_flat)
    assert "stale" in gate.findings[0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="process groups are POSIX")
def test_nothing_outlives_the_run(tmp_path: Path) -> None:
    """A process that the file leaves behind is ended with the run."""
    mark = tmp_path / "alive"
    left = (
        "\nimport os, time\nif os.fork() == 0:\n    while True:\n"
        f"        open({str(mark)!r}, 'w').close(); time.sleep(0.05)\n"
    )
    run_contract(LAB, write(tmp_path, SOURCE + left), seed=3)
    mark.unlink(missing_ok=True)
    time.sleep(0.3)
    assert not mark.exists()


@pytest.mark.parametrize("chosen", [list(labs()), [LAB.id]], ids=["all", "one"])
def test_the_rehearsal_runs_and_leaves_nothing(chosen: list[str]) -> None:
    """The fork server met every test once (all red), and keeps no file a child must read anew."""
    paths = [path for one in labs().values() for path in (one.file, one.contract)]
    read_anew = ["conftest", *(Path(path).stem for path in paths)]
    told = (
        "import json, sys; before = list(sys.meta_path);"
        "from minituner.grading import rehearse;"
        f"kept = [n for n in sys.modules if n.split('.')[-1] in {read_anew}];"
        "print(json.dumps([rehearse.ENDED, kept, sys.meta_path[1:] == before]))"
    )
    few = " ".join(chosen) if len(chosen) == 1 else ""
    done = subprocess.run(
        [sys.executable, "-c", told],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
        env=os.environ | {REHEARSED: few},
    )
    red = dict.fromkeys(chosen, int(pytest.ExitCode.TESTS_FAILED))
    assert json.loads(done.stdout) == [red, [], True]


def test_a_child_does_not_import_the_program_that_started_it(tmp_path: Path) -> None:
    """Or each run would pay for the whole command line again; and it must not run twice."""
    program = tmp_path / "program.py"
    program.write_text(
        "from pathlib import Path\n"
        f"with open({str(tmp_path / 'starts')!r}, 'a') as log: log.write('x')\n"
        "from minituner.grading.contract import run_contract\n"
        "from minituner.grading.registry import ROOT, lab\n"
        "if __name__ == '__main__':\n"
        "    run = run_contract(lab('00'), ROOT / 'solutions/lora.py', seed=1)\n"
        "    assert len(run.tests) == 81, run\n",
        encoding="utf-8",
    )
    subprocess.run([sys.executable, str(program)], cwd=ROOT, check=True)
    assert (tmp_path / "starts").read_text(encoding="utf-8") == "x"
