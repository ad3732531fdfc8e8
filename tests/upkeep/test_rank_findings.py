"""What theory/06-low-rank says in words about rank, held to experiments/28-rank/figures/*.json.

Leaves out: the numbers on the page, which theory_facts_rank_findings.py compares one by one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any  # what JSON holds

import pytest

FIGURES = Path(__file__).parents[2] / "experiments" / "28-rank" / "figures"


@pytest.fixture(scope="module")
def found() -> Any:
    """Every table of figures/ by name."""
    paths = FIGURES.glob("*.json")
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def by(rows: Any, *keys: str) -> dict[Any, Any]:
    """Rows by the value of a key, or of several."""
    return {row[keys[0]] if len(keys) == 1 else tuple(row[k] for k in keys): row for row in rows}


def mean(row: Any, name: str = "loss") -> float:
    return float(row[name]["mean"])


def apart(better: Any, worse: Any) -> bool:
    """Whether every seed of the one has a lower loss than every seed of the other."""
    return bool(max(better["loss"]["each"]) < min(worse["loss"]["each"]))


def test_finding_rank_is_a_property_of_the_task(found: Any) -> None:
    """The rule needs r = 1, the exceptions r = 8; 512 and 4608 parameters reach nine tenths."""
    hard, easy = found["ranks"]["exceptions"], found["ranks"]["rule"]
    match = {r: mean(row, "learned") for r, row in by(hard["rows"], "r").items()}
    whole = mean(hard["weights"], "learned")
    assert match[1] < 0.9 * whole <= match[2] and match[4] < 0.99 < match[8]
    assert mean(by(easy["rows"], "r")[1], "learned") >= mean(easy["weights"], "learned")
    assert all(mean(row) > mean(hard["weights"]) for row in hard["rows"])
    few = by(easy["few"], "set")
    nine = 0.9 * mean(easy["weights"], "learned")
    assert mean(few["v"], "learned") < nine <= mean(few["qv"], "learned")
    assert all(mean(row, "learned") < 0.9 * whole for row in hard["few"])


def test_finding_small_ranks_forget_more(found: Any) -> None:
    """Regular verbs still known after the exceptions: r = 1, then r = 8, then the weights."""
    hard = found["ranks"]["exceptions"]
    kept = [mean(by(hard["rows"], "r")[r], "control") for r in (1, 8)]
    assert kept[0] < kept[1] < mean(hard["weights"], "control") < hard["before"]["control"] == 1.0


def test_finding_more_places_beat_more_rank(found: Any) -> None:
    """q last; q, v and all four in that order; all six first; the MLP near attention's best."""
    for task in ("exceptions", "rule"):
        rows = by(found["targets"][task]["rows"], "set")
        order = [mean(rows[name], "learned") for name in ("q", "v", "qv", "qkvo", "all")]
        assert order == sorted(order)
        assert abs(mean(rows["mlp"], "learned") - mean(rows["qkvo"], "learned")) < 0.05
        assert rows["mlp"]["parameters"] < rows["qkvo"]["parameters"]


def test_finding_the_rate_decides_which_scale_wins(found: Any) -> None:
    """At 0.003 α/r stalls, at 0.01 α/√r breaks; tuned, α/√r wins at r = 64, the weights too."""
    rows = by(found["scaling"]["rows"], "rule", "r", "peak")
    plain, root = "alpha/r", "alpha/sqrt(r)"
    assert mean(rows[plain, 64, 3e-3]) > 0.9 * mean(rows[plain, 4, 3e-3])
    assert apart(rows[root, 64, 3e-3], rows[root, 4, 3e-3])
    assert apart(rows[plain, 64, 1e-2], rows[root, 64, 1e-2])
    rates = {key[2] for key in rows}
    best = {
        (rule, r): min(rates, key=lambda rate: mean(rows[rule, r, rate])) for rule, r, _ in rows
    }
    assert {best[plain, r] for r in (1, 4, 16, 64)} == {1e-2}
    assert [best[root, r] for r in (1, 4, 16, 64)] == [1e-2, 1e-2, 3e-3, 3e-3]
    assert apart(rows[root, 64, 3e-3], rows[plain, 64, 1e-2])
    assert apart(rows[root, 64, 3e-3], found["ranks"]["exceptions"]["weights"])


def test_finding_a_larger_alpha_is_better_when_tuned(found: Any) -> None:
    """Each α at its best rate, none at the edge of the grid; every seed agrees on the order."""
    rows = found["alpha"]["rows"]
    rates = sorted({row["peak"] for row in rows})
    best = [min((row for row in rows if row["alpha"] == alpha), key=mean) for alpha in (2, 16, 128)]
    assert apart(best[1], best[0]) and apart(best[2], best[1])
    assert all(row["peak"] in rates[1:-1] for row in best)


def test_finding_b_zero_stands_larger_rates_but_does_not_end_better(found: Any) -> None:
    """A = 0 is ahead at the three lower rates, at 0.01 within the seeds' spread; not at 0.03."""
    rows = by(found["alpha"]["starts"], "zero", "peak")
    assert all(mean(rows["A", rate]) < mean(rows["B", rate]) for rate in (1e-3, 3e-3, 1e-2))
    assert not apart(rows["A", 1e-2], rows["B", 1e-2])
    assert apart(rows["B", 3e-2], rows["A", 3e-2])
    for zero in "AB":
        assert min((row for key, row in rows.items() if key[0] == zero), key=mean)["peak"] == 1e-2


def test_finding_adapters_find_another_update_than_the_cut_one(found: Any) -> None:
    """ΔW is below W and far below noise; adapters use few directions; cuts lose what they find."""
    for task, share in (("exceptions", 0.8), ("rule", 0.4)):
        linears = found["spectra"][task]["linears"]
        update, base, noise = (
            sum(mean(one[kind], "energy_rank") for one in linears) / len(linears)
            for kind in ("update", "base", "noise")
        )
        assert share * base < update < base < noise
        assert by(found["spectra"][task]["used"], "r")[64]["energy_rank"] < 8
        table = found["truncation"][task]
        cuts, trained = by(table["rows"], "r"), by(table["trained"], "r")
        assert all(mean(cuts[r], "learned") < mean(trained[r], "learned") for r in (1, 2, 4, 8))
    hard = by(found["truncation"]["exceptions"]["rows"], "r")[8]
    assert mean(hard, "gain") > 0.9 and mean(hard, "learned") < 0.3


def test_finding_directions_are_shared_above_chance_and_below_the_paper(found: Any) -> None:
    """φ(1, 1) is several times chance and far under 0.5; W along ΔW beats noise, not its own."""
    data = found["subspaces"]
    for view in ("A", "BA"):
        for pair in ("seeds", "ranks"):
            grid = data[f"{view}, {pair}"]["grid"]
            assert 5 / data["in"] < grid[0][0] < 0.25
            assert 8 / data["in"] < grid[7][7] < grid[0][0] * 8
    for row in found["amplification"]["exceptions"]["rows"]:
        assert mean(row, "noise") < mean(row, "update") < mean(row, "own") / 4
