"""The whole job of experiments/28-scalar-lora: names, run.py, bench.py, and what its page quotes.

Leaves out: whether the model is right, test_scalar_lora.py; how fast, which bench.py measures.
"""

from __future__ import annotations

import ast
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from scalar import FOLDER, S, mean_loss

from minituner.grading.registry import ROOT

TEXTS = ("figures/run.txt", "figures/bench.txt")


def test_names_are_halved_and_held_out(tmp_path: Path) -> None:
    """A–M and N–Z are disjoint, a fifth of each is held out; too few names are refused."""
    am, nz = S.names.halves(None, 15, random.Random(0))
    parts = [[S.names.decoded(t[1:-1]) for t in p] for h in (am, nz) for p in (h.train, h.held_out)]
    every = [name for part in parts for name in part]
    assert len(set(every)) == len(every)
    assert all(name < "n" for name in parts[0] + parts[1])
    assert all(name > "n" for name in parts[2] + parts[3])
    assert [len(parts[i + 1]) for i in (0, 2)] == [
        (len(parts[i]) + len(parts[i + 1])) // 5 for i in (0, 2)
    ]
    few = tmp_path / "few.txt"
    few.write_text("ana\nzoe\n", encoding="utf-8")
    with pytest.raises(ValueError, match="1 from A to M and 1 from N to Z"):
        S.names.halves(few, 15, random.Random(0))


def test_the_folder_needs_python_alone() -> None:
    """But for the bench, nothing but Python's own modules, the folder's and corpora is imported."""
    own = {path.stem for path in FOLDER.glob("*.py")}
    for path in FOLDER.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found = {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        found |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        strange = {name.partition(".")[0] for name in found} - sys.stdlib_module_names - own
        allowed = {"bench": {"torch", "minituner"}, "names": {"minituner"}}.get(path.stem, set())
        assert strange == allowed, path.name


@pytest.mark.parametrize("options", [["--smoke"], ["--steps", "1", "--seed", "3"]])
def test_the_job_runs_without_packages(options: list[str], tmp_path: Path) -> None:
    """run.py goes from names to samples in a Python that sees no package, and keeps its numbers."""
    shutil.copytree(
        FOLDER, tmp_path / "own", ignore=shutil.ignore_patterns("__pycache__", "results")
    )
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"{a}{b}" for a in "abyz" for b in "aeiou"), encoding="utf-8")
    if "--seed" in options:
        options = [*options, "--names", str(names)]
    line = [sys.executable, "-S", str(tmp_path / "own/run.py"), *options]
    env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "128 of 4064 = 3.15 %" in done.stdout
    assert "fresh adapters change loss 0.0\nfrozen weights that moved  0 of 3936" in done.stdout
    assert "loss" in done.stderr and (tmp_path / "own/results/run.json").is_file()


def test_wrong_names_are_a_usage_error(tmp_path: Path) -> None:
    """A file that is not there ends with code 2 and a sentence, not a traceback."""
    line = [sys.executable, str(FOLDER / "run.py"), "--names", str(tmp_path / "none.txt")]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 2 and "--names: " in done.stderr and "Traceback" not in done.stderr


def test_the_bench_compares_equals() -> None:
    """One round: both kinds of step, after the losses of both sides agreed."""
    line = [sys.executable, str(FOLDER / "bench.py"), "1"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row.split("  ")[0]: row.split()[-2:] for row in done.stdout.splitlines() if "x" in row}
    assert set(rows) == {"all weights", "LoRA"}


def test_the_page_quotes_what_was_measured() -> None:
    """Both languages quote figures/*.txt, as run.py and bench.py printed them, word for word."""
    for page in ("README.md", "README.es.md"):
        said = (FOLDER / page).read_text(encoding="utf-8")
        for name in TEXTS:
            text = (FOLDER / name).read_text(encoding="utf-8")
            assert f"```text\n{text}```" in said, (name, page)


def test_the_page_counts_what_is_there() -> None:
    """The quoted run is of this code: its edges and its split are counted again, untrained."""
    rng = random.Random(28)
    am, nz = S.names.halves(None, 15, rng)
    model = S.model.GPT(S.model.Config(), rng)
    longest = max(nz.train, key=len)
    said = (FOLDER / "figures/run.txt").read_text(encoding="utf-8")
    for _ in range(2):
        graph = S.engine.topological(mean_loss(model, [longest]))
        edges = sum(len(value.parents) for value in graph) - 1  # the mean's own
        assert f"{edges:,}".replace(",", " ") in said
        S.lora.add_adapters(model, 2, 4.0, ("q_proj", "v_proj"), rng)
    assert f"on {len(am.train)} names A-M\n" in said and f"on {len(nz.train)} names N-Z\n" in said
