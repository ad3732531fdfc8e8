"""When a result still counts, and when a submission is graded again.

The exam is a fake (fake_exam.py). Leaves out: runs that are disturbed (test_cohort.py), names and
wrong calls (test_cohort_names.py).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_exam
import pytest
from fake_exam import LAB, hand_in, logged, results, run, timeless

from minituner.grading import cache


@pytest.fixture(autouse=True)
def _log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fake_exam.LOG, str(tmp_path / "log"))
    monkeypatch.setenv("MINITUNER_LANG", "en")


# --- again, and again -----------------------------------------------------------------------------


def test_a_second_run_grades_nothing(tmp_path: Path) -> None:
    """Idempotent: same submissions, same grader, not one grade and not one byte written again."""
    hand_in(tmp_path / "in", {f"s{i}": f"score {i}" for i in range(6)})
    first = run(tmp_path / "in", tmp_path / "out")
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "results").iterdir()}
    again = run(tmp_path / "in", tmp_path / "out")
    assert (first.graded, first.reused, again.graded, again.reused) == (6, 0, 0, 6)
    assert len(logged("grade")) == 6 and len(logged("start")) == 1
    assert stamps == {p: p.stat().st_mtime_ns for p in stamps}


def test_equal_bytes_are_graded_once_and_name_nobody_else(tmp_path: Path) -> None:
    """Identical submissions share a grade, now and later; each keeps its own name."""
    hand_in(tmp_path / "in", dict.fromkeys(("anna", "ben", "cleo"), "score 40"))
    first = run(tmp_path / "in", tmp_path / "out")
    assert (first.graded, first.reused, len(results(tmp_path / "out"))) == (1, 2, 3)
    hand_in(tmp_path / "in", {"dora": "score 40"})
    done = run(tmp_path / "in", tmp_path / "out")
    found = results(tmp_path / "out")
    assert (len(logged("grade")), done.reused) == (1, 4)
    assert {name: row["report"]["file"] for name, row in found.items()} == {n: n for n in found}
    assert len({row["score"] for row in found.values()}) == 1


STALE = ["source", "grader", "require", "seed", "language"]
STALE += ["fresh", "half", "foreign", "gone", "nothing"]


@pytest.mark.parametrize(
    ("change", "graded"),
    [
        (lambda tmp, mp: hand_in(tmp / "in", {"s1": "score 77"}), 1),
        (lambda tmp, mp: mp.setattr(cache, "grader_version", lambda lab: "another"), 3),
        (lambda tmp, mp: {"require": "standard"}, 3),
        (lambda tmp, mp: {"seed": 5}, 3),
        (lambda tmp, mp: mp.setenv("MINITUNER_LANG", "es"), 3),
        (lambda tmp, mp: {"fresh": True}, 3),
        (lambda tmp, mp: (tmp / "out/results/s2.json").write_text('{"half'), 1),
        (lambda tmp, mp: (tmp / "out/results/s2.json").write_text("[]"), 1),
        (lambda tmp, mp: (tmp / "out/results/s2.json").unlink(), 1),
        (lambda tmp, mp: None, 0),
    ],
    ids=STALE,
)
def test_what_is_stale_is_graded_again(
    change: Callable[[Path, pytest.MonkeyPatch], Any],
    graded: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A result holds for one source, one grader and one question; anything else is graded again."""
    hand_in(tmp_path / "in", {f"s{i}": f"score {i}0" for i in (1, 2, 3)})
    run(tmp_path / "in", tmp_path / "out")
    options = change(tmp_path, monkeypatch)
    again = run(tmp_path / "in", tmp_path / "out", **(options if isinstance(options, dict) else {}))
    assert again.graded == graded


def test_the_graders_version_covers_what_a_verdict_depends_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One byte in judge, registry, contract, reference or given code, one tool: another version."""
    names = ["src/minituner/grading/box/worker.py", "src/minituner/grading/judge.py"]
    names += [
        "lab/labs.toml",
        LAB.contract,
        LAB.reference,
        LAB.experiment,
        "src/minituner/minigpt.py",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("one")
    monkeypatch.setattr(cache, "ROOT", tmp_path)
    seen = [cache.grader_version(LAB)]
    for name in names:
        (tmp_path / name).write_text("two")
        seen.append(cache.grader_version(LAB))
    monkeypatch.setattr(cache, "versions", lambda: {"torch": "0"})
    seen.append(cache.grader_version(LAB))
    assert len(set(seen)) == len(names) + 2
    (tmp_path / "src/minituner/grading/page.py").write_text("it only shows")
    assert cache.grader_version(LAB) == seen[-1]


def test_a_seed_makes_a_run_reproducible(tmp_path: Path) -> None:
    """With --seed two runs differ in nothing but durations; without, each grade has its own."""
    hand_in(tmp_path / "in", {f"s{i}": f"score {i}0" for i in (1, 2, 3)})
    for out, seed in (("a", 7), ("b", 7), ("c", None)):
        run(tmp_path / "in", tmp_path / out, seed=seed)
    seeds = {o: {r["report"]["seed"] for r in results(tmp_path / o).values()} for o in "abc"}
    assert (seeds["a"], seeds["b"], len(seeds["c"])) == ({7}, {7}, 3)
    assert timeless(tmp_path / "a") == timeless(tmp_path / "b")


def test_a_grader_edited_meanwhile_does_not_empty_the_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run's summary counts what the run graded, though the grader's files changed meanwhile."""
    hand_in(tmp_path / "in", {f"s{i}": f"score {i}0" for i in (1, 2, 3)})

    def edit(done: int, total: int, errors: int) -> None:
        monkeypatch.setattr(cache, "grader_version", lambda lab: f"edited {done}")

    assert run(tmp_path / "in", tmp_path / "out", progress=edit).missing == 0
    assert json.loads((tmp_path / "out/summary.json").read_bytes())["graded"] == 3
    assert run(tmp_path / "in", tmp_path / "out").graded == 3, "by the next run they are stale"


# --- what is read ---------------------------------------------------------------------------------


def test_only_what_the_exam_reads_counts(tmp_path: Path) -> None:
    """The ★ file's and the notes' text make the source, in either layout; other files do not."""
    flat, deep = tmp_path / "flat", tmp_path / "deep"
    for path in (flat / LAB.star, deep / LAB.file):
        path.parent.mkdir(parents=True)
        path.write_text("x = 1")
    one, two = cache.read(LAB, flat), cache.read(LAB, deep)
    assert (one.digest, one.label, two.label) == (two.digest, LAB.star, LAB.file)
    (flat / "other.py").write_text("y = 2")
    assert cache.read(LAB, flat) == one
    seen = {one.digest}
    for name, text in ((LAB.notes_flat, "| r | | 8 |"), (LAB.notes_flat, ""), (LAB.star, "x = 2")):
        (flat / name).write_text(text)
        seen.add(cache.read(LAB, flat).digest)
    (flat / LAB.star).unlink()
    seen.add(cache.read(LAB, flat).digest)
    os.mkfifo(flat / LAB.star)
    seen.add(cache.read(LAB, flat).digest)
    seen.add(cache.read(LAB, tmp_path / "gone").digest)
    assert len(seen) == 7, "two different things to read have one digest"
