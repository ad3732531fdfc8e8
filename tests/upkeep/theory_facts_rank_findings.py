"""The findings of theory/06-low-rank: every number is read from experiments/28-rank/figures.

A row of a table is written here as the page must have it, from the JSON. Source: the rest of the
page is in theory_facts_rank.py. The words that lean on these numbers are held to them by
test_rank_findings.py.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable
from typing import Any  # what JSON holds

from theory_numbers import ROOT, About, Fact, fact

from minituner import verbs

FIGURES = ROOT / "experiments" / "28-rank" / "figures"
SETS = {"q": "q", "v": "v", "qv": "q, v", "qkvo": "q, k, v, o", "mlp": "fc1, fc2"}
TOP = 0.5  # φ(1, 1) in arXiv:2106.09685 §7.2: at least so much


def figure(name: str) -> Any:
    return json.loads((FIGURES / f"{name}.json").read_text(encoding="utf-8"))


def only(rows: Any, **wanted: Any) -> Any:
    """The one row with these values."""
    (found,) = (row for row in rows if all(row[key] == value for key, value in wanted.items()))
    return found


class Row:
    """A table's row as the page has it, and the numbers in it, cell by cell."""

    def __init__(self, *firsts: str) -> None:
        self.cells = [*firsts]
        self.values: list[float] = []

    def add(self, value: float, digits: int = 3) -> Row:
        """A number, rounded."""
        self.cells.append(f"{value:.{digits}f}")
        self.values.append(value)
        return self

    def size(self, count: int) -> Row:
        """A whole number, grouped from five digits on."""
        self.cells.append(f"{count:,}".replace(",", " ") if count >= 10**4 else str(count))
        self.values.append(count)
        return self

    def seeds(self, spread: Any, digits: int = 3) -> Row:
        """A mean, and from the lowest to the highest."""
        found = spread["mean"], min(spread["each"]), max(spread["each"])
        mean, low, high = (f"{value:.{digits}f}" for value in found)
        self.cells.append(f"{mean} ({low}–{high})")
        self.values += found
        return self

    def fact(self, *before: float) -> Fact:
        """The row; `before` are the numbers in its first cell."""
        return fact(f"| {' | '.join(self.cells)} |", *before, *self.values)


def finding_facts() -> list[Fact]:
    """The section "What we measured"."""
    parts = setting(), ranks(), places(), scale(), starts(), update(), cut(), shared()
    return [one for part in parts for one in part]


def setting() -> Iterable[Fact]:
    """What is adapted, to what."""
    config = (ROOT / "src/minituner/verbbase.py").read_text(encoding="utf-8")
    source = (ROOT / "experiments/28-rank/tasks.py").read_text(encoding="utf-8")
    ((layers,), (stressed,)) = (
        re.findall(r"n_layer=(\d+)", config),
        re.findall(r"STRESSED = \((.*?)\)", source),
    )
    parts, irregular = verbs.split(), verbs.irregular()
    asked = len(parts.watched + parts.control + irregular) - len(stressed.split(","))
    yield fact("n_layer = 2", int(layers))
    yield fact("98 304", figure("ranks")["rule"]["weights"]["parameters"])
    yield fact("112", len(irregular))
    yield fact("332", asked)
    yield fact("132", len(parts.control))


def ranks() -> Iterable[Fact]:
    """The table of ranks, and the prose below it."""
    data = figure("ranks")
    hard, easy, spent = data["exceptions"], data["rule"], data["milliseconds"]
    for row in hard["rows"]:
        if (r := row["r"]) != 32:  # between its neighbours in every column
            shown = Row(f"r = {r}").size(row["parameters"]).seeds(row["learned"])
            other = only(easy["rows"], r=r)["learned"]["mean"]
            yield shown.add(row["loss"]["mean"]).add(other).fact(r)
    whole, few = hard["weights"], only(easy["few"], set="qv")
    shown = Row().size(whole["parameters"]).seeds(whole["learned"]).add(whole["loss"]["mean"])
    yield shown.add(easy["weights"]["learned"]["mean"]).fact()
    yield fact("r = 1", easy["rows"][0]["r"])
    yield fact("r = 8", only(hard["rows"], r=8)["r"])
    yield fact("512", few["parameters"])
    yield fact("0.892", few["learned"]["mean"])
    yield fact("0.477", only(hard["rows"], r=1)["control"]["mean"])
    yield fact("0.697", only(hard["rows"], r=8)["control"]["mean"])
    yield fact("0.725", whole["control"]["mean"])
    yield fact("≈ 1.4 ×", About(spent["r8"] / spent["weights"], 2))
    yield fact("≈ 1.8 ×", About(spent["r64"] / spent["weights"], 2))
    yield fact("4608 |", only(hard["rows"], r=2)["parameters"])  # reaches nine tenths first


def places() -> Iterable[Fact]:
    """The table of targets."""
    data = figure("targets")
    hard, easy = data["exceptions"], data["rule"]
    yield fact("4608", hard["budget"])
    yield fact("2304", easy["budget"])
    for row, other in zip(hard["rows"], easy["rows"], strict=True):
        shown = Row(f"{row['r']}, {row['parameters']}").seeds(row["learned"])
        shown.cells.append(f"{other['r']}, {other['parameters']}")
        shown.values += [other["r"], other["parameters"]]
        label = SETS.get(row["set"], "").replace("fc1, fc2", "fc2")
        text, values = shown.add(other["learned"]["mean"]).fact(row["r"], row["parameters"])
        yield fact(f"{label} {text}".strip(), *values)


