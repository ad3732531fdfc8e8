"""The facts of theory/05-forgetting: the verb lists, the shipped base, the committed figures.

Source: theory_facts.py, which has the other pages. Leaves out: running the experiment; the figures
are what `experiments/28-irregular-verbs/run.py --full` wrote.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any  # what JSON holds

from theory_numbers import Fact, fact

from minituner import verbs
from minituner.verbbase import load_base, share_right

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@cache
def figure(name: str, folder: str = "28-irregular-verbs") -> Any:
    file = EXPERIMENTS / folder / "figures" / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8"))


def percent(share: dict[str, float]) -> tuple[float, float]:
    return 100 * share["mean"], 100 * share["sd"]


def grouped(count: int) -> str:
    return f"{count:,}".replace(",", " ") if count > 9999 else str(count)


def cells(row: Any) -> Fact:
    """The last two cells of a row: learned and control, each a mean and a spread."""
    both = *percent(row["learned"]), *percent(row["control"])
    return fact("| {:.1f} ± {:.1f} | {:.1f} ± {:.1f} |".format(*both), *both)


def over_ranks(name: str) -> list[Fact]:
    """The rows of a table over ranks; the one of full fine-tuning without its first cell."""
    found = []
    for row in figure("forgetting")[name]:
        text, values = cells(row)
        count, rank = row["trainable"], row["rank"]
        text = f"| {grouped(count)} {text}"
        found.append(
            fact(f"| {rank} {text}" if rank else text, *([rank] * bool(rank)), count, *values)
        )
    return found


def of_names() -> list[Fact]:
    """The table of both halves, each row without its first cell."""
    data = figure("names", "28-names")
    assert data["seeds"] == 3  # a word on the page
    found = [fact(grouped(data["names"]), data["names"])]
    for row in data["rows"]:
        values = [row[half][key] for half in ("early", "late") for key in ("mean", "sd")]
        count = grouped(row["trainable"])
        text = "| {} | {:.3f} ± {:.3f} | {:.3f} ± {:.3f} |".format(count, *values)
        found.append(fact(text, row["trainable"], *values))
    return found


def forgetting_facts() -> list[Fact]:
    """theory/05-forgetting.md"""
    data, parts = figure("forgetting"), verbs.split()
    base, how, at_eight = load_base(), data["recipe"], {}
    for name in ("naive", "few", "less", "careful"):
        (at_eight[name],) = (row for row in data[name] if row["rank"] == 8)
    control, rule, irregular = (
        100 * share_right(base, pairs)
        for pairs in (parts.control, verbs.over_regularised(), verbs.irregular())
    )
    assert data["base"]["control"] == round(control / 100, 4)  # the figures are this base's
    careful, paths = how["careful"], len(figure("frontier")["paths"])
    assert (data["seeds"], paths) == (3, 6)  # words on the page
    return [
        fact("102 976", sum(p.numel() for p in base.parameters())),
        fact("| taught | 120", len(parts.taught)),
        fact("| watched | 90", len(parts.watched)),
        fact("| control | 132", len(parts.control)),
        fact("| irregular | 112", len(verbs.irregular())),
        fact("120", len(parts.taught)),
        fact("132", len(parts.control)),
        fact("0.76", 100 / len(parts.control)),
        fact("McClelland (1986)", 1986),
        fact("Marcus et al. 1992", 1992),
        fact("Robins 1995", 1995),
        *(fact(f"{value:.1f} %", value) for value in (control, irregular, rule)),
        fact(str(how["naive"]["steps"]), how["naive"]["steps"]),
        fact(str(careful["steps"]), careful["steps"]),
        fact("18 000", how["invented"] + how["lookalikes"]),
        fact("6000", how["lookalikes"]),
        *(
            fact(f"{key} = {careful[key]:g}", careful[key])
            for key in ("share", "peak", "warmup", "every")
        ),
        fact("share = 0.5", data["less"][0]["share"]),
        fact("0.03", how["may_forget"]),
        fact("28-irregular-verbs", 28),  # a folder's name
        *(fact(f"r = {rank}", rank) for rank in (1, 4, 8)),
        *over_ranks("naive"),
        *over_ranks("careful"),
        *(cells(row) for row in at_eight.values()),
        *of_names(),
    ]
