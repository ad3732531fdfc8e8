"""Writes sample.pt: a fine-tuned weight before and after, and two adapters, for the notes.

    python experiments/28-rank/sample.py --out /tmp/sample.pt      half a minute

The weight is blocks.1.mlp.fc1 of lab 02's base, all linears fine-tuned on the exceptions; the two
adapters are those of blocks.1.attn.q_proj at r = 8, from seeds 0 and 1. They are the very cells
that --full runs. It is shipped, so that everybody measures the same. Leaves out: your code.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from ablations import Grid
from cells import Bench
from study import bench_of

from minituner.corpora import digest

WEIGHT, ADAPTER, HERE = "blocks.1.mlp.fc1", "blocks.1.attn.q_proj", Path(__file__).resolve().parent
WEIGHT_PEAK, ADAPTER_PEAK = 3e-3, 1e-2  # what --full chooses, too


def sample(bench: Bench) -> dict[str, torch.Tensor]:
    """The tensors by name, float32 but for the base's."""
    grid = Grid()
    tuned = bench.state(grid.cell("exceptions", train="weights", peak=WEIGHT_PEAK))
    found = {
        "before": bench.base.state_dict()[f"{WEIGHT}.weight"].half(),  # as base.pt has it
        "after": tuned[f"{WEIGHT}.weight"],
    }
    for seed in (0, 1):
        adapter = bench.state(grid.cell("exceptions", peak=ADAPTER_PEAK, seed=seed))
        found[f"A{seed}"] = adapter[f"{ADAPTER}.lora_A"]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="where to write the tensors")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.save(sample(bench_of("reference", HERE / "results")), options.out)
    print(f"{options.out}: sha256 {digest(options.out.read_bytes())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
