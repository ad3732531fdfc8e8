"""One way to draw: a figure as SVG, PNG and JSON, legible in print and on a dark page.

    figure(folder / "shares", draw, data)     shares.json, shares.svg, shares.png

The JSON holds the numbers that the pages quote; the pictures are drawn from it. The colours are
those of Okabe and Ito (2008), told apart with any colour vision; every line also has a marker and a
dash of its own. Leaves out: what is drawn. Needs the extra `plots` (matplotlib).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minituner.words import say

if TYPE_CHECKING:  # imported where it is drawn: the JSON needs no extra
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette without its black and its yellow, which vanish on one of the two grounds.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (3, 1)))
GROUND, INK, GRID = "#FFFFFF", "#1A1A1A", "#D9D9D9"  # a ground of its own: dark pages show it, too
STYLE: Any = {  # Any: matplotlib types each of its four hundred parameter names
    "figure.facecolor": GROUND,
    "axes.facecolor": GROUND,
    "savefig.facecolor": GROUND,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.0,
    "svg.hashsalt": "minituner",  # the same numbers give the same file
    "svg.fonttype": "path",  # the same letters on every machine
}
Draw = Callable[["Figure", Any], None]  # Any: whatever the JSON holds
Pictures = Mapping[str, tuple[Draw, tuple[float, float]]]


def figure(
    path: Path, draw: Draw, data: Any, *, size: tuple[float, float] = (7.0, 4.0), dpi: int = 110
) -> None:
    """Write path.json, then path.svg and path.png as `draw` makes them from what was written.

    Args:
        path: without an ending; its folder is made.
        draw: gets an empty figure and the data as read back from the JSON.
        data: numbers, strings, lists and dicts with string keys.
        size: inches.

    Raises:
        ModuleNotFoundError: no matplotlib; the JSON is written all the same.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(data, indent=1, ensure_ascii=False)
    path.with_suffix(".json").write_text(text + "\n", encoding="utf-8", newline="\n")
    redraw(path, draw, size=size, dpi=dpi)


def redraw(
    path: Path, draw: Draw, *, size: tuple[float, float] = (7.0, 4.0), dpi: int = 110
) -> None:
    """Draw path.svg and path.png anew from path.json.

    Raises:
        ModuleNotFoundError: no matplotlib.
    """
    needed()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    data = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    with mpl.rc_context(STYLE):
        drawn = Figure(figsize=size, layout="constrained")  # not pyplot: no window, no global state
        draw(drawn, data)
        drawn.savefig(path.with_suffix(".svg"), metadata={"Date": None})
        drawn.savefig(path.with_suffix(".png"), dpi=dpi, metadata={"Software": None})


def redraw_all(folder: Path, pictures: Pictures) -> int:
    """Draw each of an experiment's figures anew from its JSON; 2, said in a line, where it cannot.

    Args:
        folder: where the JSON files are, by the names of `pictures`.
        pictures: name -> how it is drawn, and its size in inches.
    """
    try:
        for name, (draw, size) in pictures.items():
            redraw(folder / name, draw, size=size)
    except ModuleNotFoundError as missing:
        print(missing)
        return 2
    print(say("written into {path}", path=folder))
    return 0


def needed() -> None:
    """Nothing where figures can be drawn; to be asked before an hour of measuring, not after.

    Raises:
        ModuleNotFoundError: no matplotlib; its message is what to type.
    """
    try:
        import matplotlib  # noqa: F401  # only whether it is there
    except ModuleNotFoundError as missing:
        command = "pip install -c constraints.txt --editable '.[plots]'"
        said = say("matplotlib is not installed; try: {command}", command=command)
        raise ModuleNotFoundError(said) from missing


def line(axes: Axes, nth: int, x: Any, y: Any, label: str, spread: Any = None) -> None:
    """The nth line of a plot, in its own colour, marker and dash; `spread` is ± around y."""
    look: dict[str, Any] = {
        "color": COLOURS[nth % len(COLOURS)],
        "marker": MARKERS[nth % len(MARKERS)],
        "linestyle": DASHES[nth % len(DASHES)],
        "label": label,
    }
    if spread is None:
        axes.plot(x, y, **look)
    else:
        axes.errorbar(x, y, yerr=spread, capsize=3, **look)
