"""`minituner exam` and `minituner cohort` as an instructor types them: words, files, exit codes."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minituner.grading.registry import ROOT, labs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the exam needs Linux")


def minituner(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, in English unless the words say otherwise."""
    return subprocess.run(
        [sys.executable, "-m", "minituner", *words],
        cwd=cwd,
        env=os.environ | {"MINITUNER_LANG": "en", "COLUMNS": "80", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def test_the_reference_gets_everything_on_a_card() -> None:
    """The card names the isolation and the seed; exit 0."""
    done = minituner("exam", "solutions", "--seed", "7")
    assert done.returncode == 0, done.stderr
    assert "total 100/100   exam · isolation " in done.stdout
    assert "seed 7" in done.stdout


def test_the_stub_gets_nothing_in_spanish() -> None:
    """Exit 1, the next step, and the reader's language."""
    done = minituner("exam", "src/minituner/lora.py", "--lang", "es")
    assert done.returncode == 1, done.stderr
    assert "total 0/100   examen · aislamiento " in done.stdout
    assert "siguiente  A1" in done.stdout


def test_a_report_is_written_whole(tmp_path: Path) -> None:
    """--out makes the file and no other; --json is the report of the schema."""
    out = tmp_path / "out.json"
    done = minituner("exam", "solutions", "--json", "--out", str(out))
    assert (done.returncode, done.stdout) == (0, "")
    report = json.loads(out.read_text(encoding="utf-8"))
    assert (report["score"], report["lab"]) == (100, "00")
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("exam", "nobody"), "nobody: no such file or folder"),
        (("exam", "solutions", "--format", "pdf"), "--format: expected one of card, json"),
        (("exam", "solutions", "--require", "moat"), "--require: expected one of practice"),
        (
            ("exam", "solutions", "--lab", "77"),
            f"--lab: expected one of {', '.join(labs())}, got 77",
        ),
        (("exam", "solutions", "--out", "no/such/out.json"), "--out: no such folder"),
        (("cohort", "nobody", "--out", "x"), "nobody"),
        (("cohort", "solutions", "--out", "x", "--shard", "3"), "--shard: expected i/n"),
        (("cohort", "solutions", "--out", "x", "--engine", "steam"), "--engine"),
    ],
)
def test_a_wrong_call_is_one_clear_line(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    """What was expected and what came, exit 2, and nothing made."""
    shutil.copytree(ROOT / "solutions", tmp_path / "solutions")
    done = minituner(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["solutions"]


def test_a_course_is_graded_and_goes_on(tmp_path: Path) -> None:
    """Scores, page and results; the second call grades only what is new."""
    folder, out = tmp_path / "in", tmp_path / "out"
    (folder / "ada").mkdir(parents=True)
    shutil.copy(ROOT / "solutions/lora.py", folder / "ada")
    shutil.copy(ROOT / "src/minituner/lora.py", folder / "zoe.py")
    first = minituner("cohort", str(folder), "--out", str(out), "--jobs", "1")
    assert first.returncode == 0, first.stderr
    with (out / "scores.csv").open(encoding="utf-8", newline="") as file:
        scores = {row["submission"]: row["score"] for row in csv.DictReader(file)}
    assert scores == {"ada": "96", "zoe.py": "0"}
    assert (out / "report.html").stat().st_size > 1000
    again = minituner("cohort", str(folder), "--out", str(out), "--jobs", "1")
    assert again.returncode == 0
    assert "0 graded now, 2 reused" in again.stdout
