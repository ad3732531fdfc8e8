"""Measures your counts.py: parameters, bytes in four buckets, and the wrong ones among the claims.

    python experiments/28-lora-counts/run.py            print the values
    python experiments/28-lora-counts/run.py --write    also put them into notes.md
    python experiments/28-lora-counts/run.py --figures  also draw figures/, beside torch's own count

Source: lab/01-lora-counts.md. Leaves out: the verdict; the grader measures again and compares. The
pictures need the extra `plots`, the numbers nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import drawing
import tables

from minituner.measuring import parser, report
from minituner.minigpt import MiniGPT
from minituner.plots import figure
from minituner.published import CLAIMS
from minituner.words import say

FIGURES = Path(__file__).resolve().parent / "figures"


def measure(counts: ModuleType) -> dict[str, float | str]:
    """The values of notes.md: whole numbers, from counts.py alone, with Adam.

    MiniGPT: the default sizes, float32, r = 8; activations of 16 rows of 64 tokens. LLaMA-7B: r =
    16 on every linear of its layers, no activations; LoRA on a base in 16 bits.
    """
    mini, mega = MiniGPT(tables.MINI), tables.LLAMA
    count, adapted = counts.count_params(mini).total, counts.wrapped_count(mini, 8)
    trainable = tables.adapters(counts, mega, 16)
    rows = tables.BATCH, tables.SEQ
    return {
        "minigpt_trainable": adapted.trainable,
        "minigpt_full_bytes": counts.full_finetune_memory(count).total,
        "minigpt_lora_bytes": counts.lora_memory(adapted.frozen, adapted.trainable).total,
        "minigpt_activations_full": counts.minigpt_activations(tables.MINI, *rows),
        "minigpt_activations_lora": counts.minigpt_activations(tables.MINI, *rows, r=8),
        "llama_mixed_bytes": counts.full_finetune_memory(mega.params, mixed=True).total,
        "llama_lora_bytes": counts.lora_memory(mega.params, trainable, weight_bytes=2).total,
        "llama_qlora_bytes": counts.qlora_memory(
            mega.entries, mega.params - mega.entries, trainable
        ).total,
        "claims_wrong": sum(not verdict.holds for verdict in counts.audit(CLAIMS)),
    }


def measure_and_draw(counts: ModuleType) -> dict[str, float | str]:
    """The same values, after figures/*.json, *.svg and *.png; two minutes at most on two cores."""
    for name, (draw, size) in drawing.FIGURES.items():
        figure(FIGURES / name, draw, getattr(tables, name)(counts), size=size)
        print(say("written into {path}", path=FIGURES / name))
    return measure(counts)


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--figures", action="store_true", help="draw the lab's figures")
    chosen = options.parse_args()
    try:
        return report("01", chosen, measure_and_draw if chosen.figures else measure)
    except ModuleNotFoundError as missing:  # matplotlib: its message says how to get it
        print(missing)
        return 2


if __name__ == "__main__":
    sys.exit(main())
