"""Measures your lora.py: difference at init, gradient flow, merge difference, trainable count.

    python experiments/28-lora-by-hand/run.py            print the values
    python experiments/28-lora-by-hand/run.py --write    also put them into notes.md

Source: the stop conditions of lab/00-lora-by-hand.md. Leaves out: the verdict; the grader measures
again and compares.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from minituner.grading.registry import lab
from minituner.standin import stand_in
from minituner.words import say

if TYPE_CHECKING:  # which file this is at run time is the caller's choice
    from minituner.lora import LoRALinear

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SIZE, RANK, ALPHA, SEED = 64, 8, 16.0, 28


def load(path: Path) -> type[LoRALinear]:
    """LoRALinear from the file at path, whoever's it is."""
    stand_in({"minituner.lora": path})
    layer: type[LoRALinear] = import_module("minituner.lora").LoRALinear
    return layer


def measure(layer_class: type[LoRALinear]) -> dict[str, float]:
    """The values of notes.md, float32 on the cpu, from one fixed seed.

    The layer is Linear(64, 64) with r = 8 and alpha = 16; the input has 32 rows.
    """
    torch.manual_seed(SEED)
    base = nn.Linear(SIZE, SIZE)
    x = torch.randn(32, SIZE)
    exact = nn.Linear(SIZE, SIZE)
    eighths = torch.randint(-8, 9, (32, SIZE)) / 8
    with torch.no_grad():  # multiples of 1/8 sum without rounding, in any order
        for param in exact.parameters():
            param.copy_(torch.randint(-8, 9, param.shape) / 8)

    fresh = layer_class(exact, r=RANK, alpha=ALPHA)
    at_init = (fresh(eighths) - exact(eighths)).abs().max().item()

    layer = layer_class(base, r=RANK, alpha=ALPHA)
    torch.autograd.backward(layer(x).square().mean())
    grad_a, grad_b = layer.lora_A.grad, layer.lora_B.grad
    trainable = sum(p.numel() for p in layer.parameters() if p.requires_grad)

    with torch.no_grad():
        layer.lora_B.copy_(torch.randn(SIZE, RANK) * 0.02)  # about what training leaves there
    before = layer(x).detach()
    layer.merge_()
    return {
        "initial_output_diff": at_init,
        "grad_A_at_init": float("nan") if grad_a is None else grad_a.abs().max().item(),
        "grad_B_at_init": float("nan") if grad_b is None else grad_b.abs().max().item(),
        "merge_diff": (layer(x) - before).abs().max().item(),
        "trainable_params": trainable,
    }


def write(notes: Path, values: dict[str, str]) -> None:
    """Put each value into the last cell of its row in notes.md; everything else stays."""
    text = notes.read_text(encoding="utf-8")
    for key, value in values.items():
        text = re.sub(rf"^(\| `{key}` \|[^|\n]*\|)[^|\n]*\|", rf"\1 {value} |", text, flags=re.M)
    notes.write_text(text, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--impl", default="student", help="student, reference, or a lora.py")
    parser.add_argument("--json", action="store_true", help="one line of JSON, for the grader")
    parser.add_argument("--write", action="store_true", help="put the values into notes.md")
    options = parser.parse_args()
    places = {
        "student": (ROOT / "src/minituner/lora.py", HERE / "notes.md"),
        "reference": (ROOT / "solutions/lora.py", ROOT / "solutions/00-notes.md"),
    }
    path = Path(options.impl)
    star, notes = places.get(options.impl, (path, path.with_name("00-notes.md")))
    if not star.is_file():
        print(say("--impl: expected student, reference or a lora.py, got {got}", got=options.impl))
        return 2
    try:
        measured = measure(load(star))
    except NotImplementedError as raised:
        print(say("nothing to measure yet: {todo}", todo=lab("00").todo(str(raised))))
        return 1
    except SyntaxError as error:
        print(f"{star}:{error.lineno}: {error.msg}")
        return 1
    digest = hashlib.sha256(star.read_bytes()).hexdigest()
    values = {key: f"{value:.6g}" for key, value in measured.items()} | {"lora_sha256": digest}
    values["initial_output_diff"] = repr(measured["initial_output_diff"])
    values["grad_A_at_init"] = repr(measured["grad_A_at_init"])
    if options.json:
        print(json.dumps(values))
        return 0
    for key, value in values.items():
        print(f"{key:>20}  {value}")
    if options.write:
        write(notes, values)
        print(say("written into {path}", path=notes))
    else:
        print(say("copy these into {path}, or run again with --write", path=notes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
