"""The pictures of the lab's three figures, from the JSON that tables.py fills.

Source: minituner.plots for colours, grounds and files. Leaves out: every number.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any  # Any: what JSON holds

from minituner.plots import COLOURS, GRID, INK, Pictures, line

if TYPE_CHECKING:  # imported where it is drawn: the numbers need no extra
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Bucket -> colour and hatch: told apart in grey, too.
LOOKS = {
    "weights": (COLOURS[0], ""),
    "gradients": (COLOURS[1], "////"),
    "optimizer": (COLOURS[2], "xxxx"),
    "activations": (COLOURS[4], "\\\\\\\\"),
}
UNITS = {"MiniGPT": ("MB", 1e6), "GPT-2 small": ("GB", 1e9), "LLaMA-7B": ("GB", 1e9)}


def shares(drawn: Figure, data: Any) -> None:
    """Left: one square weight over d. Right: whole models over r."""
    left, right = drawn.subplots(1, 2)
    for nth, (r, percent) in enumerate(data["weights"].items()):
        line(left, nth, data["sides"], percent, f"r = {r}")
    for nth, (model, percent) in enumerate(data["models"].items()):
        line(right, nth, data["ranks"], percent, model)
    left.set(title="one d × d weight", xlabel="d", ylabel="adapter / weight, %")
    right.set(title="a model, adapters on all its layers' linears", xlabel="r")
    right.set_ylabel("adapters / model, %")
    for axes, ticks, at in ((left, data["sides"][::2], 300), (right, data["ranks"], 1)):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_ylim(0.005, 900)
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.axhline(100, color=INK, linewidth=1.0)
        axes.annotate("as many as full fine-tuning", (at, 115), fontsize=8)
        axes.set_yticks([0.01, 0.1, 1, 10, 100], ["0.01", "0.1", "1", "10", "100"])
        axes.legend(loc="lower left" if axes is left else "lower right", fontsize=9)


def digits(value: float) -> str:
    """Three significant digits, zeros kept."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


def stack(axes: Axes, at: float, bytes_of: Any, unit: float, width: float = 0.72) -> float:
    """One bar of four buckets; its height in units."""
    height = 0.0
    for bucket, (colour, hatch) in LOOKS.items():
        part = bytes_of[bucket] / unit
        axes.bar(
            at,
            part,
            width,
            bottom=height,
            color=colour,
            hatch=hatch,
            edgecolor="white",
            linewidth=0.6,
        )
        height += part
    return height


def legend(drawn: Figure, *more: Any) -> None:
    """The four buckets, once for the whole figure."""
    from matplotlib.patches import Patch

    patches = [
        Patch(facecolor=colour, hatch=hatch, edgecolor="white", label=bucket)
        for bucket, (colour, hatch) in LOOKS.items()
    ]
    drawn.legend(handles=[*patches, *more], loc="outside upper center", ncols=6)


def stacks(drawn: Figure, data: Any) -> None:
    """A column a model, a row an optimiser; each column has one scale."""
    grid = drawn.subplots(2, len(data), sharey="col", sharex=True)
    for column, model in enumerate(data):
        name, unit = UNITS[model["model"]]
        for axes, optimizer in zip(grid[:, column], ("adam", "sgd"), strict=True):
            ways = model[optimizer]
            for at, way in enumerate(ways):
                top = stack(axes, at, ways[way], unit)
                axes.annotate(
                    digits(top), (at, top), (0, 2), textcoords="offset points", ha="center", size=8
                )
            axes.grid(axis="x", visible=False)
            axes.margins(y=0.1)
            axes.set_xticks(range(len(ways)), [way.replace(", ", "\n") for way in ways])
            axes.tick_params(axis="x", rotation=90, labelsize=8)
            axes.set_ylabel(f"{optimizer.upper() if optimizer == 'sgd' else 'Adam'}, {name}")
        bits = 8 * model["base_bytes"]
        grid[0, column].set_title(
            f"{model['model']}, {model['tokens']} tokens\nLoRA on a {bits}-bit base", size=10
        )
    legend(drawn)


def allocations(drawn: Figure, data: Any) -> None:
    """Predicted (left) and allocated (right) side by side, and the peak of a step."""
    axes = drawn.subplots()
    rows = data["rows"]
    tops: list[list[float]] = [[] for _ in rows]
    for at, row in enumerate(rows):
        for side, bytes_of in ((-0.2, row["predicted"]), (0.2, row["torch"])):
            tops[at].append(stack(axes, at + side, bytes_of, 1e6, 0.36))
    peaks = [row["torch"]["peak"] / 1e6 for row in rows]
    (peak,) = axes.plot(
        [at + 0.2 for at in range(len(rows))],
        peaks,
        linestyle="none",
        marker="_",
        markersize=26,
        markeredgewidth=2,
        color=INK,
        label="peak of a step",
    )
    names = {"adam": "Adam", "sgd": "SGD"}
    labels = [
        f"{row['way']}\n{names[row['optimizer']]}\n{told:.2f} · {real:.2f} · {peak_of:.2f}"
        for row, (told, real), peak_of in zip(rows, tops, peaks, strict=True)
    ]
    axes.set_xticks(range(len(rows)), labels, size=8)
    axes.set_xlabel("predicted · allocated · peak, MB", size=9)
    axes.grid(axis="x", visible=False)
    axes.grid(axis="y", color=GRID)
    axes.set_ylabel("MB: left predicted, right allocated")
    axes.margins(y=0.08)
    legend(drawn, peak)


FIGURES: Pictures = {
    "shares": (shares, (9.0, 4.2)),
    "stacks": (stacks, (9.0, 7.2)),
    "allocations": (allocations, (9.0, 4.6)),
}
