"""Lab 03's experiment: end to end in miniature, and what its cells and tables promise.

The ★ files are the reference's. Leaves out: the findings, which theory_facts_rank_findings.py reads
from figures/*.json and test_rank_findings.py holds to them, and the pictures; a person looks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any  # what the experiment's modules and JSON hold

import pytest
import torch
from together import together
from torch import nn

from minituner.verbbase import SHA256, load_base

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "28-rank"


@pytest.fixture(scope="module")
def parts() -> Any:
    return together(FOLDER, "ablations", "cells", "spectra", "study", "tasks")


@pytest.fixture(scope="module")
def stars() -> Any:
    return together(ROOT / "solutions", "adapt", "lora", "rank")


@pytest.fixture
def bench(parts: Any, stars: Any, tmp_path: Path) -> Any:
    """A bench with a few pairs a task and an empty folder of its own."""
    torch.set_num_threads(1)
    short = {name: task.shortened() for name, task in parts.tasks.tasks().items()}
    return parts.cells.Bench(load_base(), short, stars.lora, stars.adapt, stars.rank, tmp_path)


@pytest.fixture
def cell(parts: Any) -> Any:
    return parts.cells.Cell("exceptions", seed=0, peak=1e-2, r=2, steps=3)


def without_time(result: Any) -> Any:
    return replace(result, seconds=0.0)


def tensors_equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


# --- end to end -----------------------------------------------------------------------------------


@pytest.mark.long(10)
def test_smoke_runs_end_to_end(parts: Any, tmp_path: Path) -> None:
    """Every table is written, every figure drawn; the bar knew how many cells there would be."""
    command = [sys.executable, str(FOLDER / "run.py"), "--smoke", "--out", str(tmp_path)]
    said = os.environ | {"MINITUNER_LANG": "en"}
    ran = subprocess.run(command, check=True, env=said, capture_output=True, text=True, timeout=600)
    out = tmp_path / "results" / "smoke"
    for name in parts.study.TABLES:
        assert json.loads((out / f"{name}.json").read_text(encoding="utf-8")), name
    for name in parts.study.drawing.FIGURES:
        assert (out / f"{name}.svg").is_file() and (out / f"{name}.png").is_file(), name
    cells = len(list((out / "cells").glob("*.json")))
    assert cells > 30
    assert f"\n{cells} of {cells}, " in f"\n{ran.stdout}"


def test_notes_are_measured_with_rank_alone(stars: Any) -> None:
    """The values need no other ★ file; what the page says in advance holds."""
    run = together(FOLDER, "run").run
    found = run.measure(stars.rank)
    assert found["distance_r8"] == pytest.approx(found["lost_r8"], rel=1e-9)  # Eckart and Young
    assert found["energy_rank"] < found["energy_rank_noise"] <= 64
    assert (found["rank_qv"], found["rank_mlp"], found["root_over_plain_r64"]) == (36, 14, 8.0)


# --- cells ----------------------------------------------------------------------------------------


def test_a_resumed_cell_equals_one_run_at_once(bench: Any, cell: Any, tmp_path: Path) -> None:
    """A run that was killed between two cells ends with the very numbers of an undisturbed one."""
    cells = [cell, replace(cell, seed=1), replace(cell, peak=1e-3), replace(cell, train="weights")]
    once = [(without_time(bench.result(one)), bench.state(one)) for one in cells]
    again = replace(bench, folder=tmp_path / "again")
    for one in reversed(cells[:2]):  # another order, then a kill, then the rest
        again.result(one)
    for one, (result, state) in zip(cells, once, strict=True):
        assert without_time(again.result(one)) == result
        assert tensors_equal(again.state(one), state)


def test_a_cell_that_was_killed_is_run_again(bench: Any, cell: Any) -> None:
    """Half a file is no result; a whole one is read, not run."""
    half = bench.folder / f"{cell.key}.part"
    half.write_text('{"loss": ', encoding="utf-8")
    first = bench.result(cell)
    place = bench.folder / f"{cell.key}.json"
    said = json.loads(place.read_text(encoding="utf-8"))
    assert not half.exists() and first.loss == said["loss"]
    place.write_text(json.dumps(said | {"loss": 28.0}), encoding="utf-8")
    assert bench.result(cell).loss == 28.0


def test_every_cell_has_a_file_of_its_own(parts: Any, cell: Any) -> None:
    """Any field that changes what is trained changes the name."""
    others = {
        "task": "rule",
        "seed": 1,
        "peak": 0.5,
        "r": 3,
        "alpha": 7.0,
        "rule": "alpha/sqrt(r)",
        "targets": "v",
        "zero": "A",
        "train": "weights",
        "steps": 4,
    }
    assert set(others) == set(parts.cells.Cell.__dataclass_fields__)
    keys = {cell.key} | {replace(cell, **{name: value}).key for name, value in others.items()}
    assert len(keys) == 1 + len(others)


@pytest.mark.parametrize("zero", ["A", "B"])
@pytest.mark.parametrize(("rule", "scale"), [("alpha/r", 8.0), ("alpha/sqrt(r)", 16 / 2**0.5)])
def test_adapters_begin_at_the_base(
    zero: str, rule: str, scale: float, bench: Any, cell: Any, parts: Any
) -> None:
    """Either factor may be the zero one, the other is random; the scale is the rule's."""
    model = parts.cells.prepare(replace(cell, zero=zero, rule=rule), bench)
    layer = model.get_submodule("blocks.0.mlp.fc1")
    assert layer.scaling == pytest.approx(scale)
    at_zero, random = (layer.lora_A, layer.lora_B)[:: 1 if zero == "A" else -1]
    assert not at_zero.any() and random.std() > 0
    tokens = torch.arange(8).unsqueeze(0)
    assert torch.equal(model(tokens), bench.base(tokens))


