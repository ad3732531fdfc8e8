"""The pictures, each from its JSON alone: ranks, targets, scaling, alpha, spectra, truncation, φ.

Whiskers reach from the lowest to the highest of the seeds. Source: minituner.plots for colours,
grounds and files. Leaves out: every number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any  # Any: what JSON holds

from minituner.plots import COLOURS, INK, Pictures, line

if TYPE_CHECKING:  # imported where it is drawn: the numbers need no extra
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLES = {"exceptions": "112 exceptions", "rule": "one new rule"}
RULES = {"alpha/r": "α/r", "alpha/sqrt(r)": "α/√r"}


def whiskers(spreads: Sequence[Any]) -> tuple[list[float], list[list[float]]]:
    """Means, and how far the seeds reach below and above."""
    means = [spread["mean"] for spread in spreads]
    low = [max(0.0, spread["mean"] - min(spread["each"])) for spread in spreads]
    high = [max(0.0, max(spread["each"]) - spread["mean"]) for spread in spreads]
    return means, [low, high]


def lined(axes: Axes, nth: int, x: Sequence[Any], spreads: Sequence[Any], label: str) -> None:
    """The nth line with its whiskers."""
    means, reach = whiskers(spreads)
    line(axes, nth, x, means, label, reach)


def doubling(axes: Axes, ranks: Sequence[int]) -> None:
    """Ranks along x, each as far from the next."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(ranks, [str(r) for r in ranks])
    axes.set_xlabel("rank r")


def plain_log(axes: Axes, ticks: Sequence[float]) -> None:
    """A logarithmic loss with its ticks written out."""
    axes.set_yscale("log")
    axes.minorticks_off()
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])


def ranks(drawn: Figure, data: Any) -> None:
    """Exact match and loss over what is trained; time over rank."""
    match, loss, time = drawn.subplots(1, 3)
    for nth, (task, title) in enumerate(TITLES.items()):
        table = data[task]
        points = points_of(data, task)
        sizes = [row["parameters"] for row in points]
        lined(match, nth, sizes, [row["learned"] for row in points], title)
        lined(loss, nth, sizes, [row["loss"] for row in points], title)
        for axes, key in ((match, "learned"), (loss, "loss")):
            means, reach = whiskers([table["weights"][key]])
            size = table["weights"]["parameters"]
            label = "weights of the same linears" if nth == 1 else None
            axes.errorbar(
                [size], means, yerr=reach, marker="*", markersize=12, color=COLOURS[nth],
                markeredgecolor=INK, linestyle="none", label=label, zorder=3,
            )  # fmt: skip
    lined(
        match,
        2,
        sizes,
        [row["control"] for row in points_of(data, "exceptions")],
        "exceptions: regular verbs kept",
    )
    for axes in (match, loss):
        axes.set_xscale("log")
        axes.set_xlabel("parameters trained")
    plain_log(loss, (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1))
    match.set(ylabel="exact match", title="accuracy", ylim=(-0.03, 1.03))
    loss.set(ylabel="loss, nats a letter", title="loss")
    match.legend(fontsize=8)
    spent = data["milliseconds"]
    every = [row["r"] for row in data["exceptions"]["rows"]]
    line(time, 0, every, [spent[f"r{r}"] for r in every], "adapters")
    time.axhline(spent["weights"], color=INK, linestyle="--", label="weights")
    doubling(time, every)
    time.set(ylabel="ms of processor a step", title="time", ylim=(0, None))
    time.legend(fontsize=8)


def points_of(data: Any, task: str) -> list[Any]:
    """The adapters of a task by size."""
    return sorted(data[task]["few"] + data[task]["rows"], key=lambda row: row["parameters"])


