"""The picture of the two halves: what each way learned of N–Z, and what it lost of A–M.

Source: minituner.plots for colours, grounds and files. Leaves out: every number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any  # Any: what JSON holds

from minituner.plots import COLOURS, Pictures

if TYPE_CHECKING:  # imported where it is drawn: the numbers need no extra
    from matplotlib.figure import Figure


def names(drawn: Figure, data: Any) -> None:
    """Two bars a way, with the spread over seeds."""
    axes = drawn.subplots()
    rows = data["rows"]
    for nth, (half, label) in enumerate((("early", "A–M"), ("late", "N–Z"))):
        places = [at + (nth - 0.5) * 0.38 for at in range(len(rows))]
        means = [row[half]["mean"] for row in rows]
        axes.bar(
            places,
            means,
            0.36,
            yerr=[row[half]["sd"] for row in rows],
            capsize=3,
            color=COLOURS[nth],
            hatch=("", "////")[nth],
            edgecolor="white",
            label=f"held-out names {label}",
        )
        for place, mean in zip(places, means, strict=True):
            axes.annotate(
                f"{mean:.2f}", (place, mean), (0, 5), textcoords="offset points", ha="center"
            )
    axes.set_xticks(range(len(rows)), [row["name"].replace(", ", "\n") for row in rows])
    axes.set_ylabel("loss a letter, nats")
    axes.margins(y=0.15)
    axes.grid(axis="x", visible=False)
    axes.legend(loc="upper right")


FIGURES: Pictures = {"names": (names, (7.5, 4.2))}
