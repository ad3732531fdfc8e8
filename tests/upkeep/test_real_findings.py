"""What lab 04 and theory/07 say in words and quote, held to experiments/28-real-model/figures.

Leaves out: the numbers of the theory page, which theory_facts_real.py compares one by one.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any  # what JSON holds

import pytest

from minituner.corpora import SHAKESPEARE

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "experiments" / "28-real-model"
FIGURES = FOLDER / "figures"
FACES = pytest.mark.parametrize("ending", [".md", ".es.md"])


def figure(name: str) -> Any:
    return json.loads((FIGURES / f"{name}.json").read_text(encoding="utf-8"))


def one(row: Any, key: str) -> float:
    """The only seed's loss."""
    (loss,) = row[key]
    return float(loss)


# --- the bench ------------------------------------------------------------------------------------


def test_our_layer_costs_what_pefts_costs() -> None:
    """Forward and both ways, within a seventh of each other in every row."""
    for row in figure("bench")["rows"]:
        for way in ("forward", "both"):
            assert 6 / 7 < row[way]["ours"] / row[way]["peft"] < 7 / 6, row


def test_an_unwrapped_layer_costs_what_the_base_costs() -> None:
    """Within five hundredths; a merged layer that is still wrapped a tenth more and up."""
    for row in figure("bench")["rows"]:
        merged = row["merged"]
        assert abs(merged["unwrapped"] / merged["base"] - 1) < 0.05, row
        assert merged["merged"] / merged["base"] >= 1.09, row


def test_a_parametrization_costs_more_time_and_bytes_than_a_wrapper() -> None:
    """From a third more to twice, at 256 tokens; three to ten times the bytes."""
    for row in figure("bench")["rows"]:
        both, kept = row["both"], row["bytes"]
        assert 1.3 < both["parametrized"] / both["ours"] < 2.1, row
        assert 3 < kept["parametrized"] / kept["ours"] < 10, row
        ours = 4 * 256 * (row["in"] + 8)
        assert kept == {"ours": ours, "parametrized": 4 * row["in"] * (256 + row["out"])}


# --- the fine-tuning ------------------------------------------------------------------------------


def test_the_run_is_of_the_text_that_corpora_names() -> None:
    """Both figures are of Tiny Shakespeare, by its sha256, and of one model."""
    run, table = figure("shakespeare"), figure("comparison")
    assert run["sha256"] == table["sha256"] == SHAKESPEARE.sha256
    assert run["model"] == table["model"] == "smollm2"
    assert len(run["losses"]) == run["plan"]["steps"]
    assert [step for step, _ in run["curve"]][-1] == run["plan"]["steps"]


def test_it_learns_what_it_never_saw_and_forgets_plain_prose() -> None:
    """Held-out Shakespeare falls, the control rises, each at the end of the run."""
    run = figure("shakespeare")
    assert run["after"]["held_out"] < run["before"]["held_out"] - 0.5
    assert run["after"]["control"] > run["before"]["control"] + 0.2
    falling = [loss for _, loss in run["curve"]]
    assert falling == sorted(falling, reverse=True)


def test_a_rank_of_one_gains_four_fifths_and_forgets_least() -> None:
    """Of what r = 16 gains on Shakespeare; the control rises by a third as much at most."""
    table = figure("comparison")
    base, rows = table["base"], {row["rank"]: row for row in table["ranks"]}
    gain = {rank: base["held_out"] - one(row, "held_out") for rank, row in rows.items()}
    cost = {rank: one(row, "control") - base["control"] for rank, row in rows.items()}
    assert gain[1] < gain[4] < gain[16] and 0.75 < gain[1] / gain[16] < 0.85
    assert 0 < cost[1] < cost[16] / 3 and abs(cost[16] - cost[4]) < 0.01


def test_the_mlp_does_what_all_do_and_attention_does_less() -> None:
    """At an equal budget; q and v come last, all of attention within two hundredths of them."""
    rows = {row["label"]: row for row in figure("comparison")["places"]}
    held_out = {label: one(row, "held_out") for label, row in rows.items()}
    control = {label: one(row, "control") for label, row in rows.items()}
    assert abs(held_out["MLP"] - held_out["all"]) < 0.01
    assert 0 < held_out["q, v"] - held_out["attention"] < 0.02
    assert held_out["attention"] > held_out["all"] + 0.03
    assert control["MLP"] == min(control.values())


@FACES
def test_the_lab_page_quotes_the_run(ending: str) -> None:
    """Every loss, perplexity and sample on the lab's page is the figure's."""
    data = figure("shakespeare")
    text = (ROOT / "lab" / f"04-real-models{ending}").read_text(encoding="utf-8")
    for key in ("held_out", "control"):
        losses = [data[side][key] for side in ("before", "after")]
        cells = " | ".join(f"{loss:.3f} ({math.exp(loss):.1f})" for loss in losses)
        assert f"| {cells} |" in text
    for side in ("before", "after"):
        for sample in data[side]["samples"]:
            assert sample in text, sample
    seconds, plan = data["seconds"], data["plan"]
    assert f"--steps {plan['steps']} --threads {data['threads']}" in text
    assert f"{seconds:.0f} s" in text and f"{data['adapter_bytes'] / 1e6:.1f} MB" in text
