"""The Gradescope bundle: its very scripts, with a pretended minituner and Python.

Leaves out: Gradescope's harness, which only Gradescope has; github and docker (test_workflow.py).
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from stage import EXAM, HOME, ROOT, SCRIPTS, TORCH, Done, bash, build, pretend

from minituner.grading import tools
from minituner.grading.report import GateResult
from minituner.words import VARIABLE

RUN = SCRIPTS[1]


@pytest.fixture(autouse=True)
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tmp_path, monkeypatch)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.name))
def test_the_script_is_sound(script: Path) -> None:
    """Executable, parses, and clean under shellcheck where there is one."""
    assert os.access(script, os.X_OK)
    checks = [["bash", "-n"], *([["shellcheck"]] if shutil.which("shellcheck") else [])]
    for check in checks:
        done = subprocess.run([*check, str(script)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


# --- gradescope: run_autograder -------------------------------------------------------------------


@pytest.mark.parametrize("status", [0, 1])
def test_a_verdict_is_delivered_last_and_whole(tmp_path: Path, status: int) -> None:
    """The exam writes into a private folder; results.json appears when all is done."""
    results = tmp_path / "autograder" / "results"
    (results / "results.json").write_text("stale")
    look = 'ls -A "$AUTOGRADER/results" >>"$LOG"; stat -c %a "$(dirname "$OUT")" >>"$LOG"\n'
    pretend(tmp_path / "bin/minituner", f'{EXAM}{look}cp {tmp_path}/mixed "$OUT"; exit {status}')
    done = bash(RUN)
    assert done.returncode == 0, done.stderr
    call, *seen = (tmp_path / "log").read_text().splitlines()
    folder = tmp_path / "autograder" / "submission"
    wanted = f"exam {folder} --lab 00 --require standard --lang en --format gradescope --out "
    assert call.startswith(wanted)
    assert seen == ["700"]  # nothing lay in results meanwhile, and the folder was private
    out = Path(call.rpartition(" ")[2])
    assert not out.parent.exists() and not out.is_relative_to(tmp_path / "autograder")
    assert [path.name for path in results.iterdir()] == ["results.json"]
    assert (results / "results.json").read_text() == (tmp_path / "mixed").read_text()
    assert stat.S_IMODE((results / "results.json").stat().st_mode) == 0o644


@pytest.mark.parametrize(
    ("exam", "told"),
    [
        ('cp {tmp}/mixed "$OUT"; exit 2', "expected exit 0 or 1, got 2"),
        ('cp {tmp}/error "$OUT"; exit 1', "wrote no results"),
        ("exit 1", "wrote no results"),
        ('head -c 99 {tmp}/mixed >"$OUT"; exit 1', "wrote no results"),
        ('cp {tmp}/mixed "$OUT"; exit 127', "expected exit 0 or 1, got 127"),
        ('cp {tmp}/mixed "$OUT"; kill -9 $$', "killed for its memory"),
        ('cp {tmp}/mixed "$OUT"; sleep 30', "more than 1 s"),
    ],
)
def test_our_fault_delivers_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exam: str, told: str
) -> None:
    """A broken, killed or hanging exam leaves no results.json, no older one either, and exits 2."""
    monkeypatch.setenv("LIMIT", "1")
    results = tmp_path / "autograder" / "results"
    (results / "results.json").write_text("stale")
    pretend(tmp_path / "bin/minituner", EXAM + exam.format(tmp=tmp_path))
    done = bash(RUN)
    assert (done.returncode, list(results.iterdir())) == (2, [])
    assert done.stderr.splitlines()[-1].startswith("minituner: no grade was given: ")
    assert told in done.stderr


def test_the_settings_hold_and_a_variable_is_stronger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What build.sh wrote is used where nothing else is said."""
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("LEVEL", "authoritative")
    settings = ': "${LAB:=01}"\n: "${LEVEL:=practice}"\n: "${MINITUNER_LANG:=es}"\n'
    (tmp_path / "autograder/source/settings").write_text(settings)
    pretend(tmp_path / "bin/minituner", f'{EXAM}cp {tmp_path}/mixed "$OUT"')
    assert bash(RUN).returncode == 0
    assert " --lab 01 --require authoritative --lang es " in (tmp_path / "log").read_text()


# --- gradescope: setup.sh and build.sh ------------------------------------------------------------

PYTHON = """[ "$1" = -c ] && exit 0
if [ "$1" = - ]; then cat >/dev/null; echo warm >>"$LOG"; exit "${WARM:-0}"; fi
echo "$@" >>"$LOG"
if [ "$2" = venv ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; fi
"""


