"""Everything that --full and --smoke do: the bench, the cells with a bar, the tables, the figures.

Cells stand in results/, one folder for each recipe, base and ★ files; what is there is not run
again. Leaves out: the questions (ablations.py, spectra.py) and the pictures (drawing.py).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import ablations
import cells
import drawing
import spectra
import tasks
import torch
from ablations import Grid, Study
from cells import Bench, Cell
from rich.console import Console

from minituner import verbbase
from minituner.bar import bar
from minituner.grading.registry import lab
from minituner.measuring import load
from minituner.plots import needed, redraw_all

SMALL = Grid(
    ranks=(1, 2),
    few=("v",),
    peaks=(1e-2,),
    weight_peaks=(1e-2,),
    alphas=(16.0,),
    alpha_peaks=(1e-2,),
    scaled=(1, 2),
    scaled_peaks=(1e-2,),
    seeds=(0, 1),
    exceptions_steps=2,
    rule_steps=2,
    rule_peaks=(1e-2,),
    rule_weight_peaks=(1e-2,),
    timed_steps=1,
)
TABLES = ablations.TABLES | spectra.TABLES


def bench_of(impl: str, results: Path, device: str = "cpu") -> Bench:
    """The bench with whoever's ★ files; its folder is named after all that a cell depends on."""
    rank, adapt, lora = (load(lab(which), impl) for which in ("03", "02", "00"))
    sources = [Path(str(module.__file__)) for module in (rank, adapt, lora, cells, tasks)]
    stamp = hashlib.sha256(b"".join(path.read_bytes() for path in sources))
    stamp.update(f"{verbbase.SHA256} {torch.__version__} {device}".encode())
    folder = results / stamp.hexdigest()[:12]
    return Bench(verbbase.load_base(), tasks.tasks(), lora, adapt, rank, folder, device)


def study(here: Path, impl: str, smoke: bool, seed: int = 0, device: str = "cpu") -> int:
    """Run what is not there yet, write the tables, draw the figures.

    Raises:
        ModuleNotFoundError: no matplotlib; nothing was run.
    """
    needed()
    torch.set_num_threads(1)  # the matrices are small: a second thread only waits
    grid = SMALL if smoke else Grid()
    grid = replace(grid, seeds=tuple(seed + s for s in grid.seeds))
    out = here / "results" / "smoke" if smoke else here / "figures"
    bench = bench_of(impl, here / "results", device)
    if smoke:
        short = {name: task.shortened() for name, task in bench.tasks.items()}
        bench = replace(bench, tasks=short, folder=out / "cells")
    seen: set[Cell] = set()
    with bar(Console()) as show:

        def done(cell: Cell) -> None:
            if cell not in seen:
                seen.add(cell)
                show(len(seen), expected, 0)

        running, expected = Study(grid, bench, done), ablations.size(grid, bench)
        tables = {name: table(running) for name, table in TABLES.items()}
        tables["ranks"] |= ablations.timing(running) | {"base": verbbase.SHA256}
    for name, table in tables.items():
        write(out / f"{name}.json", table)
    return redraw_all(out, drawing.FIGURES)


def write(path: Path, table: ablations.Table) -> None:
    """A table as JSON, six digits a number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    short = json.loads(json.dumps(table), parse_float=lambda digits: float(f"{float(digits):.6g}"))
    text = json.dumps(short, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")
