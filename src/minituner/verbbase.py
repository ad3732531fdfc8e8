"""The base model of the verb labs: a MiniGPT that knows the regular past, and nothing else.

It was trained once, by experiments/28-irregular-verbs/base.py, on regular verbs and made-up ones;
its weights stand beside that recipe in float16, so every machine starts from the same numbers.
Leaves out: training, and the irregular verbs, none of which it ever saw.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from minituner.corpora import LETTERS, digest
from minituner.minigpt import MiniGPT, MiniGPTConfig
from minituner.verbs import Pair

PATH = Path(__file__).resolve().parents[2] / "experiments" / "28-irregular-verbs" / "base.pt"
SHA256 = "01165bff39dc8530f23e1e66a0da174cd4102885c2132b21e44b2429b721d100"
CONFIG = MiniGPTConfig(
    vocab_size=LETTERS.size, block_size=24, n_layer=2, n_head=4, d_model=64, d_ff=256
)


def new_model() -> MiniGPT:
    """A MiniGPT of the base's sizes with fresh weights, 102 976 parameters."""
    return MiniGPT(CONFIG)


def load_base(path: Path = PATH, sha256: str = SHA256) -> MiniGPT:
    """The base in float32 on the cpu, in train mode as a new model is.

    Raises:
        ValueError: the file at path has another checksum.
    """
    data = path.read_bytes()
    if digest(data) != sha256:
        raise ValueError(
            f"path: expected {path.name} with sha256 {sha256[:12]}…, got {digest(data)[:12]}…; "
            "take it from the repository again, or name the checksum of yours"
        )
    state: dict[str, Tensor] = torch.load(io.BytesIO(data), weights_only=True)
    model = new_model()
    model.load_state_dict(state)
    return model


def save_base(model: MiniGPT, path: Path) -> str:
    """Write the weights in float16; returns the file's sha256."""
    held = io.BytesIO()
    torch.save({name: value.half() for name, value in model.state_dict().items()}, held)
    path.write_bytes(held.getvalue())
    return digest(held.getvalue())


@torch.no_grad()
def conjugate(model: MiniGPT, bases: Iterable[str]) -> dict[str, str]:
    """What the model makes of each base form, letter by letter, the likeliest letter each time.

    Verbs of one length go together, so no row needs padding.
    """
    by_length: dict[int, list[str]] = {}
    for base in bases:
        by_length.setdefault(len(base), []).append(base)
    device = next(model.parameters()).device
    found: dict[str, str] = {}
    was = model.training
    model.eval()
    for length, group in by_length.items():
        prompts = torch.tensor([LETTERS.encode(base + ">") for base in group], device=device)
        room = model.config.block_size - length - 1
        rows = model.generate(prompts, min(room, length + 4), temperature=0)
        found |= {
            base: LETTERS.upto_end(row[length + 1 :])
            for base, row in zip(group, rows.tolist(), strict=True)
        }
    model.train(was)
    return found


def share_right(model: MiniGPT, pairs: Iterable[Pair]) -> float:
    """The share of pairs whose past the model gives letter by letter."""
    listed = list(pairs)
    said = conjugate(model, (base for base, _ in listed))
    return sum(said[base] == past for base, past in listed) / len(listed)
