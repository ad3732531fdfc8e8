"""A made-up course: many mixed submissions through `minituner cohort`, each verdict known.

    make thousand, or PYTHONPATH=tests/attacks python tests/upkeep/thousand.py COUNT

A third are right in other people's styles, a third are planted bugs, a third are hostile; no two
have the same bytes. Ends with what was wrong, what was left running, and the memory of the parent.
Leaves out: notes (nobody here has any, so a right file gets 96).
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import build
from harness import REFERENCE, mutants, variants

from minituner.grading import cache
from minituner.grading.cohort import run_cohort
from minituner.grading.registry import ROOT, lab

LAB = lab("00")
FIELDS = {"PORT": "1", "VICTIM": "999999999", "TITLE": "thousand", "ROOT": str(ROOT)}
Case = tuple[str, str, int | None, str]  # name, source, score or None, a task that must not pass


def right() -> Iterator[Case]:
    for path in cycle([REFERENCE, *variants()]):
        yield f"right-{path.parent.name}", path.read_text(encoding="utf-8"), 96, "S3"


def wrong() -> Iterator[Case]:
    for mutant in cycle(mutants()):
        yield f"wrong-{mutant.name}", mutant.source(), None, mutant.killed_by


def hostile(folder: Path) -> Iterator[Case]:
    fields = FIELDS | {"MARK": str(folder / "mark"), "TREE": str(folder / "tree")}
    files = [a for a in build.attacks() if a.kind == "file" and a.lab == LAB.id and not a.open]
    for attack in cycle(files):
        text = build.render(attack.name, fields)
        yield f"hostile-{attack.name}", text, attack.expected, ""


def cases(count: int, folder: Path) -> Iterator[Case]:
    """Taken in turn, so that neighbours are of different kinds."""
    for index, case in enumerate(islice(_turns(folder), count)):
        name, source, score, task = case
        yield f"{index:04}-{name}", f"{source}\n# {index}\n", score, task


def _turns(folder: Path) -> Iterator[Case]:
    for three in zip(right(), wrong(), hostile(folder), strict=False):
        yield from three


def main(count: int) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        expected = {}
        for case, source, score, task in cases(count, folder):
            (folder / "in" / case).mkdir(parents=True)
            (folder / "in" / case / LAB.star).write_text(source, encoding="utf-8")
            expected[case] = (score, task)
        started = time.monotonic()
        done = run_cohort(LAB, folder / "in", folder / "out", jobs=2)
        took = time.monotonic() - started
        print(done)
        wrongly = list(_compared(folder / "out", expected))
        marks = [path.name for path in folder.iterdir() if path.name not in ("in", "out")]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{count} submissions in {took:.0f} s, {count / took:.2f} a second; parent {peak} MiB")
    print(f"wrong verdicts: {wrongly or 'none'}; marks: {marks or 'none'}; running: {_left()}")
    return 1 if wrongly or marks or done.errors else 0


def _compared(out: Path, expected: dict[str, tuple[int | None, str]]) -> Iterator[str]:
    store = cache.Store(out, cache.grader_version(LAB))
    for case, (score, task) in expected.items():
        result = store.load(case)
        report = None if result is None else result["report"]
        if report is None:
            yield f"{case}: no report"
            continue
        passed = {row["id"] for row in report["tasks"] if row["outcome"] == "passed"}
        if task in passed or (score is not None and report["score"] != score):
            yield f"{case}: {json.dumps(report['score'])}, passed {sorted(passed)}"


def _left() -> str:
    """Processes of the box or the desk that are still there (joblib's own workers idle apart)."""
    time.sleep(3)
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    rows = [line for line in listed.stdout.splitlines() if "grading.box.start" in line]
    return str(rows or "none")


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
