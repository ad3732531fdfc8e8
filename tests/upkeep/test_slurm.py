"""autograder/slurm/array.sh: run as Slurm would run it, with a minituner that notes its arguments.

The second half runs it with the real cohort and the fake exam behind that name.
Leaves out: Slurm itself, which is not here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import fake_exam
import pytest
from fake_exam import hand_in, logged, timeless

from minituner.grading.registry import ROOT

SCRIPT = ROOT / "autograder" / "slurm" / "array.sh"
NOTE = '#!/bin/sh\nprintf "%s\\n" "$@" >"$NOTED"\nexit "${ENDS:-0}"\n'
# The command line of the real thing, as far as the script uses it.
REAL = f"""#!{sys.executable}
import argparse, pathlib, sys
sys.path[:0] = {[str(ROOT / "tests" / "upkeep")]!r}
import fake_exam
from minituner.grading import cohort
options = argparse.ArgumentParser()
options.add_argument("cohort"); options.add_argument("folder", type=pathlib.Path)
options.add_argument("--out", type=pathlib.Path)
options.add_argument("--merge", action="store_true")
options.add_argument("--shard", default="1/1"); options.add_argument("--jobs", type=int, default=1)
got = options.parse_args()
if got.merge:
    done = cohort.merge(fake_exam.LAB, got.folder, got.out, reader=fake_exam.read)
else:
    i, n = map(int, got.shard.split("/"))
    done = fake_exam.run(got.folder, got.out, jobs=got.jobs, shard=(i, n))
sys.exit(done.exit_code)
"""


@pytest.fixture(autouse=True)
def _linux_with_bash() -> None:
    if shutil.which("bash") is None:
        pytest.skip("no bash here; Slurm's nodes have one")


def submit(
    tmp_path: Path, *arguments: str, command: str = NOTE, **slurm: object
) -> subprocess.CompletedProcess[str]:
    """Run the script in tmp_path with SLURM_… set and `command` in place of minituner."""
    fake = tmp_path / "bin" / "minituner"
    fake.parent.mkdir(exist_ok=True)
    fake.write_text(command)
    fake.chmod(0o755)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "MINITUNER"))}
    env |= {"PATH": f"{fake.parent}:{env['PATH']}", "NOTED": str(tmp_path / "noted")}
    env |= {fake_exam.LOG: str(tmp_path / "log"), "MINITUNER_LANG": "en"}
    env |= {name: str(value) for name, value in slurm.items()}
    line = ["bash", str(SCRIPT), *arguments]
    return subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)


def noted(tmp_path: Path) -> list[str]:
    return (tmp_path / "noted").read_text().splitlines()


def test_the_script_is_bash() -> None:
    """bash reads it to the end, and sbatch finds its directives before the first command."""
    done = subprocess.run(["bash", "-n", str(SCRIPT)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    lines = SCRIPT.read_text().splitlines()
    code = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    directives = [i for i, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert lines[0].startswith("#!") and directives and max(directives) < code
    assert os.access(SCRIPT, os.X_OK)


@pytest.mark.parametrize(
    ("first", "step", "ids"),
    [(1, 1, [1, 2, 3]), (0, 1, [0, 1, 2]), (10, 10, [10, 20, 30])],
    ids=["1-3", "0-2", "10-30:10"],
)
def test_every_task_has_a_share_of_its_own(
    first: int, step: int, ids: list[int], tmp_path: Path
) -> None:
    """Whatever numbers the array has, its tasks take --shard 1/3, 2/3 and 3/3."""
    given: dict[str, Any] = {"SLURM_ARRAY_TASK_COUNT": 3, "SLURM_ARRAY_TASK_MIN": first}
    given |= {"SLURM_ARRAY_TASK_STEP": step, "SLURM_CPUS_PER_TASK": 4}
    shares = []
    for number in ids:
        submit(tmp_path, "a b", "out", "--seed", "7", SLURM_ARRAY_TASK_ID=number, **given)
        words = noted(tmp_path)
        assert words[:4] == ["cohort", "a b", "--out", "out"]
        assert words[-4:] == ["--jobs", "4", "--seed", "7"]
        shares.append(words[words.index("--shard") + 1])
    assert shares == ["1/3", "2/3", "3/3"]


def test_without_an_array_there_is_one_share(tmp_path: Path) -> None:
    """A plain job, or a shell, grades everything."""
    submit(tmp_path, "in", "out")
    assert noted(tmp_path) == ["cohort", "in", "--out", "out", "--shard", "1/1", "--jobs", "1"]


def test_the_merge_grades_nothing(tmp_path: Path) -> None:
    """--merge hands on to --merge, options included, with no share."""
    submit(tmp_path, "--merge", "in", "out", "--lang", "es", SLURM_ARRAY_TASK_ID=3)
    assert noted(tmp_path) == ["cohort", "in", "--out", "out", "--merge", "--lang", "es"]


def test_mistakes_and_failures_are_seen(tmp_path: Path) -> None:
    """A missing argument is exit 2 with a line; minituner's own exit code is the job's."""
    done = submit(tmp_path, "in")
    assert done.returncode == 2 and "expected [--merge] SUBMISSIONS OUT" in done.stderr
    assert not (tmp_path / "noted").exists()
    assert submit(tmp_path, "in", "out", ENDS=2).returncode == 2


def test_an_array_and_its_merge_grade_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three tasks, one of them twice, then the merge: everyone graded once, one summary."""
    monkeypatch.setenv(fake_exam.LOG, str(tmp_path / "log"))
    hand_in(tmp_path / "in", {f"s{i}": f"score {i * 5}" for i in range(12)})
    given: dict[str, Any] = {"SLURM_ARRAY_TASK_COUNT": 3, "SLURM_ARRAY_TASK_MIN": 1}
    for number in (3, 1, 1):
        done = submit(tmp_path, "in", "out", command=REAL, SLURM_ARRAY_TASK_ID=number, **given)
        assert done.returncode == 0, done.stderr
    early = submit(tmp_path, "--merge", "in", "out", command=REAL)
    missing = json.loads((tmp_path / "out/summary.json").read_bytes())["missing"]
    assert early.returncode == 2 and 0 < len(missing) < 12
    submit(tmp_path, "in", "out", command=REAL, SLURM_ARRAY_TASK_ID=2, **given)
    assert submit(tmp_path, "--merge", "in", "out", command=REAL).returncode == 0
    assert len(logged("grade")) == 12
    fake_exam.run(tmp_path / "in", tmp_path / "one")
    assert timeless(tmp_path / "out") == timeless(tmp_path / "one")
