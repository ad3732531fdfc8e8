"""Teaches a small model names from A to M, adapts it to N to Z, and shows what that cost.

    python experiments/28-names/run.py                      the names that come with the project
    python experiments/28-names/run.py --download           makemore's 32 033 names
    python experiments/28-names/run.py --names FILE         any file, one name a line
    python experiments/28-names/run.py --full --download    three seeds, figures/names.*
    python experiments/28-names/run.py --figures            draw them anew from their JSON

Uses your adapt.py and lora.py (--impl reference for the project's). Source: lab/02's page. Leaves
out: notes and a verdict; nothing here is graded.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import fmean, stdev
from types import ModuleType

import drawing
from halves import WAYS, Outcome, Way, adapted, sampled, taught
from rich.console import Console
from rich.table import Table

from minituner.bar import bar
from minituner.borrowed import is_borrowed
from minituner.corpora import NAMES, CorpusError, digest, names
from minituner.curve import spark
from minituner.grading.registry import lab
from minituner.measuring import load
from minituner.minigpt import MiniGPT
from minituner.plots import figure, needed, redraw_all
from minituner.words import say

HERE = Path(__file__).resolve().parent
FIGURES = HERE / "figures"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--impl", default="student", help="student, reference, a file or a folder")
    parser.add_argument("--names", type=Path, help="a file with one name a line")
    parser.add_argument("--download", action="store_true", help="makemore's list, once")
    parser.add_argument("--seed", type=int, default=1, help="of the weights and the batches")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps")
    parser.add_argument("--smoke", action="store_true", help="a few steps: does it run at all?")
    parser.add_argument("--full", action="store_true", help="three seeds, into figures/")
    parser.add_argument("--figures", action="store_true", help="draw figures/ from their JSON")
    return parser.parse_args()


def listed(console: Console, chosen: argparse.Namespace) -> list[str]:
    """The names that were asked for; one line where they cannot be had."""
    try:
        file = NAMES.get() if chosen.download else chosen.names
        return names(file)
    except (CorpusError, OSError, ValueError) as error:
        console.print(str(error), style="red", highlight=False, soft_wrap=True)
        sys.exit(2)


def samples(model: MiniGPT, seed: int) -> str:
    return " ".join(sampled(model, 12, seed))


def story(console: Console, adapt: ModuleType, chosen: argparse.Namespace) -> None:
    """Teach, adapt in each way, and print the losses and what the models make up."""
    if is_borrowed():
        console.print(say("lora.py is not written yet: the reference's is used"))
    everybody = listed(console, chosen)
    console.print(say("{count} names; first those from A to M", count=len(everybody)))
    with bar(console) as show:
        world = taught(adapt, everybody, chosen.seed, show, chosen.smoke, chosen.device)
    lines = [(say("taught A to M"), world.before, world.base)]
    for way in WAYS:
        console.print(say("now N to Z: {way}", way=called(way)))
        with bar(console) as show:
            model, after = adapted(
                adapt, world, way, chosen.seed, show, chosen.smoke, chosen.device
            )
        console.print(say("loss {curve} {last}", curve=spark(after.losses), last=ended(after)))
        lines.append((called(way), after, model))
    table = Table(say("loss a letter, held out"), "A–M", "N–Z", say("trainable"))
    for label, got, _ in lines:
        count = f"{got.trainable:,}".replace(",", " ")
        table.add_row(label, f"{got.early:.3f}", f"{got.late:.3f}", count)
    console.print(table)
    for label, _, model in lines:
        console.print(f"{label}: {samples(model, chosen.seed)}", highlight=False)


def called(way: Way) -> str:
    """A way's name in the reader's language."""
    if not way.rank:
        return say("full fine-tuning")
    return say("LoRA, r = 8, with rehearsal") if way.share else say("LoRA, r = 8")


def ended(got: Outcome) -> str:
    return f"{got.losses[-1]:.3f}"


def full(console: Console, adapt: ModuleType, chosen: argparse.Namespace, seeds: range) -> None:
    """The same for several seeds: figures/names.json, .svg and .png.

    Raises:
        ModuleNotFoundError: no matplotlib; nothing was run.
    """
    needed()
    everybody = listed(console, chosen)
    got: dict[str, list[Outcome]] = {}
    made: dict[str, str] = {}
    for seed in seeds:
        console.print(say("seed {seed}", seed=seed))
        with bar(console) as show:
            world = taught(adapt, everybody, seed, show, chosen.smoke, chosen.device)
        got.setdefault("taught A–M", []).append(world.before)
        made.setdefault("taught A–M", samples(world.base, seed))
        for way in WAYS:
            with bar(console) as show:
                model, after = adapted(adapt, world, way, seed, show, chosen.smoke, chosen.device)
            got.setdefault(way.name, []).append(after)
            made.setdefault(way.name, samples(model, seed))
    draw, size = drawing.FIGURES["names"]
    figure(FIGURES / "names", draw, tabled(everybody, got, made), size=size)
    console.print(say("written into {path}", path=FIGURES / "names"), soft_wrap=True)


def tabled(everybody: list[str], got: dict[str, list[Outcome]], made: dict[str, str]) -> object:
    """What the JSON holds: mean and spread over the seeds, and the first seed's samples."""

    def over(values: list[float]) -> dict[str, float]:
        spread = stdev(values) if len(values) > 1 else 0.0
        return {"mean": round(fmean(values), 4), "sd": round(spread, 4)}

    rows = [
        {
            "name": label,
            "early": over([one.early for one in outcomes]),
            "late": over([one.late for one in outcomes]),
            "trainable": outcomes[0].trainable,
            "samples": made[label],
        }
        for label, outcomes in got.items()
    ]
    text = "\n".join(everybody).encode()
    return {
        "names": len(everybody),
        "sha256": digest(text),
        "seeds": len(next(iter(got.values()))),
        "rows": rows,
    }


def main() -> int:
    chosen, console = options(), Console()
    if chosen.figures:
        return redraw_all(FIGURES, drawing.FIGURES)
    try:
        adapt = load(lab("02"), chosen.impl)
        if chosen.full:
            full(console, adapt, chosen, range(1, 2 if chosen.smoke else 4))
        else:
            story(console, adapt, chosen)
    except NotImplementedError as raised:
        console.print(
            say("nothing to measure yet: {todo}", todo=lab("02").todo(str(raised))), soft_wrap=True
        )
        return 1
    except ModuleNotFoundError as missing:  # matplotlib: its message says how to get it
        console.print(str(missing), soft_wrap=True, markup=False)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
