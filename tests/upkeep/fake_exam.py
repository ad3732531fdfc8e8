"""An exam with the real one's shape that does what the submission's text says; for test_cohort.py.

Worker processes import it by name, so it stands in a module of its own. Every start and every
grade leaves a line in the file that MINITUNER_FAKE_LOG names. Leaves out: any judgement.

    python tests/upkeep/fake_exam.py FOLDER OUT JOBS    a run of its own, to be killed
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import sys
import time
from pathlib import Path
from typing import Any

from minituner.grading import cache, cohort
from minituner.grading.cache import Source
from minituner.grading.cohort import CohortResult
from minituner.grading.registry import Lab, lab
from minituner.grading.report import Report, TaskResult

LOG = "MINITUNER_FAKE_LOG"
LAB = lab("00")
TIMES = re.compile(rb'"(seed|duration_s)": [^,\n]+')


def log(line: str) -> None:
    """One line, in one write: several processes share the file."""
    with open(os.environ[LOG], "a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"{line}\n")


def logged(kind: str) -> list[str]:
    """What was logged of one kind, so far."""
    path = Path(os.environ[LOG])
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [rest for word, _, rest in (line.partition(" ") for line in lines) if word == kind]


def star(submission: Path) -> Path:
    return submission if submission.is_file() else submission / "lora.py"


def read(which: Lab, submission: Path) -> Source:
    """The star file alone; the label is the submission's own name."""
    try:
        text = star(submission).read_bytes()
    except OSError:
        text = b"none"
    return Source(hashlib.sha256(text).hexdigest(), os.fsdecode(submission.name))


def report(which: Lab, score: int, seed: int, text: str = "", outcome: str = "failed") -> Report:
    """Tasks passed from the first on while their points fit into the score."""
    tasks, left = [], score
    for task in which.tasks:
        passed = task.points <= left
        left -= task.points if passed else 0
        points = task.points if passed else 0
        said = "passed" if passed else outcome
        message = "" if passed else f"measured: {text}"
        test = "" if passed or not task.tests else task.tests[0]
        verdict = TaskResult(task.id, said, points, task.points, message, test=test)  # type: ignore[arg-type] # of JSON
        tasks.append(verdict)
    total = sum(task.points for task in tasks)
    rest = (seed, {"fake": "1"}, round(random.random(), 3), (), tuple(tasks))
    return Report(which.id, "lora.py", total, which.max_score, "practice", *rest)


class FakeExaminer:
    """`score N`, and any of these words: raise, raise-once, error, die, change, slow, long."""

    def __init__(self, which: Lab, require: str) -> None:
        self.lab = which

    def __enter__(self) -> FakeExaminer:
        log(f"start {os.getpid()}")
        return self

    def __exit__(self, *args: object) -> None:
        log(f"end {os.getpid()}")

    def examine(self, submission: Path, *, seed: int | None = None) -> Report:
        text = star(submission).read_text(encoding="utf-8")
        log(f"grade {submission.name!a}")
        words = text.split()
        done = Path(os.environ[LOG] + "." + hashlib.sha256(text.encode()).hexdigest())
        if "slow" in words:
            time.sleep(0.05)
        if "die" in words:
            os._exit(9)
        if "raise" in words or ("raise-once" in words and not done.exists()):
            done.touch()
            raise RuntimeError("the box\nis gone")
        if "change" in words:
            star(submission).write_text(f"{text} ", encoding="utf-8")
        said = "x" * 100_000 if "long" in words else text
        outcome = "error" if "error" in words else "failed"
        rolled = random.SystemRandom().randrange(2**31) if seed is None else seed
        return report(self.lab, int(words[words.index("score") + 1]), rolled, said, outcome)


class Unstartable(FakeExaminer):
    """An exam whose canary does not get full marks."""

    def __enter__(self) -> FakeExaminer:
        super().__enter__()
        raise RuntimeError("the reference got 93 of 100")


def hand_in(folder: Path, texts: dict[str, str] | dict[bytes, str]) -> Path:
    for name, text in texts.items():
        path = folder / os.fsdecode(name)
        path.mkdir(parents=True, exist_ok=True)
        (path / "lora.py").write_text(text, encoding="utf-8")
    return folder


def run(folder: Path, out: Path, *, jobs: int = 1, **more: Any) -> CohortResult:
    options: dict[str, Any] = {"make_examiner": FakeExaminer, "reader": read} | more
    return cohort.run_cohort(LAB, folder, out, jobs=jobs, **options)


def results(out: Path) -> dict[str, dict[str, Any]]:
    """Every result by its submission's shown name."""
    found = [json.loads(path.read_bytes()) for path in (out / "results").iterdir()]
    return {result["submission"]: result for result in found}


def timeless(out: Path) -> dict[str, bytes]:
    """Every file of a run but its lock, times and seeds blanked."""
    files = [path for path in out.rglob("*") if path.is_file() and ".lock" not in path.name]
    return {
        str(path.relative_to(out)): TIMES.sub(rb'"\1": 0', path.read_bytes())
        for path in files
        if path.name
        not in ("report.html", "scores.csv")  # they show seeds; same results, same page
    }


def verdict(
    name: str, letters: str, *, message: str = "", cause: str = "", test: str = ""
) -> dict[str, Any]:
    """A result as it lies in a file; a letter a task: p passed, f failed, t todo, b blocked."""
    outcomes = {"p": "passed", "f": "failed", "t": "todo", "b": "blocked"}
    tasks = []
    for task, letter in zip(LAB.tasks, letters.ljust(len(LAB.tasks), letters[-1]), strict=True):
        failed = letter == "f"
        row: dict[str, Any] = {
            "id": task.id,
            "outcome": outcomes[letter],
            "max_points": task.points,
        }
        row |= {"points": task.points if letter == "p" else 0, "where": ""}
        row |= {"message": message if letter in "ft" else "", "misconception": cause * failed}
        tasks.append(row | {"test": (test or next(iter(task.tests), "")) if failed else ""})
    points = sum(row["points"] for row in tasks)
    whole: dict[str, Any] = {"isolation": "standard", "seed": 7, "gates": [], "tasks": tasks}
    whole |= {"score": points, "max_score": LAB.max_score}
    return {
        "submission": name,
        "result": f"{cache.stem(name)}.json",
        "error": "",
        "report": whole,
    }


def fault(name: str, why: str = "the box is gone") -> dict[str, Any]:
    """A result that is a fault of ours."""
    return verdict(name, "p") | {"report": None, "error": why}


if __name__ == "__main__":
    import fake_exam  # workers know the functions by this name, not by __main__

    folder, out, jobs = sys.argv[1:]
    cohort.run_cohort(
        LAB,
        Path(folder),
        Path(out),
        jobs=int(jobs),
        make_examiner=fake_exam.FakeExaminer,
        reader=fake_exam.read,
    )
