"""The pictures of the lab: accuracies over ranks, and the frontier of learned against forgotten.

Source: minituner.plots for colours, grounds and files. Leaves out: every number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any  # Any: what JSON holds

from minituner.plots import INK, Pictures, line

if TYPE_CHECKING:  # imported where it is drawn: the numbers need no extra
    from matplotlib.figure import Figure

TITLES = {"naive": "irregular verbs alone", "careful": "the recipe"}

RUNS = {
    "naive": "irregular verbs alone",
    "few": "rehearsing 120 verbs",
    "less": "half rehearsal",
    "careful": "the recipe",
}


def label(rank: int) -> str:
    return str(rank) if rank else "full"


def forgetting(drawn: Figure, data: Any) -> None:
    """A panel a recipe: learned and control over the rank, with the spread over seeds."""
    panels = drawn.subplots(1, len(TITLES), sharey=True)
    for axes, (name, title) in zip(panels, TITLES.items(), strict=True):
        rows = data.get(name, [])
        places = range(len(rows))
        for nth, (key, said) in enumerate(
            (("learned", "irregular, trained on"), ("control", "regular, never seen"))
        ):
            means = [100 * row[key]["mean"] for row in rows]
            spread = [100 * row[key]["sd"] for row in rows]
            line(axes, nth, list(places), means, said, spread)
        axes.axhline(100 * data["base"]["control"], color=INK, linewidth=1.0, linestyle=":")
        axes.set_xticks(list(places), [label(row["rank"]) for row in rows])
        axes.set(title=title, xlabel="rank r", ylim=(-4, 110))
    panels[0].set_ylabel("exact match, %")
    top = 100 * data["base"]["control"] + 3
    panels[0].annotate("the base: regular, never seen", (0, top), fontsize=8)
    panels[0].legend(loc="center right", fontsize=9)


def frontier(drawn: Figure, data: Any) -> None:
    """Each run's way through the plane; right is learned, up is kept."""
    axes = drawn.subplots()
    for nth, path in enumerate(data["paths"]):
        kind = f"r = {path['rank']}" if path["rank"] else "full"
        said = f"{kind}, {RUNS[path['name']]}"
        x = [0.0, *(100 * value for value in path["learned"])]
        y = [100 * value for value in (data["base"]["watched"], *path["watched"])]
        line(axes, nth, x, y, said)
    axes.set(xlabel="irregular verbs learned, %", ylabel="watched regular verbs kept, %")
    axes.set(xlim=(-3, 103), ylim=(-3, 103))
    axes.legend(loc="lower left", fontsize=9)


FIGURES: Pictures = {"forgetting": (forgetting, (8.5, 4.2)), "frontier": (frontier, (7.0, 5.0))}