def scale() -> Iterable[Fact]:
    """Both rules over rank, and alpha by learning rate."""
    data, other = figure("scaling"), figure("alpha")
    yield fact("α = 16", data["alpha"])
    for r in (1, 4, 16, 64):
        shown = Row(str(r))
        for peak in (0.003, 0.01):
            for rule in ("alpha/r", "alpha/sqrt(r)"):
                shown.add(only(data["rows"], rule=rule, r=r, peak=peak)["loss"]["mean"])
        yield shown.fact(r)
    yield fact("0.003", 0.003)
    yield fact("0.01", 0.01)
    for r in (4, 16, 64):
        yield fact(f"r = {r}", r)
    root, plain = (
        min((row for row in data["rows"] if row["rule"] == rule and row["r"] == 64), key=loss)
        for rule in ("alpha/sqrt(r)", "alpha/r")
    )
    for row, text in ((root, "0.012 (0.012–0.013)"), (plain, "0.021 (0.019–0.022)")):
        yield fact(text, *Row().seeds(row["loss"]).values)
    yield fact("0.018", figure("ranks")["exceptions"]["weights"]["loss"]["mean"])
    test = (ROOT / "tests/upkeep/test_experiment_rank.py").read_text(encoding="utf-8")
    (bound,) = re.findall(r"allclose\(plus, plain, rtol=(\S+),", test)
    yield fact("1e-9", float(bound))
    for alpha in (2, 16, 128):
        best = min((row for row in other["rows"] if row["alpha"] == alpha), key=loss)
        shown = Row(str(alpha), f"{best['peak']:g}").seeds(best["loss"])
        yield shown.fact(alpha, best["peak"])


def loss(row: Any) -> float:
    return float(row["loss"]["mean"])


def starts() -> Iterable[Fact]:
    """B = 0 beside A = 0."""
    data = figure("alpha")["starts"]
    for peak in (0.001, 0.003, 0.01, 0.03):
        shown = Row(f"{peak:g}")
        for zero in "BA":
            shown.seeds(only(data, zero=zero, peak=peak)["loss"])
        yield shown.fact(peak)


def update() -> Iterable[Fact]:
    """Ranks of ΔW, of noise, of W, and those that adapters use."""
    data = figure("spectra")
    for task, kind in (
        ("exceptions", "update"),
        ("rule", "update"),
        ("rule", "base"),
        ("rule", "noise"),
    ):
        found = [linear[kind] for linear in data[task]["linears"]]
        energy = [value for one in found for value in one["energy_rank"]["each"]]
        mean, entropy = (
            statistics.fmean(one[key]["mean"] for one in found)
            for key in ("energy_rank", "entropy_rank")
        )
        low, high = min(energy), max(energy)
        text = f"| {mean:.1f} ({low}–{high}) | {entropy:.1f} |"
        yield fact(text, mean, low, high, entropy)
    for task in ("exceptions", "rule"):
        used = only(data[task]["used"], r=64)
        shown = Row("r = 64").add(used["energy_rank"], 1).add(used["entropy_rank"], 1)
        yield fact(shown.fact(64)[0].removeprefix("| "), 64, *shown.values)
    width = data["rule"]["linears"][0]["shape"][0]
    yield fact("64 dir", width)


def cut() -> Iterable[Fact]:
    """The table of cuts."""
    data = figure("truncation")
    for r in (1, 2, 4, 8, 16, 32):
        shown = Row(str(r))
        for task in ("exceptions", "rule"):
            row = only(data[task]["rows"], r=r)
            shown.add(row["gain"]["mean"]).add(row["learned"]["mean"])
            shown.add(only(data[task]["trained"], r=r)["learned"]["mean"])
        yield shown.fact(r)
    row = only(data["exceptions"]["rows"], r=8)
    yield fact("0.923", row["gain"]["mean"])
    yield fact("0.289", row["learned"]["mean"])


def shared() -> Iterable[Fact]:
    """φ beside chance, and W along ΔW."""
    data, other = figure("subspaces"), figure("amplification")["exceptions"]
    chance = 1 / data["in"], 8 / data["in"]
    yield fact("in = 64", data["in"])
    for row in ("A, seeds", "A, ranks", "BA, seeds", "BA, ranks"):
        grid = data[row]["grid"]
        shown = Row().add(grid[0][0]).add(chance[0]).add(grid[7][7]).add(chance[1])
        yield shown.fact()
    yield fact("φ(1, 1)", 1, 1)
    yield fact("φ(8, 8)", 8, 8)
    first = data["A, seeds"]["grid"]
    yield fact("8 × ", About(first[0][0] / chance[0]))
    yield fact("1.6 ×", first[7][7] / chance[1])
    yield fact("φ(1, 1) > 0.5", 1, 1, TOP)
    means = [
        statistics.fmean(row[kind]["mean"] for row in other["rows"])
        for kind in ("update", "noise", "own")
    ]
    for value, text in zip(means, ("0.531", "0.271", "4.123"), strict=True):
        yield fact(text, value)