def test_a_cell_trains_what_it_says(bench: Any, cell: Any, parts: Any) -> None:
    """Adapters of the targets, the weights of the targets, or everything."""
    sizes = {"adapters": 2 * 2304, "weights": 98_304, "everything": 102_976}
    for train, size in sizes.items():
        model = parts.cells.prepare(replace(cell, train=train), bench)
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == size


# --- tables ---------------------------------------------------------------------------------------


def test_the_best_rate_is_the_one_with_the_lowest_loss(bench: Any, cell: Any, parts: Any) -> None:
    """For the first seed, of those that the grid has for this way of training."""
    grid = replace(parts.study.SMALL, peaks=(1e-4, 1e-2))
    study = parts.ablations.Study(grid, bench)
    losses = {peak: bench.result(replace(cell, peak=peak)).loss for peak in grid.peaks}
    assert study.best(cell).peak == min(losses, key=lambda peak: losses[peak]) == 1e-2


def test_a_cut_at_full_rank_keeps_all_the_gain(bench: Any, parts: Any) -> None:
    """ΔW cut to rank 64 is ΔW, so the model is the fine-tuned one; at rank 1 it is not."""
    grid = replace(parts.study.SMALL, ranks=(1, 64), seeds=(0,), exceptions_steps=10)
    only = replace(bench, tasks={"exceptions": bench.tasks["exceptions"]})
    table = parts.spectra.truncation(parts.ablations.Study(grid, only))["exceptions"]
    short, whole = table["rows"]
    assert whole["gain"]["mean"] == pytest.approx(1.0, abs=1e-4)
    assert whole["loss"]["mean"] == pytest.approx(table["after"]["loss"]["mean"], rel=1e-4)
    assert short["gain"]["mean"] < 0.999


def test_an_adapter_has_the_rank_it_was_given(bench: Any, cell: Any, parts: Any) -> None:
    """The ΔW that spectra reads is scale · B A, of rank r, and what the wrapped model adds."""
    grid = parts.study.SMALL
    deltas = parts.spectra.updates(parts.ablations.Study(grid, bench), cell)
    model = parts.cells.prepare(cell, bench)
    bench.adapt.load_adapters(model, bench.state(cell))
    layer = model.get_submodule("blocks.1.attn.v_proj")
    x = torch.randn(5, 64)
    added = (layer(x) - layer.base(x)).double()
    delta = deltas["blocks.1.attn.v_proj"]
    assert torch.allclose(added, x.double() @ delta.T, atol=1e-5)
    assert int(torch.linalg.matrix_rank(delta, rtol=1e-6)) == cell.r


def test_lora_plus_is_alpha_under_adam() -> None:
    """B's learning rate times λ trains the same update as α times λ: from B = 0, Adam, tiny eps."""
    torch.manual_seed(0)
    W, A, x = (torch.randn(shape, dtype=torch.float64) for shape in ((5, 4), (2, 4), (16, 4)))
    wanted = torch.randn(16, 5, dtype=torch.float64)
    updates = []
    for scale, ratio in ((2.0, 8.0), (16.0, 1.0)):
        a, b = nn.Parameter(A.clone()), nn.Parameter(torch.zeros(5, 2, dtype=torch.float64))
        groups = [{"params": [a], "lr": 1e-2}, {"params": [b], "lr": ratio * 1e-2}]
        optimizer = torch.optim.Adam(groups, eps=1e-30)
        for _ in range(20):
            optimizer.zero_grad()
            loss = (x @ (W + scale * b @ a).T - wanted).square().mean()
            torch.autograd.backward(loss)
            optimizer.step()
        updates.append((scale * b @ a).detach())
    plus, plain = updates
    assert plus.norm() > 0.1
    assert torch.allclose(plus, plain, rtol=1e-9, atol=1e-12)


def test_figures_are_of_the_grid_that_stands_here(parts: Any) -> None:
    """Every table is there, of this base, with the ranks, rates and seeds of ablations.Grid."""
    paths = (FOLDER / "figures").glob("*.json")
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}
    assert set(found) == set(parts.study.TABLES)
    assert found["ranks"]["base"] == SHA256
    grid = parts.ablations.Grid()
    rows = found["ranks"]["exceptions"]["rows"]
    assert [row["r"] for row in rows] == list(grid.ranks)
    assert all(len(row["loss"]["each"]) == len(grid.seeds) == 3 for row in rows)
    rates = {row["peak"] for row in found["alpha"]["rows"]}
    assert rates == set(grid.alpha_peaks)
    assert {row["peak"] for row in found["scaling"]["rows"]} == set(grid.scaled_peaks)


def test_the_new_rule_is_spelled_right(parts: Any) -> None:
    """A few of each kind; verbs whose stress decides are left out of the task."""
    shown = "walking baking stopping tying seeing agreeing dyeing quitting playing fixing crying"
    bases = "walk bake stop tie see agree dye quit play fix cry"
    assert [parts.tasks.ing(verb) for verb in bases.split()] == shown.split()
    from minituner.corpora import LETTERS

    asked = {LETTERS.decode(prompt) for prompt, _ in parts.tasks.tasks()["rule"].asked}
    taught = {LETTERS.decode(prompt) for prompt, _ in parts.tasks.tasks()["rule"].new}
    assert not asked & {"begin>", "forget>"} and not asked & taught and len(asked) > 300
