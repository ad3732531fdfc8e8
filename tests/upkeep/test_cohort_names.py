"""Which children of a folder are submissions, where their results lie, and calls that cannot work.

The exam is a fake (fake_exam.py). Leaves out: what is stale (test_cohort_cache.py).
"""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path
from typing import Any

import fake_exam
import pytest
from fake_exam import hand_in, results, run

from minituner.grading import cache, engines
from minituner.grading.cache import CohortError

HOSTILE = [
    b"..-", b"...", b"a\nb", b"-rf", b"=cmd()", b"<script>alert(1)<", b"\xff\xfe", b"n\xc3\xa3o",
    b"%41", b"A", b"a b", b"x" * 250, b"x" * 249 + b"y", b"\xe2\x80\xaeevil", b"~", b"CON",
    b"a.json",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fake_exam.LOG, str(tmp_path / "log"))
    monkeypatch.setenv("MINITUNER_LANG", "en")


# --- names ----------------------------------------------------------------------------------------


def test_hostile_names_each_get_a_safe_file_of_their_own(tmp_path: Path) -> None:
    """Whatever a submission is called, its result is one plainly named file inside results/."""
    hand_in(tmp_path / "in", {name: f"score 50 {i}" for i, name in enumerate(HOSTILE)})
    done = run(tmp_path / "in", tmp_path / "out")
    files = os.listdir(os.fsencode(tmp_path / "out" / "results"))
    odd = [file for file in files if not re.fullmatch(rb"[A-Za-z0-9_%~][\w.%~-]{0,200}", file)]
    # .. and hidden names aside: a name that begins with a dot is no submission
    expected = [name for name in HOSTILE if not name.startswith(b".")]
    assert (done.graded, len(files), odd) == (len(expected), len(expected), [])
    assert sorted(os.listdir(tmp_path)) == ["in", "log", "out"]
    names = results(tmp_path / "out")
    assert all(name.isprintable() for name in names), f"not printable: {sorted(names)}"


def test_two_names_never_share_a_result() -> None:
    """stem() is injective: over every short name of difficult bytes, and over long ones."""
    letters = [bytes([c]) for c in b"Aa41.%~-/\n\xff 2E"]
    short = [b"".join(some) for n in (1, 2, 3) for some in itertools.product(letters, repeat=n)]
    long = [b"x" * n + end for n in range(40, 250, 7) for end in (b"", b"%", b"\xff", b"~", b"a")]
    names = {os.fsdecode(name) for name in short + long}
    assert len({cache.stem(name) for name in names}) == len(names)


def test_shards_are_disjoint_complete_and_the_same_everywhere() -> None:
    """Each name is in one shard of n; which one is fixed for good (another machine must agree)."""
    names = [os.fsdecode(name) for name in HOSTILE] + [f"student-{i}" for i in range(500)]
    for many in (1, 2, 7, 40):
        counts = [
            sum(cache.in_shard(name, (i, many)) for i in range(1, many + 1)) for name in names
        ]
        assert set(counts) == {1}
    assert [cache.in_shard("anna", (i, 4)) for i in (1, 2, 3, 4)] == ANNA
    sizes = [sum(cache.in_shard(name, (i, 4)) for name in names) for i in (1, 2, 3, 4)]
    assert min(sizes) > 90, f"uneven: {sizes}"


ANNA = [False, False, True, False]


def test_only_folders_and_python_files_are_submissions(tmp_path: Path) -> None:
    """Hidden names and the output itself are passed over; links and other files are named."""
    folder = hand_in(tmp_path / "in", {"anna": "score 9", ".git": "score 9"})
    (folder / "ben.py").write_text("score 20")
    (folder / "list.txt").write_text("")
    (folder / "link").symlink_to(folder / "anna")
    (folder / "link.py").symlink_to(folder / "ben.py")
    os.mkfifo(folder / "pipe.py")
    done = run(folder, folder / "out")
    run(folder, folder / "out")  # which lies among them by now
    assert set(results(folder / "out")) == {"anna", "ben.py"}
    assert done.skipped == ("link", "link.py", "list.txt", "pipe.py")
    assert "list.txt" in str(done)


# --- wrong calls ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"engine": "slurm"}, "--engine: expected one of loky, dask, ray, got slurm"),
        ({"engine": "ray"}, "--engine ray: the package ray is not installed; pip install ray"),
        ({"engine": "dask"}, "--engine dask: the package distributed is not installed"),
        ({"shard": (3, 2)}, "--shard: expected i/n with i from 1 to n, got 3/2"),
        ({"shard": (0, 2)}, "--shard: .* got 0/2"),
        ({"jobs": 0}, "--jobs: expected at least 1, got 0"),
    ],
)
def test_a_wrong_call_says_what_was_expected(
    options: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written for a call that cannot work."""
    there = ("joblib",)
    monkeypatch.setattr(engines, "find_spec", lambda name: name in there or None)
    hand_in(tmp_path / "in", {"anna": "score 100"})
    with pytest.raises(CohortError, match=said):
        run(tmp_path / "in", tmp_path / "out", **({"jobs": 1} | options))
    assert not (tmp_path / "out").exists()


def test_folders_that_are_not_there_are_the_callers_mistake(tmp_path: Path) -> None:
    """No such folder of submissions, or a file where --out should be."""
    with pytest.raises(CohortError, match="expected a folder of submissions"):
        run(tmp_path / "none", tmp_path / "out")
    hand_in(tmp_path / "in", {"anna": "score 100"})
    (tmp_path / "file").write_text("")
    with pytest.raises(CohortError, match="--out"):
        run(tmp_path / "in", tmp_path / "file")
