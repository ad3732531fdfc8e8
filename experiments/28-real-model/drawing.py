"""The pictures of the Shakespeare runs: the course of one, and many side by side.

Source: minituner.plots for colours, grounds and files. Leaves out: every number.
"""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, Any  # Any: what JSON holds

from minituner.plots import COLOURS, INK, Pictures, line

if TYPE_CHECKING:  # imported where it is drawn: the numbers need no extra
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TEXTS = (("held_out", "Shakespeare, held out"), ("control", "modern prose"))
SMOOTH = 20  # steps that a point of the training loss is the mean of


def shakespeare(drawn: Figure, data: Any) -> None:
    """Losses over the steps, and both texts before and after."""
    left, right = drawn.subplots(1, 2, width_ratios=(3, 2))
    losses = data["losses"]
    cuts = range(0, len(losses), SMOOTH)
    middle = [at + len(losses[at : at + SMOOTH]) / 2 for at in cuts]
    means = [fmean(losses[at : at + SMOOTH]) for at in cuts]
    line(left, 0, middle, means, f"trained on, means of {SMOOTH} steps")
    steps, held_out = zip(*data["curve"], strict=True)
    line(left, 1, steps, held_out, "held out")
    left.set(xlabel="step", ylabel="loss, nats a token")
    left.legend()
    for nth, (key, label) in enumerate(TEXTS):
        pair = [data["before"][key], data["after"][key]]
        line(right, nth, ["before", "after"], pair, label)
        for at, (value, side) in enumerate(zip(pair, ("right", "left"), strict=True)):
            right.annotate(
                f"{value:.3f}", (at, value), ((-8, 8)[at], -3), textcoords="offset points", ha=side
            )
    right.set(xlim=(-0.6, 1.6))
    right.margins(y=0.15)
    right.legend(loc="best", fontsize=8)


def comparison(drawn: Figure, data: Any) -> None:
    """Both losses over the rank, and over the layers at an equal budget."""
    panels = drawn.subplots(1, 2, sharey=True)
    titles = ("all linears", f"at most {data['budget']:,} parameters".replace(",", " "))
    for axes, name, title in zip(panels, ("ranks", "places"), titles, strict=True):
        panel(axes, data[name], data["base"])
        axes.set_title(title)
    panels[0].set(xlabel="rank r", ylabel="loss, nats a token")
    panels[1].set_xlabel("layers with adapters, and their rank")
    labels = [f"{row['label']}\nr = {row['rank']}" for row in data["places"]]
    panels[1].set_xticks(range(len(labels)), labels)
    panels[0].legend(loc="center right", fontsize=9)


def panel(axes: Axes, rows: Any, base: Any) -> None:
    """Each text's loss by row, and as a level what it was before."""
    places = list(range(len(rows)))
    for nth, (key, label) in enumerate(TEXTS):
        means = [fmean(row[key]) for row in rows]
        spread = [(max(row[key]) - min(row[key])) / 2 for row in rows]
        line(axes, nth, places, means, label, spread if any(spread) else None)
        axes.axhline(base[key], color=COLOURS[nth], linewidth=1.0, linestyle=":")
        axes.annotate(
            "before", (places[-1], base[key]), (0, 3), textcoords="offset points",
            ha="right", fontsize=8, color=INK,
        )  # fmt: skip
    axes.set_xticks(places, [row["label"] for row in rows])


FIGURES: Pictures = {
    "shakespeare": (shakespeare, (9.0, 4.0)),
    "comparison": (comparison, (9.0, 4.2)),
}
