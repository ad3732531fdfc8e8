"""Every experiment's figures: all of them drawn from the numbers beside them, by one option."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from together import together

from minituner import plots

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
FOLDERS = sorted(path.parent for path in EXPERIMENTS.glob("*/drawing.py"))
each = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


def test_a_folder_with_pictures_can_draw_them() -> None:
    """drawing.py stands beside the pictures, and nowhere else."""
    drawn = {path.parents[1] for path in EXPERIMENTS.glob("*/figures/*.svg")}
    assert sorted(drawn) == FOLDERS


@each
def test_the_pictures_are_drawn_from_the_numbers_beside_them(folder: Path, tmp_path: Path) -> None:
    """Drawn again from the JSON, each SVG is the committed one, byte for byte."""
    pytest.importorskip("matplotlib")
    pictures = together(folder, "drawing").drawing.FIGURES
    figures = folder / "figures"
    assert {path.stem for path in figures.glob("*.svg")} == set(pictures)
    for name in pictures:
        shutil.copy2(figures / f"{name}.json", tmp_path)
    assert plots.redraw_all(tmp_path, pictures) == 0
    for name in pictures:
        assert (tmp_path / f"{name}.svg").read_bytes() == (figures / f"{name}.svg").read_bytes()
        assert (tmp_path / f"{name}.png").is_file() and (figures / f"{name}.png").is_file()


WITHOUT = """
import runpy, sys
sys.modules["matplotlib"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("28-irregular-verbs/run.py", ["--full", "--smoke"]),
        ("28-names/run.py", ["--full", "--smoke"]),
        ("28-rank/run.py", ["--smoke"]),
        ("28-real-model/shakespeare.py", ["--full", "--smoke", "--text", str(Path(__file__))]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_run_that_cannot_draw_says_so_before_it_measures(script: str, words: list[str]) -> None:
    """Exit 2 and one line with what to type, not a traceback after an hour."""
    path = EXPERIMENTS / script
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(path), *words, "--impl", "reference"],
        env=os.environ | {"PYTHONPATH": str(path.parent), "MINITUNER_LANG": "en"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (2, ""), done.stderr
    assert done.stdout.startswith("matplotlib is not installed; try: pip install -c"), done.stdout
    assert done.stdout.count("\n") == 1


@each
def test_run_draws_when_asked(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `make figures` calls: run.py knows --figures and says so."""
    monkeypatch.setattr(sys, "argv", ["run.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        together(folder, "run").run.main()
    assert (ended.value.code, "--figures" in capsys.readouterr().out) == (0, True)
