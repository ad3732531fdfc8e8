"""What a model says before and after: losses on two texts, and words from the same seeds.

Leaves out: training. A loss is a mean over tokens, in nats; its exp is the perplexity.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType

import torch
from loading import Loaded
from torch import Tensor
from tuning import Logits, Plan, batches_of, blocks_of

from minituner.recipe import Batch

WATCHED = 16  # blocks of the held-out text that are looked at while training


def scored(
    adapt: ModuleType, loaded: Loaded, text: str, plan: Plan, device: str, most: int
) -> list[Batch]:
    """Batches of a text, the whole of it or evenly spread blocks."""
    blocks = blocks_of(loaded.encode(text), plan.tokens)
    if len(blocks) > most:
        blocks = [blocks[at * len(blocks) // most] for at in range(most)]
    return batches_of(adapt, blocks, plan.blocks, loaded.pad_id, device)


def counted(batches: Sequence[Batch]) -> int:
    """How many targets count."""
    return sum(int((targets >= 0).sum()) for _, targets in batches)


def chosen(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """One id: from the likeliest ones that together have top_p, at this temperature."""
    odds, ids = torch.softmax(logits.double() / temperature, dim=-1).sort(descending=True)
    odds[odds.cumsum(-1) - odds >= top_p] = 0.0  # what stands before it has top_p already
    return int(ids[torch.multinomial(odds, 1, generator=generator)])


def sampled(
    adapt: ModuleType, loaded: Loaded, model: Logits, prompt: str, seed: int, length: int
) -> str:
    """The prompt and what the model adds, at temperature 0.8 and top-p 0.95.

    Everything is computed anew for each token: a cache is faster, and another way to be wrong.
    """
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    ids = loaded.encode(prompt)
    for _ in range(length):
        logits = adapt.predict(model, torch.tensor([ids], device=device))[0, -1]
        ids.append(chosen(logits.cpu(), 0.8, 0.95, generator))
        if ids[-1] == loaded.end_id:
            break
    return loaded.decode(ids)


def peak_bytes(device: str) -> int | None:
    """The most memory that this process has held: on a GPU its own, else resident; None unknown."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