def set_up(tmp_path: Path, exam: str = "exit 0") -> tuple[Done, list[str]]:
    """setup.sh with a pretended Python and exam; what it called."""
    repository = tmp_path / "autograder/source/minituner"
    for name in ("solutions", "tests"):
        (repository / name).mkdir()
    shutil.copy(ROOT / "constraints.txt", repository)
    pretend(tmp_path / "bin/python3.13", PYTHON)
    pretend(tmp_path / "bin/minituner", EXAM + exam)
    done = bash(SCRIPTS[0])
    return done, (tmp_path / "log").read_text().splitlines()


def test_set_up_installs_what_is_pinned_and_grades_the_reference(tmp_path: Path) -> None:
    """torch from the CPU index, the rest by constraints.txt, mypy alone, then the reference."""
    done, log = set_up(tmp_path)
    assert done.returncode == 0, done.stderr
    source = tmp_path / "autograder/source"
    pip = "-m pip install --quiet --disable-pip-version-check --no-cache-dir"
    cpu = "--no-deps --index-url https://download.pytorch.org/whl/cpu"
    assert log == [
        f"-m venv {source}/venv",
        f"{pip} {cpu} torch=={TORCH}",
        f"{pip} --constraint {source}/minituner/constraints.txt --editable {source}/minituner",
        "warm",
        f"exam {source}/minituner/solutions --lab 00 --require standard --format json "
        f"--out {source}/reference.json",
    ]
    assert stat.S_IMODE((source / "minituner/solutions").stat().st_mode) == 0o700


@pytest.mark.parametrize(("warm", "exam"), [("1", "exit 0"), ("0", "exit 1"), ("0", "exit 2")])
def test_set_up_fails_when_the_reference_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warm: str, exam: str
) -> None:
    """A container in which the reference is not green is not built."""
    monkeypatch.setenv("WARM", warm)
    done, _ = set_up(tmp_path, exam)
    assert (done.returncode, done.stderr[:17]) == (2, "minituner setup: ")


def test_set_up_warms_the_graders_own_mypy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines that setup.sh gives to Python call the grader's types gate on the reference."""
    found = re.search(r"<<'WARM'.*?\n(.*?)\nWARM", SCRIPTS[0].read_text(), re.DOTALL)
    assert found is not None
    asked: list[Path] = []
    outcomes = iter([GateResult("types", "passed"), GateResult("types", "failed")])

    def check_types(path: Path, text: str) -> GateResult:
        asked.append(path)
        return next(outcomes)

    monkeypatch.setattr(tools, "check_types", check_types)
    monkeypatch.setattr(sys, "argv", ["-", "00"])
    for code in (0, 1):
        with pytest.raises(SystemExit) as left:
            exec(compile(found[1], "setup.sh", "exec"), {})
        assert int(left.value.code or 0) == code
    assert asked == [ROOT / "solutions/lora.py"] * 2


def test_the_bundle_has_the_scripts_at_its_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is committed, under minituner/; above it the scripts, executable, and the settings."""
    clone = tmp_path / "clone"
    shutil.copytree(HOME, clone / "autograder")
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@x", "-c", "core.hooksPath=/dev/null"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], cwd=clone, check=True, capture_output=True)
    (clone / "not-committed").write_text("")
    monkeypatch.setenv("MINITUNER_LANG", "es")
    done = bash(clone / "autograder/gradescope/build.sh", "out.zip", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/out.zip\n"), done.stderr
    with zipfile.ZipFile(tmp_path / "out.zip") as bundle:
        names = {info.filename: info.external_attr >> 16 & 0o111 for info in bundle.infolist()}
        settings = bundle.read("settings").decode()
    assert {name for name in names if "/" not in name} == {"setup.sh", "run_autograder", "settings"}
    assert names["setup.sh"] and names["run_autograder"]
    assert "minituner/autograder/docker/Dockerfile" in names
    assert not [name for name in names if "not-committed" in name]
    wanted = ["LAB:=00", "LEVEL:=standard", "MINITUNER_LANG:=es"]
    assert settings.splitlines() == [f': "${{{word}}}"' for word in wanted]
    monkeypatch.setenv("LAB", '00}"; id; "')
    assert bash(clone / "autograder/gradescope/build.sh", "no.zip", cwd=tmp_path).returncode == 2
    assert not (tmp_path / "no.zip").exists()
