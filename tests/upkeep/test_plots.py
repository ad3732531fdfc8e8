"""plots.py: three files from one object, the same each time, in the palette it promises."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from minituner import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DATA = {"r": [1, 2, 4], "loss": [3.0, 2.5, 2.25], "spread": [0.1, 0.2, 0.1]}


def draw(drawn: Figure, data: Any) -> None:
    axes = drawn.subplots()
    plots.line(axes, 0, data["r"], data["loss"], "loss")
    plots.line(axes, 1, data["r"], data["loss"], "with spread", data["spread"])
    axes.legend()


def test_three_files_and_the_same_each_time(tmp_path: Path) -> None:
    """JSON, SVG and PNG; equal bytes from equal numbers, so a figure changes only with them."""
    pytest.importorskip("matplotlib")
    for name in ("one", "two"):
        plots.figure(tmp_path / name / "loss", draw, DATA)
    for ending in (".json", ".svg", ".png"):
        first, second = (tmp_path / name / f"loss{ending}" for name in ("one", "two"))
        assert first.read_bytes() == second.read_bytes(), ending
    assert json.loads((tmp_path / "one/loss.json").read_text(encoding="utf-8")) == DATA
    svg = (tmp_path / "one/loss.svg").read_text(encoding="utf-8").lower()
    assert plots.COLOURS[0].lower() in svg and plots.GROUND.lower() in svg
    assert "<text" not in svg  # letters as paths: no font is asked of the reader's machine


def test_other_numbers_are_another_picture(tmp_path: Path) -> None:
    """What is drawn comes from the JSON."""
    pytest.importorskip("matplotlib")
    plots.figure(tmp_path / "loss", draw, DATA)
    before = (tmp_path / "loss.svg").read_bytes()
    (tmp_path / "loss.json").write_text(json.dumps(DATA | {"loss": [3.0, 2.0, 1.0]}))
    plots.redraw(tmp_path / "loss", draw)
    assert (tmp_path / "loss.svg").read_bytes() != before


def test_without_matplotlib_the_numbers_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line says what to install."""
    real = builtins.__import__

    def lacking(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(ModuleNotFoundError, match=r"pip install .*plots"):
        plots.figure(tmp_path / "loss", draw, DATA)
    assert json.loads((tmp_path / "loss.json").read_text(encoding="utf-8")) == DATA
