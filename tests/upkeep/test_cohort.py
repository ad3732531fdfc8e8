"""Many submissions at work: killed, interrupted, shared, starved; nothing of ours becomes a zero.

The exam is a fake (fake_exam.py), so that a run can be lied to at will.
Leaves out: names and what is stale (test_cohort_cache.py), the page (test_page.py).
"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import fake_exam
import pytest
from fake_exam import LAB, Unstartable, hand_in, logged, results, run, timeless

from minituner.grading import cache, crew
from minituner.grading.cache import CohortError
from minituner.grading.cohort import merge


@pytest.fixture(autouse=True)
def _log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fake_exam.LOG, str(tmp_path / "log"))
    monkeypatch.setenv("MINITUNER_LANG", "en")


def interrupt(after: int) -> Callable[[int, int, int], None]:
    def progress(done: int, total: int, errors: int) -> None:
        if done == after:
            raise KeyboardInterrupt

    return progress


# --- killed, interrupted, shared ------------------------------------------------------------------


def alive(pids: list[str]) -> list[str]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_killed_in_the_middle_nothing_is_lost_or_graded_twice(tmp_path: Path) -> None:
    """kill -9, start again: what was written stays, the rest is graded, the end is the same."""
    count, jobs = 60, 2
    hand_in(tmp_path / "in", {f"s{i}": f"slow score {i}" for i in range(count)})
    command = [sys.executable, fake_exam.__file__, str(tmp_path / "in"), str(tmp_path / "out")]
    child = subprocess.Popen([*command, str(jobs)])
    folder, until = tmp_path / "out" / "results", time.monotonic() + 60
    while not (folder.exists() and len(list(folder.glob("*.json"))) >= 15):
        assert child.poll() is None and time.monotonic() < until, (
            "the run ended before it was killed"
        )
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    workers = list(dict.fromkeys(logged("start")))
    while alive(workers) and time.monotonic() < until:
        time.sleep(0.1)
    assert alive(workers) == [], "workers outlive the run that was killed"

    saved = [json.loads(path.read_bytes())["submission"] for path in folder.glob("*.json")]
    assert 15 <= len(saved) < count
    before = logged("grade")
    done = run(tmp_path / "in", tmp_path / "out", jobs=jobs)
    after = logged("grade")[len(before) :]
    twice = set(after) & {ascii(name) for name in saved}
    assert (done.exit_code, len(after), twice) == (0, count - len(saved), set())
    assert len(before) - len(saved) <= 2 * jobs + 1, "more was under way than is handed out"

    run(tmp_path / "in", tmp_path / "undisturbed", jobs=jobs)
    assert timeless(tmp_path / "out") == timeless(tmp_path / "undisturbed")
    assert logged("end"), "no examiner was closed at the end of its worker"


def test_an_interrupted_run_leaves_whole_files_only(tmp_path: Path) -> None:
    """Ctrl-C after the third: three whole results, no summary, no other file; then the rest."""
    hand_in(tmp_path / "in", {f"s{i}": f"score {i}" for i in range(8)})
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "in", tmp_path / "out", progress=interrupt(3))
    files = sorted(p.name for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert [len(results(tmp_path / "out")), len(files)] == [3, 4], files  # and the lock
    assert logged("end"), "the examiner was left open"
    assert run(tmp_path / "in", tmp_path / "out").graded == 5


def test_a_file_is_whole_or_as_before(tmp_path: Path) -> None:
    """A write that breaks off leaves the old bytes and no other file."""
    path = tmp_path / "a.json"
    with cache.whole(path) as file:
        file.write(b"old")

    def broken() -> None:
        with cache.whole(path) as file:
            file.write(b"ne")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        broken()
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"old", ["a.json"])


def test_two_runs_of_one_shard_do_not_meet(tmp_path: Path) -> None:
    """A second run of a shard is refused while the first is at work; another shard is not."""
    hand_in(tmp_path / "in", {f"s{i}": f"score {i}" for i in range(6)})
    refused: list[str] = []

    def meanwhile(done: int, total: int, errors: int) -> None:
        if done == 1:
            run(tmp_path / "in", tmp_path / "out", shard=(2, 2))
            with pytest.raises(CohortError) as caught:
                run(tmp_path / "in", tmp_path / "out", shard=(1, 2))
            refused.append(str(caught.value))

    run(tmp_path / "in", tmp_path / "out", shard=(1, 2), progress=meanwhile)
    assert len(refused) == 1 and "another run" in refused[0]
    assert len(results(tmp_path / "out")) == len(logged("grade")) == 6


def test_shards_then_merge_equal_one_run(tmp_path: Path) -> None:
    """n shards, each apart, then merge: the bytes of a single run; before, no summary."""
    hand_in(tmp_path / "in", {f"s{i}": f"score {i}" for i in range(20)})
    for i in (1, 2, 3):
        assert run(tmp_path / "in", tmp_path / "out", shard=(i, 3)).exit_code == 0
        assert not (tmp_path / "out" / "summary.json").exists()
    merged = merge(LAB, tmp_path / "in", tmp_path / "out", reader=fake_exam.read)
    run(tmp_path / "in", tmp_path / "one")
    assert (merged.total, merged.reused, merged.missing, merged.exit_code) == (20, 20, 0, 0)
    assert timeless(tmp_path / "out") == timeless(tmp_path / "one")


def test_merge_says_what_is_missing(tmp_path: Path) -> None:
    """A submission without a result, or changed since, is missing in the summary, not a zero."""
    hand_in(tmp_path / "in", {"anna": "score 100", "ben": "score 100", "cleo": "score 100"})
    run(tmp_path / "in", tmp_path / "out")
    (tmp_path / "out/results/ben.json").unlink()
    hand_in(tmp_path / "in", {"cleo": "score 3"})
    merged = merge(LAB, tmp_path / "in", tmp_path / "out", reader=fake_exam.read)
    summary = json.loads((tmp_path / "out/summary.json").read_bytes())
    assert (summary["missing"], summary["graded"], summary["mean"]) == (["ben", "cleo"], 1, 100.0)
    assert merged.exit_code == 2


# --- faults of ours -------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_fault_of_ours_is_tried_again_and_never_a_zero(jobs: int, tmp_path: Path) -> None:
    """An examiner that raises or reports `error` is replaced once; then the result says error."""
    texts = {"good": "score 100", "once": "raise-once score 100"}
    texts |= {"bad": "raise score 100", "ours": "error score 60"}
    hand_in(tmp_path / "in", texts)
    done = run(tmp_path / "in", tmp_path / "out", jobs=jobs)
    found = results(tmp_path / "out")
    assert {name: row["score"] for name, row in found.items()} == {
        "good": 100, "once": 100, "bad": None, "ours": None
    }  # fmt: skip
    assert (done.errors, done.exit_code) == (2, 2)
    assert "the box is gone" in found["bad"]["error"] and "\n" not in found["bad"]["error"]
    assert [found[name]["report"] for name in ("bad", "ours")] == [None, None]
    grades = sorted(logged("grade"))
    assert grades == sorted(map(ascii, ["good", "once", "once", "bad", "bad", "ours", "ours"]))
    assert len(logged("start")) == len(logged("end")) >= 4, (
        "a faulty examiner went on, or stays open"
    )
    with (tmp_path / "out/scores.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["submission"]: row["score"] for row in rows} == {
        "good": "100", "once": "100", "bad": "", "ours": ""
    }  # fmt: skip
    summary = json.loads((tmp_path / "out/summary.json").read_bytes())
    assert (summary["errors"], summary["mean"]) == (["bad", "ours"], 100.0)
    texts = {"bad": "score 80", "ours": "score 90"}
    hand_in(tmp_path / "in", texts)
    assert run(tmp_path / "in", tmp_path / "out").graded == 2, "errors are graded again, no others"


def test_errors_are_graded_again_by_the_next_run(tmp_path: Path) -> None:
    """The same bytes that met a fault of ours are tried again; verdicts are not."""
    hand_in(tmp_path / "in", {"good": "score 100", "bad": "raise score 100"})
    first, second = (run(tmp_path / "in", tmp_path / "out") for _ in range(2))
    assert (first.graded, second.graded, second.errors) == (2, 1, 1)


def test_a_worker_that_dies_costs_nobody_else_a_grade(tmp_path: Path) -> None:
    """The submission that kills its worker is an error; all others get their verdict."""
    hand_in(tmp_path / "in", {f"s{i:02}": f"slow score {i}" for i in range(12)})
    hand_in(tmp_path / "in", {"s05": "die score 100"})
    done = run(tmp_path / "in", tmp_path / "out", jobs=2)
    found = results(tmp_path / "out")
    assert [name for name, row in found.items() if row["error"]] == ["s05"]
    assert (len(found), done.errors, done.graded) == (12, 1, 12)


def test_a_worker_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A grader that hangs ends its own worker; the process that gives orders has no guard."""
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits on"))
    desk = crew._Desk()
    desk.guard(os.getpid())
    assert not desk.guarded
    desk.began = time.monotonic() - crew.HUNG_SECONDS - 1
    desk._look(os.getppid())
    assert ended == [70]


