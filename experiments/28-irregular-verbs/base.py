"""Trains the base of the verb labs and writes base.pt: how the file that is shipped was made.

    python experiments/28-irregular-verbs/base.py --out again.pt    four minutes on one free core

Every batch mixes the verbs of split().taught with verbs made up on the spot; irregular ones never
come. Fixed steps, the last weights are kept: nothing was chosen by looking at the control. Leaves
out: your code. On another machine the rounding differs, and with it the checksum.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from minituner import verbs
from minituner.corpora import LETTERS, Ids, verb_ids
from minituner.verbbase import load_base, new_model, save_base, share_right

SEED, STEPS, BATCH, TAUGHT_SHARE = 28, 4000, 128, 0.15
PEAK, WARMUP, WEIGHT_DECAY, CLIP = 3e-3, 200, 0.05, 1.0


def rows(pairs: list[Ids]) -> tuple[Tensor, Tensor]:
    """Inputs and next-token targets; the prompt and the padding do not count (-100)."""
    width = max(len(prompt) + len(answer) for prompt, answer in pairs) - 1
    inputs = torch.full((len(pairs), width), LETTERS.pad_id)
    targets = torch.full((len(pairs), width), -100)
    for row, (prompt, answer) in enumerate(pairs):
        whole = torch.tensor(prompt + answer)
        inputs[row, : len(whole) - 1] = whole[:-1]
        targets[row, len(prompt) - 1 : len(whole) - 1] = whole[len(prompt) :]
    return inputs, targets


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="where to write the weights")
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    torch.manual_seed(SEED)
    rng = random.Random(SEED)
    parts, irregular = verbs.split(), verbs.irregular()
    taught = verb_ids(parts.taught)
    model = new_model()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=WEIGHT_DECAY, betas=(0.9, 0.98))
    began, few = time.monotonic(), round(BATCH * TAUGHT_SHARE)
    for step in range(options.steps):
        decay = 0.5 + 0.5 * math.cos(math.pi * step / options.steps)
        for group in optimizer.param_groups:
            group["lr"] = PEAK * min(1.0, (step + 1) / WARMUP) * decay
        invented = verb_ids(verbs.made_up(BATCH - few, rng))
        inputs, targets = rows(rng.choices(taught, k=few) + invented)
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        if (step + 1) % 500 == 0 or step + 1 == options.steps:
            score = share_right(model, parts.watched)
            print(
                f"{step + 1:5} {time.monotonic() - began:6.0f} s  loss {loss.item():.4f}  "
                f"watched {score:.1%}",
                flush=True,
            )
    sha256 = save_base(model, options.out)
    kept = load_base(options.out, sha256)  # as it will be used: rounded to float16
    for name, pairs in vars(parts).items():
        print(f"{name:>10} {share_right(kept, pairs):.1%} of {len(pairs)}")
    print(f" irregular {share_right(kept, irregular):.1%} of {len(irregular)}")
    print(f"{options.out}: {options.out.stat().st_size} bytes, sha256 {sha256}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
