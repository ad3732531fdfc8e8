"""The ablations: which cells each question needs, and the tables made of them.

    ranks      1 to 64 against all of the weights          scaling   alpha/r against alpha/√r
    targets    q, v, qv, qkvo, MLP, all, at one budget     alpha     α, learning rate, which zero

Every way gets the learning rate at which its own loss is lowest for the first seed, and a table
says which. Leaves out: spectra and subspaces, in spectra.py.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any  # what JSON holds

import torch
from cells import SETS, Bench, Cell, Result, judged, linears, prepare
from tasks import PAD

from minituner.recipe import Recipe, Run

Table = dict[str, Any]
RULES = ("alpha/r", "alpha/sqrt(r)")


@dataclass(frozen=True)
class Grid:
    """How much is run."""

    ranks: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    peaks: tuple[float, ...] = (3e-3, 1e-2, 3e-2, 1e-1)  # learning rates of adapters
    weight_peaks: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2)  # of the weights themselves
    alphas: tuple[float, ...] = (2.0, 16.0, 128.0)
    alpha_peaks: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    scaled: tuple[int, ...] = (1, 4, 16, 64)  # ranks that both rules are tried at
    scaled_peaks: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2)
    seeds: tuple[int, ...] = (0, 1, 2)
    exceptions_steps: int = 300
    rule_steps: int = 150
    rule_peaks: tuple[float, ...] = (3e-3, 1e-2)
    rule_weight_peaks: tuple[float, ...] = (1e-3, 3e-3)
    few: tuple[str, ...] = ("v", "qv", "qkvo", "mlp")  # at r = 1: under what r = 1 costs on all
    timed_steps: int = 10

    def cell(self, task: str, **how: Any) -> Cell:
        """A cell of this grid: its first seed, and no learning rate yet, unless told otherwise."""
        steps = self.exceptions_steps if task == "exceptions" else self.rule_steps
        return replace(Cell(task, seed=self.seeds[0], peak=0.0, steps=steps), **how)

    def rates(self, cell: Cell) -> tuple[float, ...]:
        """The learning rates that this way of training is tried with."""
        if cell.task == "exceptions":
            return self.peaks if cell.train == "adapters" else self.weight_peaks
        return self.rule_peaks if cell.train == "adapters" else self.rule_weight_peaks


@dataclass(frozen=True)
class Study:
    """A grid, the bench it runs on, and who is told of each cell that is done."""

    grid: Grid
    bench: Bench
    show: Callable[[Cell], None] = lambda cell: None

    def result(self, cell: Cell) -> Result:
        """One cell, and whoever waits is told."""
        found = self.bench.result(cell)
        self.show(cell)
        return found

    def results(self, cell: Cell) -> list[Result]:
        """One result a seed."""
        return [self.result(replace(cell, seed=seed)) for seed in self.grid.seeds]

    def best(self, cell: Cell) -> Cell:
        """The cell at the learning rate with the lowest loss, for the first seed."""
        ways = [replace(cell, peak=peak) for peak in self.grid.rates(cell)]
        return min(ways, key=lambda way: self.result(way).loss)

    def row(self, cell: Cell) -> Table:
        """A cell at its learning rate: every value by seed, and their mean."""
        found = self.results(cell)
        table: Table = {"peak": cell.peak, "parameters": found[0].parameters}
        for name in ("loss", "learned", "control"):
            table[name] = spread([getattr(result, name) for result in found])
        return table

    def best_row(self, cell: Cell) -> Table:
        """The same at the best learning rate."""
        return self.row(self.best(cell))


def spread(values: Sequence[float]) -> Table:
    """What three seeds gave."""
    return {"mean": statistics.fmean(values), "each": list(values)}


def ranks(study: Study) -> Table:
    """Ranks on all linears, at scale alpha/r; beside them what training the weights gives."""
    table: Table = {}
    for name, task in study.bench.tasks.items():
        rows = [{"r": r} | study.best_row(study.grid.cell(name, r=r)) for r in study.grid.ranks]
        full = {
            train: study.best_row(study.grid.cell(name, train=train))
            for train in ("weights", "everything")
        }
        before = asdict(judged(study.bench.base, task, study.bench.adapt))
        few = [
            {"set": label} | study.best_row(study.grid.cell(name, r=1, targets=label))
            for label in study.grid.few
        ]
        table[name] = {"before": before, "rows": rows, "few": few} | full
    return table


def targets(study: Study) -> Table:
    """Each set gets the rank that the budget buys; the scale stays 2 (alpha = 2 r)."""
    shapes = [
        study.bench.rank.LinearShape(name, linear.in_features, linear.out_features)
        for name, linear in linears(study.bench.base, SETS["all"])
    ]
    price = sum(shape.in_features + shape.out_features for shape in shapes)
    table: Table = {}
    for name, budget in (("exceptions", 2 * price), ("rule", price)):
        plans = study.bench.rank.rank_plan(shapes, SETS, budget)
        rows = []
        for label, plan in plans.items():
            how = study.grid.cell(name, r=plan.rank, alpha=2.0 * plan.rank, targets=label)
            rows.append({"set": label, "r": plan.rank} | study.best_row(how))
        table[name] = {"budget": budget, "rows": rows}
    return table


def scaling(study: Study) -> Table:
    """Both rules at alpha = 16: every rank at every learning rate, on the exceptions."""
    rows = []
    for rule in RULES:
        for r in study.grid.scaled:
            # At r = 1 the rules are one; the same cell is not run twice.
            how = study.grid.cell("exceptions", r=r, rule=rule if r > 1 else RULES[0])
            for peak in study.grid.scaled_peaks:
                rows.append({"rule": rule, "r": r} | study.row(replace(how, peak=peak)))
    return {"alpha": how.alpha, "rows": rows}


def alpha(study: Study) -> Table:
    """At r = 8, on the exceptions: alpha by learning rate; and which factor begins at zero."""
    how = study.grid.cell("exceptions")
    rows = [
        {"alpha": value} | study.row(replace(how, alpha=value, peak=peak))
        for value in study.grid.alphas
        for peak in study.grid.alpha_peaks
    ]
    starts = [
        {"zero": zero} | study.row(replace(how, zero=zero, peak=peak))
        for zero in ("B", "A")
        for peak in study.grid.alpha_peaks
    ]
    return {"r": how.r, "rows": rows, "starts": starts}


def timing(study: Study, rounds: int = 15) -> Table:
    """Milliseconds of the processor for a step, by rank: the quickest of interleaved rounds."""
    adapt, task = study.bench.adapt, study.bench.tasks["exceptions"]
    ways = {f"r{r}": study.grid.cell("exceptions", r=r) for r in study.grid.ranks}
    ways["weights"] = study.grid.cell("exceptions", train="weights")
    best: dict[str, float] = {}
    for _ in range(rounds):
        for name, cell in ways.items():
            model = prepare(cell, study.bench)
            optimizer = study.bench.optimizer(model, 1e-3)
            run = Run(model, optimizer, torch.Generator().manual_seed(0))
            recipe = Recipe(steps=study.grid.timed_steps, pad_id=PAD, share=task.share, every=10**6)
            began = time.process_time()
            adapt.adapt(run, task.new, task.old, recipe, lambda present: (0.0, 0.0))
            spent = 1000 * (time.process_time() - began) / study.grid.timed_steps
            best[name] = min(spent, best.get(name, spent))
    return {"milliseconds": best}


TABLES = {"ranks": ranks, "targets": targets, "scaling": scaling, "alpha": alpha}


@dataclass(frozen=True)
class Counted(Study):
    """Notes which cells are asked for; nothing is run."""

    found: set[Cell] = field(default_factory=set)

    def result(self, cell: Cell) -> Result:
        self.found.add(cell)
        return Result(0.0, 0.0, 0.0, 0, 0.0)


def size(grid: Grid, bench: Bench) -> int:
    """How many cells all the tables need, each once; spectra.py needs no others."""
    counted = Counted(grid, bench)
    for table in TABLES.values():
        table(counted)
    return len(counted.found)
