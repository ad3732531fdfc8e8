"""Fine-tunes a real language model on Shakespeare, with the lora.py that you wrote by hand.

    python experiments/28-real-model/shakespeare.py               SmolLM2-135M, about 15 minutes
    python experiments/28-real-model/shakespeare.py --smoke       the same in under two minutes
    python experiments/28-real-model/shakespeare.py --model tiny --smoke    random weights, seconds
    python experiments/28-real-model/shakespeare.py --model gpt2  from the hub, by your bridge.py
    python experiments/28-real-model/shakespeare.py --full        with comparisons, into figures/
    python experiments/28-real-model/shakespeare.py --figures     draw figures/ from their JSON

Stopped and begun again, it goes on where it was. The adapters land in results/, in PEFT's format.
Needs the extra `real`. Source: lab/04's page. Leaves out: notes and a verdict; none is graded.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import drawing
import torch
from comparing import Cells, compare
from loading import PACKAGED, Missing, load
from meter import meter
from rich.console import Console
from story import Scene, bare, tell
from telling import shown
from texts import Texts, texts
from tuning import Plan
from whose import files

from minituner.corpora import CorpusError
from minituner.plots import figure, needed, redraw_all
from minituner.words import say

HERE = Path(__file__).resolve().parent


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--impl", default="student", help="student, reference, a file or a folder")
    parser.add_argument("--model", default=PACKAGED, help="smollm2, tiny, or a name on the hub")
    parser.add_argument("--text", type=Path, help="a text of yours; else Tiny Shakespeare")
    parser.add_argument("--steps", type=int, default=Plan.steps)
    parser.add_argument("--rank", type=int, default=Plan.rank)
    parser.add_argument("--targets", nargs="+", help="ends of names; by default all projections")
    parser.add_argument("--seed", type=int, default=Plan.seed)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--threads", type=int, help="of the cpu; a resumed run wants as many")
    parser.add_argument("--half", choices=("auto", "yes", "no"), default="auto", help="bfloat16")
    parser.add_argument("--smoke", action="store_true", help="a few steps: does it run at all?")
    parser.add_argument("--full", action="store_true", help="comparisons, too, into figures/")
    parser.add_argument("--figures", action="store_true", help="draw figures/ from their JSON")
    parser.add_argument("--out", type=Path, default=HERE, help="where results/ and figures/ are")
    return parser.parse_args()


def device_of(asked: str) -> str:
    """The device itself; auto is the best that is there."""
    if asked != "auto":
        return asked
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def halves(asked: str, device: str) -> bool:
    """Whether to compute in bfloat16: by default where the device has instructions for it."""
    if asked != "auto":
        return bool(asked == "yes")
    if device.startswith("cuda"):
        able: bool = torch.cuda.is_bf16_supported()
        return able
    found: Callable[[], Mapping[str, object]] = getattr(torch.cpu, "get_capabilities", dict)
    return device == "cpu" and any(found().get(name) for name in ("avx512_bf16", "amx_bf16"))


def plan_of(chosen: argparse.Namespace, targets: tuple[str, ...], device: str) -> Plan:
    plan = Plan(
        targets=targets,
        rank=chosen.rank,
        steps=chosen.steps,
        half=halves(chosen.half, device),
        seed=chosen.seed,
    )
    if not chosen.smoke:
        return plan
    return replace(plan, steps=8, blocks=2, tokens=32, warmup=2, every=4, scored=12, sampled=12)


def study(console: Console, chosen: argparse.Namespace, read: Texts) -> None:
    """Load, train, print; with --full also compare and draw.

    Raises:
        ModuleNotFoundError: --full without matplotlib; nothing was run.
    """
    if chosen.full:
        needed()
    device, found = device_of(chosen.device), files(chosen.impl)
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    for star in found.borrowed:
        console.print(say("{star} is not written yet: the reference's is used", star=f"{star}.py"))
    loaded = load(chosen.model)
    targets = tuple(chosen.targets or loaded.targets)
    plan = plan_of(chosen, targets, device)
    name = f"{loaded.name.replace('/', '+')}-r{plan.rank}-n{plan.steps}-s{plan.seed}"
    folder = chosen.out / "results" / name
    with meter(console) as show:
        scene = Scene(found, loaded, read, device, show)
        report = tell(scene, plan, folder)
    shown(console, report, folder)
    if chosen.full:
        cells = Cells(ranks=(1, 2)) if chosen.smoke else Cells()
        drawn = folder / "figures" if chosen.smoke else chosen.out / "figures"
        with meter(console) as show:
            scene.show = show
            tables = {"comparison": compare(scene, plan, folder / "cells", cells)}
        tables["shakespeare"] = bare(report)
        for name, (draw, size) in drawing.FIGURES.items():
            figure(drawn / name, draw, tables[name], size=size)
        console.print(say("written into {path}", path=drawn), soft_wrap=True)


def main() -> int:
    chosen, console = options(), Console()
    try:
        if chosen.figures:
            return redraw_all(chosen.out / "figures", drawing.FIGURES)
        study(console, chosen, texts(chosen.text))
    except (CorpusError, Missing, ModuleNotFoundError, OSError, ValueError) as error:
        console.print(str(error), style="red", highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        console.print(say("stopped; the same command goes on from here"))
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