def test_an_exam_that_does_not_start_grades_nothing(tmp_path: Path) -> None:
    """The canary fails: one clear line, no result, no summary."""
    hand_in(tmp_path / "in", {"anna": "score 100", "ben": "score 0"})
    with pytest.raises(CohortError, match=r"does not start.*93 of 100"):
        run(tmp_path / "in", tmp_path / "out", make_examiner=Unstartable)
    assert results(tmp_path / "out") == {}
    assert len(logged("start")) == 2, "a start is tried again once, and not for every submission"


def test_a_submission_that_changes_meanwhile_is_graded_as_it_is_now(tmp_path: Path) -> None:
    """Bytes that change during the exam get no grade of the old ones, nor do equal submissions."""
    hand_in(tmp_path / "in", dict.fromkeys(("anna", "ben"), "change score 50"))
    done = run(tmp_path / "in", tmp_path / "out")
    found = results(tmp_path / "out")
    assert done.errors == 2 and "changed" in found["anna"]["error"]
    assert len(logged("grade")) == 4, "ben's bytes had not changed: he is graded apart"


def test_memory_stays_flat(tmp_path: Path) -> None:
    """Reports of 1 MB each pass through; never more than a few are held at once."""
    count = 40
    hand_in(tmp_path / "in", {f"s{i}": f"long score 40 {i}" for i in range(count)})
    tracemalloc.start()
    try:
        run(tmp_path / "in", tmp_path / "out")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    written = sum(p.stat().st_size for p in (tmp_path / "out" / "results").iterdir())
    assert written > 30e6, f"the test is too small to tell: {written} bytes"
    assert peak < written / 3, f"{peak} bytes held at once, of {written} in all"