def targets(drawn: Figure, data: Any) -> None:
    """One bar a set, a dot a seed."""
    for nth, (axes, (task, table)) in enumerate(
        zip(drawn.subplots(1, len(data)), data.items(), strict=True)
    ):
        rows = table["rows"]
        for at, row in enumerate(rows):
            axes.bar(at, row["learned"]["mean"], 0.7, color=COLOURS[nth], alpha=0.85)
            dots = row["learned"]["each"]
            axes.plot([at] * len(dots), dots, "o", color=INK, markersize=4, fillstyle="none")
        labels = [f"{row['set']}\nr = {row['r']}\n{row['parameters']}" for row in rows]
        axes.set_xticks(range(len(rows)), labels, size=8)
        axes.grid(axis="x", visible=False)
        axes.set(title=f"{TITLES[task]}: at most {table['budget']} parameters", ylim=(0, 1.02))
        axes.set_ylabel("exact match")
        axes.set_xlabel("targets, rank, parameters")


def scaling(drawn: Figure, data: Any) -> None:
    """Loss over rank: at two fixed learning rates, and each at its best."""
    rows = data["rows"]
    peaks = sorted({row["peak"] for row in rows})
    shown = [*(peaks[1:3] or peaks), None]
    for axes, peak in zip(drawn.subplots(1, len(shown), sharey=True), shown, strict=True):
        for nth, (rule, label) in enumerate(RULES.items()):
            mine = [row for row in rows if row["rule"] == rule]
            every = sorted({row["r"] for row in mine})
            chosen = [
                min(
                    (row for row in mine if row["r"] == r and peak in (None, row["peak"])),
                    key=lambda row: row["loss"]["mean"],
                )
                for r in every
            ]
            lined(axes, nth, every, [row["loss"] for row in chosen], label)
        doubling(axes, every)
        plain_log(axes, (0.01, 0.02, 0.05, 0.1, 0.2, 0.5))
        axes.set_title("best learning rate for each" if peak is None else f"learning rate {peak:g}")
        axes.legend()
    drawn.axes[0].set_ylabel("loss on the exceptions, nats a letter")


def alpha(drawn: Figure, data: Any) -> None:
    """Left: alpha by learning rate. Right: which factor begins at zero."""
    left, right = drawn.subplots(1, 2)
    alphas = sorted({row["alpha"] for row in data["rows"]})
    peaks = sorted({row["peak"] for row in data["rows"]})
    found = {(row["alpha"], row["peak"]): row["loss"]["mean"] for row in data["rows"]}
    grid = [[math.log10(found[a, peak]) for peak in peaks] for a in alphas]
    image = left.imshow(grid, cmap="cividis", aspect="auto", origin="lower")
    middle = (max(map(max, grid)) + min(map(min, grid))) / 2
    for at, row in enumerate(grid):
        for column, value in enumerate(row):
            colour = "black" if value > middle else "white"
            left.text(column, at, f"{10**value:.3g}", ha="center", va="center", color=colour)
    left.set_xticks(range(len(peaks)), [f"{peak:g}" for peak in peaks])
    left.set_yticks(range(len(alphas)), [f"{a:g}" for a in alphas])
    left.grid(visible=False)
    left.set(title=f"loss at r = {data['r']}", xlabel="learning rate", ylabel="α")
    drawn.colorbar(image, ax=left, label="log₁₀ of the loss")
    for nth, zero in enumerate("BA"):
        mine = [row for row in data["starts"] if row["zero"] == zero]
        other = "A" if zero == "B" else "B"
        label = f"{zero} = 0, {other} random"
        lined(right, nth, [row["peak"] for row in mine], [row["loss"] for row in mine], label)
    right.set_xscale("log")
    plain_log(right, (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2))
    right.set_xticks(peaks, [f"{peak:g}" for peak in peaks])
    right.set(title="which factor begins at zero", xlabel="learning rate", ylabel="loss")
    right.legend()


