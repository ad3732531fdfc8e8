"""Opens an adapter's folder in PEFT and in your own files, and compares what the two say.

    python experiments/28-real-model/opened.py                the newest adapter in results/
    python experiments/28-real-model/opened.py --folder PATH --model smollm2

Needs the extra `real`. Leaves out: training; shakespeare.py does that.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import sys
import warnings
from pathlib import Path
from typing import Any  # PEFT, a package that mypy need not have

import torch
from judging import sampled
from loading import Missing, load, wrap
from rich.console import Console
from texts import PROMPTS
from torch import nn
from tuning import Logits
from whose import files

from minituner.folders import read_folder
from minituner.settings import CONFIG, read_config
from minituner.words import say

RESULTS = Path(__file__).resolve().parent / "results"


def newest() -> Path:
    """The adapter in results/ that was written last.

    Raises:
        ValueError: there is none.
    """
    found = sorted(RESULTS.glob(f"*/adapter/{CONFIG}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise ValueError(say("{path}: no adapter; run shakespeare.py first", path=RESULTS))
    return found[-1].parent


def compared(folder: Path, name: str, impl: str) -> tuple[float, str]:
    """The largest difference between the two models' logits, and what PEFT's says."""
    found, loaded = files(impl), load(name)
    settings = read_config(read_folder(folder)[CONFIG])
    ours = copy.deepcopy(loaded.model)
    wrap(loaded, ours, found.lora, found.bridge, settings.targets, settings.r, settings.alpha)
    found.bridge.load_adapter(ours, folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # what PEFT still asks of transformers
        peft: Any = importlib.import_module("peft")
        theirs: nn.Module = peft.PeftModel.from_pretrained(loaded.model, str(folder)).eval()
    ids = torch.tensor([loaded.encode(PROMPTS[1])])
    gap = Logits(ours.eval())(ids) - Logits(theirs)(ids)
    said = sampled(found.adapt, loaded, Logits(theirs), PROMPTS[0], 1, 16)
    return gap.abs().max().item(), said


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--impl", default="student", help="student, reference, a file or a folder")
    parser.add_argument("--folder", type=Path, help="with an adapter; else the newest in results/")
    parser.add_argument("--model", help="its base; else what the config names")
    chosen, console = parser.parse_args(), Console()
    try:
        folder = chosen.folder or newest()
        name = chosen.model or base_of(folder)
        gap, said = compared(folder, name, chosen.impl)
    except (Missing, OSError, ValueError) as error:
        console.print(str(error), style="red", highlight=False, soft_wrap=True)
        return 2
    console.print(said, markup=False, highlight=False)
    console.print(
        say("{path} opens in PEFT; its logits differ from yours by {gap} at most",
            path=folder, gap=f"{gap:.1e}"),
        soft_wrap=True,
    )  # fmt: skip
    return 0


def base_of(folder: Path) -> str:
    """What the config calls the base.

    Raises:
        ValueError: it names none.
    """
    name = json.loads(read_folder(folder)[CONFIG])["base_model_name_or_path"]
    if not isinstance(name, str):
        raise ValueError(say("{path}: the config names no base; use --model", path=folder))
    return name


if __name__ == "__main__":
    sys.exit(main())
