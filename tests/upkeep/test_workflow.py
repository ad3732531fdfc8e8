"""The GitHub workflow's own steps, run as a runner runs them, and the Dockerfile's structure.

Leaves out: runners and container engines; there is no YAML parser here, so steps are cut out by
their indentation.
"""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from golden import samples
from stage import EXAM, HOME, ROOT, SCRIPTS, TORCH, Done, bash, build, pretend

from minituner.grading.formats import FORMS, render

WORKFLOW = (HOME / "github/workflow.yml").read_text(encoding="utf-8")
DOCKERFILE = (HOME / "docker/Dockerfile").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tmp_path, monkeypatch)


def step(name: str) -> str:
    """The script of one step of the workflow; there is no YAML parser here."""
    found = re.search(rf"- name: {name}\n(?:.*\n)*?( +)run: \|\n((?:\1  .*\n|\n)+)", WORKFLOW)
    assert found is not None, name
    return textwrap.dedent(found[2])


def play(tmp_path: Path, name: str) -> Done:
    """One step, as a runner has it run: bash -e, in the workspace."""
    (tmp_path / "step").write_text(step(name), encoding="utf-8")
    return bash("--noprofile", "--norc", "-eo", "pipefail", tmp_path / "step", cwd=tmp_path)


def test_the_workflow_grades_shows_and_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps' own scripts, in their order, on a mixed report."""
    for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("LAB", "00")
    stored = tmp_path / "stored"
    stored.write_text(render(samples.mixed(), samples.LAB, "json"), encoding="utf-8")
    said = 'echo "::error::forged"; cp "' + str(stored) + '" "$OUT"; exit 1'
    pretend(tmp_path / "bin/minituner", EXAM + said)
    done = play(tmp_path, "Exam")
    assert done.returncode == 0, done.stderr
    first, forged, last = done.stdout.splitlines()
    token = re.fullmatch(r"::stop-commands::([0-9a-f]{32})", first)
    assert token is not None and last == f"::{token[1]}::" and forged == "::error::forged"
    log = (tmp_path / "log").read_text()
    assert log == "exam . --lab 00 --require practice --format json --out report.json\n"
    assert (tmp_path / "GITHUB_OUTPUT").read_text() == "status=1\n"
    done = play(tmp_path, "Show")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "GITHUB_STEP_SUMMARY").read_text(encoding="utf-8")
    assert page == render(samples.mixed(), samples.LAB, "markdown")
    assert "\nresult=" in (tmp_path / "GITHUB_OUTPUT").read_text()
    assert done.stdout.startswith("::error file=src/minituner/lora.py,line=41,title=A5")
    assert (tmp_path / "report.xml").read_text(encoding="utf-8").startswith("<?xml")
    for status, code in (("0", 0), ("1", 1), ("2", 2), ("", 2)):
        monkeypatch.setenv("STATUS", status)
        assert play(tmp_path, "Verdict").returncode == code


def test_the_workflow_says_what_it_is_and_may_do_little() -> None:
    """Feedback, read-only, no token left behind, and no expression inside a script."""
    assert "It is feedback, not the grade" in WORKFLOW
    assert "permissions:\n  contents: read\n" in WORKFLOW
    assert "persist-credentials: false" in WORKFLOW
    assert "\t" not in WORKFLOW
    for name in ("Install", "Exam", "Show", "Verdict"):
        assert "${{" not in step(name), name  # a branch's name would be code there
    used = set(re.findall(r"grading\.formats (\w+)", WORKFLOW))
    assert used and used <= {*FORMS, "annotations"}


def test_the_dockerfile_is_slim_pinned_and_not_root() -> None:
    """python:3.11-slim, torch as pinned from the CPU index, a user, the exam at the end."""
    lines = [line for line in DOCKERFILE.splitlines() if line[:1].isupper()]
    assert lines[0] == "FROM python:3.11-slim"
    assert lines[-2:] == ['ENTRYPOINT ["minituner", "exam"]', 'CMD ["--help"]']
    assert [line for line in lines if line.startswith("USER")] == ["USER grader"]
    assert "ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu" in lines
    assert "--security-opt seccomp=unconfined" in DOCKERFILE
    ignored = (HOME / "docker/Dockerfile.dockerignore").read_text().split()
    assert {".git", ".venv", ".mypy_cache"} <= set(ignored)
    pins = re.findall(r"\$\((sed [^)]*)\)", DOCKERFILE + WORKFLOW + SCRIPTS[0].read_text())
    pins = [pin.replace("$REPOSITORY/", "") for pin in pins]
    assert len(pins) == 3 and TORCH
    assert {bash("-c", pin, cwd=ROOT).stdout.strip() for pin in pins} == {TORCH}


def test_every_option_is_one_that_the_exam_has() -> None:
    """The scripts, the workflow and the Dockerfile call the exam as it is."""
    files = [*SCRIPTS, HOME / "github/workflow.yml", HOME / "docker/Dockerfile"]
    calls = re.findall(r"minituner[- ]exam\b((?:\\\n|[^\n])*)", "".join(map(Path.read_text, files)))
    used = {option for call in calls for option in re.findall(r"--[a-z]+", call)}
    assert {"--lab", "--require", "--format", "--out", "--lang"} <= used
    command = [sys.executable, "-m", "minituner", "exam", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if shown.returncode:
        pytest.skip("minituner has no command exam yet")
    assert used <= set(re.findall(r"--[a-z]+", shown.stdout))
