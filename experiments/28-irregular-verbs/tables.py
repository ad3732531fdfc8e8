"""The tables of the lab: learned against forgotten, over ranks, shares of rehearsal and seeds.

What it writes, figures/*.json, is what theory/05-forgetting.md quotes. Source of the question:
Biderman et al. 2024, arXiv:2405.09673. Leaves out: pictures (drawing.py), one run (story.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any  # what JSON holds

import drawing
import story
from rich.console import Console
from story import CAREFUL, MAY_FORGET, NAIVE, Outcome, for_rank, score, sets, shorter, tell

from minituner import verbs
from minituner.bar import bar
from minituner.borrowed import lora
from minituner.corpora import digest
from minituner.plots import figure, needed
from minituner.recipe import Recipe
from minituner.verbbase import SHA256, load_base
from minituner.words import say

SEEDS: tuple[int, ...] = (1, 2, 3)
RANKS = (1, 4, 8, 16, 0)  # 0 is full fine-tuning
LESS = 0.5  # share of rehearsal, for a run beside the careful one
TOLD = ("steps", "size", "share", "peak", "warmup", "every")  # of a recipe, in the JSON
Show = Callable[[int, int, int], None]  # runs done, runs in all, errors (none)


@dataclass(frozen=True)
class Arm:
    """One row of a table: a rank and a recipe, to be run from every seed."""

    name: str
    rank: int
    recipe: Recipe
    few: bool = False  # rehearse the taught verbs alone

    def key(self, seed: int, code: str) -> str:
        """The same only for the same work."""
        told = json.dumps([self.rank, self.few, asdict(self.recipe), SHA256, code, seed])
        return f"{self.name}-r{self.rank}-s{seed}-{digest(told.encode())[:8]}"


def arms(start: float) -> list[Arm]:
    """Every row; `start` is the base's accuracy on the watched verbs."""
    careful = replace(CAREFUL, lowest=start - MAY_FORGET)
    naive = [Arm("naive", r, for_rank(r, NAIVE)) for r in RANKS]
    kept = [Arm("careful", r, for_rank(r, careful)) for r in RANKS]
    # Without the bound: what less rehearsal does, and what few verbs to rehearse do.
    less = Arm("less", 8, replace(CAREFUL, share=LESS))
    return [*naive, *kept, less, Arm("few", 8, CAREFUL, few=True)]


def material() -> dict[str, float]:
    """What story.py rehearses with, and how it scales adapters."""
    names = ("INVENTED", "LOOKALIKES", "OFTEN", "ALPHA_PER_RANK")
    return {name.lower(): getattr(story, name) for name in names}


def outcomes(
    adapt: ModuleType, rows: list[Arm], seeds: tuple[int, ...], kept_in: Path, show: Show
) -> dict[Arm, list[Outcome]]:
    """Run each arm from each seed, or read what an earlier, interrupted call has run."""
    kept_in.mkdir(parents=True, exist_ok=True)
    files = [Path(str(module.__file__)) for module in (adapt, lora(), verbs)]
    files.append(files[2].with_suffix(".toml"))
    code = "".join(digest(file.read_bytes()) for file in files) + str(material())
    found: dict[Arm, list[Outcome]] = {}
    done, total = 0, len(rows) * len(seeds)
    for seed in seeds:
        for arm in rows:
            show(done, total, 0)
            file = kept_in / f"{arm.key(seed, code)}.json"
            if file.is_file():
                got = Outcome(**json.loads(file.read_text(encoding="utf-8")))
            else:
                got = tell(adapt, arm.recipe, arm.rank, seed, few=arm.few)[1]
                file.write_text(json.dumps(asdict(got)), encoding="utf-8")
            found.setdefault(arm, []).append(got)
            done += 1
    show(done, total, 0)
    return found


def over(values: list[float], digits: int = 4) -> dict[str, float]:
    """Mean and standard deviation over the seeds, and the worst and best of them."""
    spread = stdev(values) if len(values) > 1 else 0.0
    numbers = {"mean": fmean(values), "sd": spread, "min": min(values), "max": max(values)}
    return {name: round(value, digits) for name, value in numbers.items()}


def row(arm: Arm, got: list[Outcome]) -> dict[str, Any]:
    return {
        "rank": arm.rank,
        "share": arm.recipe.share,
        "trainable": got[0].trainable,
        "learned": over([one.learned for one in got]),
        "watched": over([one.watched for one in got]),
        "control": over([one.control for one in got]),
        "steps": over([float(one.steps) for one in got], 0),
        "kept": sum(one.kept for one in got),  # seeds in which adapters met the bound
    }


def table(found: dict[Arm, list[Outcome]], base: dict[str, float], seeds: int) -> dict[str, Any]:
    """figures/forgetting.json: one row an arm, grouped by the arm's name."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for arm, got in found.items():
        rows.setdefault(arm.name, []).append(row(arm, got))
    kinds = {"naive": NAIVE, "careful": CAREFUL}
    how: dict[str, Any] = {"base": SHA256} | {
        name: {key: getattr(one, key) for key in TOLD} for name, one in kinds.items()
    }
    how |= {"full_peak": story.FULL_PEAK, "may_forget": MAY_FORGET, **material()}
    return {"base": base, "seeds": seeds, "recipe": how, **rows}


def frontier(found: dict[Arm, list[Outcome]], base: dict[str, float]) -> dict[str, Any]:
    """figures/frontier.json: the way of each run through learned and watched, first seed."""
    paths = []
    for arm, got in found.items():
        if arm.rank in (8, 0):
            steps, learned, watched = zip(*got[0].curve, strict=True)
            paths.append(
                {
                    "name": arm.name,
                    "rank": arm.rank,
                    "share": arm.recipe.share,
                    "steps": list(steps),
                    "learned": [round(value, 4) for value in learned],
                    "watched": [round(value, 4) for value in watched],
                }
            )
    return {"base": base, "paths": paths}


def measured(
    adapt: ModuleType, kept_in: Path, show: Show, smoke: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both tables; with `smoke` two arms and a few steps, for a test."""
    base, data = load_base(), sets()
    start = {
        "irregular": round(score(adapt, base, data.irregular), 4),
        "watched": round(score(adapt, base, data.watched), 4),
        "control": round(score(adapt, base, data.control), 4),
        "trainable": 0,
    }
    seeds, rows = SEEDS, arms(start["watched"])
    if smoke:
        rows = [replace(arm, recipe=shorter(arm.recipe)) for arm in rows if arm.rank == 8][:2]
        seeds = SEEDS[:1]
    found = outcomes(adapt, rows, seeds, kept_in, show)
    return table(found, start, len(seeds)), frontier(found, start)


def full(console: Console, adapt: ModuleType, here: Path, smoke: bool) -> None:
    """Every run, then forgetting.* and frontier.* in figures/; with `smoke` in results/.

    Raises:
        ModuleNotFoundError: no matplotlib; nothing was run.
    """
    needed()
    with bar(console) as show, TemporaryDirectory() as held:
        # What a smoke test ran is not kept for the next one.
        kept_in = Path(held) if smoke else here / "results" / "full"
        tabled, paths = measured(adapt, kept_in, show, smoke)
    folder = here / ("results" if smoke else "figures")
    for name, data in (("forgetting", tabled), ("frontier", paths)):
        draw, size = drawing.FIGURES[name]
        figure(folder / name, draw, data, size=size)
    console.print(say("written into {path}", path=folder), soft_wrap=True)
