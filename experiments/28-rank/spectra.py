"""What training did to the weights: ranks of ΔW, what truncation keeps, and shared subspaces.

Source: Hu et al. 2021, arXiv:2106.09685 §7.2 and §7.3; Roy & Vetterli 2007. The ΔW of "weights" is
that of fine-tuning the same linears without a bound on rank. Leaves out: any training of its own.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from ablations import Study, Table, spread
from cells import SETS, Cell, judged, linears, scale
from torch import Tensor

DIRECTIONS = 8  # of each subspace, in the pictures
STRONGEST = 4  # directions of ΔW that W is looked at along


def updates(study: Study, cell: Cell) -> dict[str, Tensor]:
    """ΔW of every linear that the cell trained, by name, float64."""
    bench, found = study.bench, {}
    state = bench.state(cell)
    for name, linear in linears(bench.base, SETS[cell.targets]):
        if cell.train == "adapters":
            A, B = state[f"{name}.lora_A"].double(), state[f"{name}.lora_B"].double()
            found[name] = scale(cell, bench) * B @ A
        else:
            found[name] = bench.rank.weight_update(linear.weight, state[f"{name}.weight"])
    return found


def spectra(study: Study) -> Table:
    """Energy and entropy rank of ΔW by linear, beside noise of the same shape and W itself."""
    rank, table = study.bench.rank, {}
    for task in study.bench.tasks:
        best = study.best(study.grid.cell(task, train="weights"))
        by_seed = [updates(study, replace(best, seed=seed)) for seed in study.grid.seeds]
        rows = []
        for name, linear in linears(study.bench.base, SETS["all"]):
            noise = torch.randn(linear.weight.shape, generator=torch.Generator().manual_seed(0))
            kinds = {
                "update": [seed[name] for seed in by_seed],
                "noise": [noise.double()],
                "base": [linear.weight],
            }
            row: Table = {"name": name, "shape": list(linear.weight.shape)}
            for kind, matrices in kinds.items():
                found = [rank.singular_spectrum(matrix) for matrix in matrices]
                shares = [(s.square().cumsum(0) / s.square().sum()).tolist() for s in found]
                row[kind] = {
                    "energy_rank": spread([rank.energy_rank(s) for s in found]),
                    "entropy_rank": spread([rank.entropy_rank(s) for s in found]),
                    "energy": [statistics.fmean(at) for at in zip(*shares, strict=True)],
                }
            rows.append(row)
        used = []
        for r in study.grid.ranks:
            cell = study.best(study.grid.cell(task, r=r))
            ranks = [
                (rank.energy_rank(s), rank.entropy_rank(s))
                for seed in study.grid.seeds
                for s in map(
                    rank.singular_spectrum, updates(study, replace(cell, seed=seed)).values()
                )
            ]
            energy, entropy = map(statistics.fmean, zip(*ranks, strict=True))
            used.append({"r": r, "energy_rank": energy, "entropy_rank": entropy})
        table[task] = {"peak": best.peak, "linears": rows, "used": used}
    return table


def truncation(study: Study) -> Table:
    """Fine-tuned weights whose every ΔW is cut to rank r: the share of the gain that stays."""
    bench, table = study.bench, {}
    for name, task in bench.tasks.items():
        before = judged(bench.base, task, bench.adapt)
        best = study.best(study.grid.cell(name, train="weights"))
        after = study.results(best)
        rows = []
        for r in study.grid.ranks:
            cut = []
            for seed in study.grid.seeds:
                model = copy.deepcopy(bench.base)
                modules = dict(model.named_modules())
                with torch.no_grad():
                    for linear, delta in updates(study, replace(best, seed=seed)).items():
                        A, B = bench.rank.best_factors(delta, r)
                        weight: Tensor = modules[linear].weight
                        weight.copy_(weight.double() + B @ A)
                cut.append(judged(model, task, bench.adapt))
            kept = [
                (before.loss - short.loss) / (before.loss - whole.loss)
                for short, whole in zip(cut, after, strict=True)
            ]
            row = {key: spread([getattr(one, key) for one in cut]) for key in ("loss", "learned")}
            rows.append({"r": r, "gain": spread(kept)} | row)
        trained = [{"r": r} | study.best_row(study.grid.cell(name, r=r)) for r in study.grid.ranks]
        table[name] = {"before": before.loss, "after": study.row(best), "rows": rows} | {
            "trained": trained
        }
    return table


def pairs(seeds: Iterable[int]) -> list[tuple[int, int]]:
    """Every two neighbouring seeds, and the last with the first."""
    listed = list(seeds)
    return list(zip(listed, listed[1:] + listed[:1], strict=True))


def subspaces(study: Study) -> Table:
    """φ(i, j) of the inputs that two adapters read, by A (as the paper has it) and by B A.

    Never the same seed twice: the first rows of two A's would begin alike. Means over pairs of
    seeds and over the linears with as many inputs; two random subspaces give max(i, j) / in.
    """
    rank, bench = study.bench.rank, study.bench
    small, large = (
        study.best(study.grid.cell("exceptions", r=r))
        for r in (min(8, max(study.grid.ranks)), max(study.grid.ranks))
    )
    names = [name for name, linear in linears(bench.base, SETS["all"])]
    width = bench.base.config.d_model
    views: dict[str, Callable[[Cell, str], Tensor]] = {
        "A": lambda cell, name: bench.state(cell)[f"{name}.lora_A"],
        "BA": lambda cell, name: updates(study, cell)[name],
    }
    table: Table = {"in": width, "r": [small.r, large.r], "peaks": [small.peak, large.peak]}
    for view, matrix in views.items():
        for label, first, second in (("seeds", small, small), ("ranks", small, large)):
            grids: dict[str, list[Tensor]] = {}
            for one, two in pairs(study.grid.seeds):
                for name in names:
                    a, b = (
                        matrix(replace(first, seed=one), name),
                        matrix(replace(second, seed=two), name),
                    )
                    if a.shape[1] == width:
                        grid = rank.similarity_grid(a, b)[:DIRECTIONS, :DIRECTIONS]
                        grids.setdefault(name.rpartition(".")[2], []).append(grid)
            every = [grid for kind in grids.values() for grid in kind]
            table[f"{view}, {label}"] = {
                "grid": torch.stack(every).mean(0).tolist(),
                "first": {
                    kind: spread([g[0, 0].item() for g in g_s]) for kind, g_s in grids.items()
                },
            }
    return table


def amplification(study: Study) -> Table:
    """‖Uᵀ W V‖ along the strongest directions of ΔW, of W itself and of noise (paper §7.3)."""
    table: Table = {}
    for task in study.bench.tasks:
        best = study.best(study.grid.cell(task, r=min(8, max(study.grid.ranks))))
        rows, top = [], min(STRONGEST, best.r)
        for name, linear in linears(study.bench.base, SETS["all"]):
            W = linear.weight.detach().double()
            noise = torch.randn(W.shape, generator=torch.Generator().manual_seed(0)).double()
            found: dict[str, list[float]] = {"update": [], "own": [], "noise": [], "size": []}
            for seed in study.grid.seeds:
                delta = updates(study, replace(best, seed=seed))[name]
                for kind, matrix in (("update", delta), ("own", W), ("noise", noise)):
                    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
                    U, V = left[:, :top], right[:top]
                    found[kind].append((U.T @ W @ V.T).norm().item())
                found["size"].append(delta.norm().item())
            rows.append({"name": name} | {kind: spread(values) for kind, values in found.items()})
        table[task] = {"r": best.r, "directions": top, "rows": rows}
    return table


TABLES = {
    "spectra": spectra,
    "truncation": truncation,
    "subspaces": subspaces,
    "amplification": amplification,
}
