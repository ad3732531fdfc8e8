"""Many short fine-tunings side by side: the rank, and the layers at an equal budget.

Each is a cell with a file of its own, so a run that was stopped loses one cell at most. Source:
Hu et al. 2021, §7.1 and §7.2 ask the same of GPT-3. Leaves out: a learning rate tuned for each.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from loading import LLAMA_TARGETS, Loaded
from story import Report, Scene, bare, held, losses, strip, trained
from tuning import Plan

from minituner.adapters import bases_of, matches, sizes

SHORT = {"steps": 40, "blocks": 4, "tokens": 64, "warmup": 8, "every": 40, "kept": 20}
RANKS = (1, 4, 16)
BUDGET_RANK = 4  # on all linears; what that trains, the other places may train, too
PLACES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "llama": {
        "q, v": ("q_proj", "v_proj"),
        "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
        "MLP": ("gate_proj", "up_proj", "down_proj"),
        "all": LLAMA_TARGETS,
    },
    "gpt2": {  # q and v are one with k here: c_attn
        "c_attn": ("c_attn",),
        "attention": ("c_attn", "attn.c_proj"),
        "MLP": ("c_fc", "mlp.c_proj"),
        "all": ("c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"),
    },
}


@dataclass(frozen=True)
class Cells:
    """What is compared, and with how many seeds."""

    ranks: Sequence[int] = RANKS
    seeds: Sequence[int] = (1,)


def cost(loaded: Loaded, targets: Sequence[str]) -> int:
    """Parameters that a rank of 1 trains on these targets."""
    named = bases_of(loaded.model).items()
    return sum(sum(sizes(base)) for name, base in named if any(matches(name, t) for t in targets))


def plans(loaded: Loaded, plan: Plan, ranks: Sequence[int]) -> dict[str, list[tuple[str, Plan]]]:
    """Both comparisons: (label, plan) for each cell, in a short form of plan."""
    places = PLACES["gpt2" if loaded.conv1d else "llama"]
    short = replace(plan, **SHORT, targets=places["all"])  # type: ignore[arg-type]  # ints, all
    short = replace(short, steps=min(short.steps, plan.steps))  # a smoke's
    budget = BUDGET_RANK * cost(loaded, places["all"])
    return {
        "ranks": [(str(rank), replace(short, rank=rank)) for rank in ranks],
        "places": [
            (label, replace(short, rank=budget // cost(loaded, targets), targets=targets))
            for label, targets in places.items()
        ],
    }


def compare(scene: Scene, plan: Plan, folder: Path, cells: Cells) -> Report:
    """Both tables; a cell that is in folder is not run again."""
    asked = plans(scene.loaded, plan, cells.ranks)
    (_, short), *_ = asked["ranks"]
    base = held(
        folder / "base.json",
        f"{scene.stamp} {short.tokens} {short.scored}",
        lambda: losses(scene, scene.loaded.model.to(scene.device), short),
    )
    tables = {
        name: [
            {
                "label": label,
                "rank": one.rank,
                "parameters": one.rank * cost(scene.loaded, one.targets),
            }
            | over(scene, one, folder, cells.seeds)
            for label, one in rows
        ]
        for name, rows in asked.items()
    }
    how = {key: getattr(short, key) for key in (*SHORT, "peak", "scale", "half")}
    return {"model": scene.loaded.name, "sha256": scene.texts.sha256} | {
        "plan": how,
        "budget": BUDGET_RANK * cost(scene.loaded, asked["places"][-1][1].targets),
        "seeds": list(cells.seeds),
        "base": bare(base),
        **tables,
    }


def over(scene: Scene, plan: Plan, folder: Path, seeds: Sequence[int]) -> dict[str, list[float]]:
    """Held-out and control loss of a plan, one of each for a seed."""
    found = [cell(scene, replace(plan, seed=seed), folder) for seed in seeds]
    return {key: [one[key] for one in found] for key in ("held_out", "control", "seconds")}


def cell(scene: Scene, plan: Plan, folder: Path) -> Report:
    """One short fine-tuning, from its file or run now."""
    key = f"r{plan.rank}-{'+'.join(plan.targets)}-n{plan.steps}-s{plan.seed}"
    model = scene.loaded.model

    def train() -> Report:
        course = trained(scene, model, plan, folder / key / "checkpoint.pt")
        found = losses(scene, model, plan) | {"seconds": round(course.seconds, 1)}
        strip(model)
        shutil.rmtree(folder / key, ignore_errors=True)  # its checkpoint has done its work
        return found

    return held(folder / f"{key}.json", f"{scene.stamp} {plan}", train)