def spectra(drawn: Figure, data: Any) -> None:
    """Energy of the k strongest directions, by kind of linear: ΔW, noise, W itself."""
    kinds = {"q_proj": "q of blocks.1", "v_proj": "v of blocks.1", "mlp.fc1": "fc1 of blocks.1"}
    grid = drawn.subplots(2, len(kinds), sharex=True, sharey=True)
    labels = {"update": "ΔW", "noise": "noise", "base": "W before"}
    for row, (task, title) in zip(grid, TITLES.items(), strict=True):
        last = data[task]["linears"][len(data[task]["linears"]) // 2 :]
        for axes, (ending, name) in zip(row, kinds.items(), strict=True):
            (linear,) = (one for one in last if one["name"].endswith(ending))
            for nth, (kind, label) in enumerate(labels.items()):
                energy = linear[kind]["energy"]
                line(axes, nth, range(1, len(energy) + 1), energy, label)
                axes.lines[-1].set_markevery(8)
            axes.axhline(0.9, color=INK, linewidth=0.8)
            axes.set_title(f"{title}: {name}", size=9)
        row[0].set_ylabel("share of the energy")
    for axes in grid[-1]:
        axes.set_xlabel("strongest directions kept")
    grid[0][0].legend(fontsize=8)


def truncation(drawn: Figure, data: Any) -> None:
    """Exact match: fine-tuned weights cut to rank r, and adapters trained at rank r."""
    for axes, (task, title) in zip(drawn.subplots(1, 2, sharey=True), TITLES.items(), strict=True):
        table = data[task]
        every = [row["r"] for row in table["rows"]]
        lined(axes, 0, every, [row["learned"] for row in table["trained"]], "trained at rank r")
        lined(axes, 1, every, [row["learned"] for row in table["rows"]], "ΔW cut to rank r")
        axes.axhline(
            table["after"]["learned"]["mean"], color=INK, linestyle="--", label="all of ΔW"
        )
        doubling(axes, every)
        axes.set(title=title, ylim=(-0.03, 1.03))
        axes.legend(fontsize=8, loc="lower right")
    drawn.axes[0].set_ylabel("exact match")


def subspaces(drawn: Figure, data: Any) -> None:
    """φ(i, j) in four tables: by A and by B A, over seeds and over ranks."""
    small, large = data["r"]
    grid = drawn.subplots(2, 2)
    for row, view in zip(grid, ("A", "BA"), strict=True):
        for axes, label in zip(row, ("seeds", "ranks"), strict=True):
            table = data[f"{view}, {label}"]["grid"]
            image = axes.imshow(table, cmap="cividis", vmin=0, vmax=0.6, origin="lower")
            for i, values in enumerate(table):
                for j, value in enumerate(values):
                    colour = "black" if value > 0.33 else "white"
                    axes.text(
                        j,
                        i,
                        f".{100 * value:02.0f}",
                        ha="center",
                        va="center",
                        size=7,
                        color=colour,
                    )
            ticks = range(len(table))
            axes.set_xticks(ticks, [str(tick + 1) for tick in ticks])
            axes.set_yticks(ticks, [str(tick + 1) for tick in ticks])
            axes.grid(visible=False)
            other = small if label == "seeds" else large
            axes.set_title(
                f"{'B A' if view == 'BA' else view}: r = {small} and r = {other}", size=10
            )
            axes.set(xlabel=f"j, r = {other}", ylabel=f"i, r = {small}")
    drawn.colorbar(
        image, ax=grid, label=f"φ(i, j); two random subspaces give max(i, j) / {data['in']}"
    )


FIGURES: Pictures = {
    "ranks": (ranks, (11.0, 3.9)),
    "targets": (targets, (10.0, 3.9)),
    "scaling": (scaling, (10.0, 3.7)),
    "alpha": (alpha, (10.0, 4.2)),
    "spectra": (spectra, (10.0, 5.6)),
    "truncation": (truncation, (9.0, 3.9)),
    "subspaces": (subspaces, (8.4, 7.4)),
}
