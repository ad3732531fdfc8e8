"""What scalars cost: the same steps of the same model in this folder's engine and in torch.

    python experiments/28-scalar-lora/bench.py [ROUNDS]

Both start from the same weights; three steps have to give the same losses before any is timed.
They take turns, float64, torch on one thread; the table gives medians of processor time.
Needs torch. Leaves out: GPUs; a fast scalar engine (this one is written to be read).
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from lora import add_adapters
from model import GPT, Config, Matrix
from names import encoded
from torch import Tensor, nn
from train import Adam, train_step

from minituner.minigpt import MiniGPT, MiniGPTConfig

ROUNDS, SEED, RATE = 7, 28, 1e-3
R, ALPHA, TARGETS = 2, 4.0, ("q_proj", "v_proj")
PAIR = [encoded("natalia"), encoded("quentin")]  # one length, so that torch needs no padding
MANY = 64  # names in torch's large batch


class Adapted(nn.Module):
    """A linear with LoRA beside it, as short as it goes; lab 00's is the careful one."""

    def __init__(self, base: nn.Linear, a: Tensor, b: Tensor, scaling: float) -> None:
        super().__init__()
        self.base, self.scaling = base, scaling
        self.lora_A, self.lora_B = nn.Parameter(a), nn.Parameter(b)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, seq, in_features) -> (batch, seq, out_features)."""
        update = F.linear(F.linear(x, self.lora_A), self.lora_B)
        out: Tensor = self.base(x) + self.scaling * update
        return out


def tensor(rows: Matrix) -> Tensor:
    return torch.tensor([[value.data for value in row] for row in rows], dtype=torch.float64)


def in_torch(model: GPT) -> MiniGPT:
    """MiniGPT with model's weights, and its adapters if it has any."""
    c = model.config
    sizes = MiniGPTConfig(c.vocab_size, c.block_size, c.n_layer, c.n_head, c.d_model, c.d_ff)
    twin = MiniGPT(sizes).double()
    with torch.no_grad():
        for name, weight in twin.named_parameters():
            weight.copy_(tensor(model.weights[name]).view_as(weight))
    twin.requires_grad_(not model.adapters)
    for name, adapter in model.adapters.items():
        parent, _, child = name.rpartition(".")
        linear = twin.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        wrapped = Adapted(linear, tensor(adapter.A), tensor(adapter.B), adapter.scaling)
        setattr(twin.get_submodule(parent), child, wrapped)
    return twin


def torch_step(model: GPT, batch: Sequence[Sequence[int]]) -> Callable[[], float]:
    """One step of torch.optim.Adam on what model would train; returns the loss before it."""
    twin = in_torch(model)
    optimizer = torch.optim.Adam([p for p in twin.parameters() if p.requires_grad], lr=RATE)
    tokens = torch.tensor(batch)

    def step() -> float:
        optimizer.zero_grad()
        logits = twin(tokens[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        torch.autograd.backward(loss)
        optimizer.step()
        return loss.item()

    return step


def scalar_step(model: GPT) -> Callable[[], float]:
    optimizer = Adam(model.trainable())
    return lambda: train_step(model, optimizer, PAIR, RATE)


def seconds(step: Callable[[], float], times: int) -> float:
    started = time.process_time()  # not the clock: others may be busy on this machine
    for _ in range(times):
        step()
    return (time.process_time() - started) / times


def measure(kind: str, model: GPT, rounds: int) -> str:
    """One line of the table: tokens a second of each, and how often torch's is the scalar's."""
    many = [PAIR[i % len(PAIR)] for i in range(MANY)]
    small, large = torch_step(model, PAIR), torch_step(model, many)
    scalar = scalar_step(model)
    gap = max(abs(scalar() - small()) for _ in range(3))
    if gap > 1e-9:
        raise SystemExit(f"{kind}: expected the same loss from both, got a gap of {gap:.1e}")
    large()
    took: list[tuple[float, float, float]] = []
    for _ in range(rounds):
        took.append((seconds(scalar, 3), seconds(small, 50), seconds(large, 20)))
    tokens = sum(len(name) - 1 for name in PAIR)
    counts = (tokens, tokens, tokens * MANY // len(PAIR))
    medians = [statistics.median(column) for column in zip(*took, strict=True)]
    speeds = [count / median for count, median in zip(counts, medians, strict=True)]
    ratios = f"{speeds[1] / speeds[0]:8.0f} x {speeds[2] / speeds[0]:9.0f} x"
    return f"{kind:14}" + "".join(f"{speed:12.0f}" for speed in speeds) + ratios


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    torch.set_num_threads(1)
    print(f"tokens a second of processor time, medians of {rounds} rounds\n")
    print(f"{'':14}{'scalar':>12}{'torch':>12}{'torch':>12}{'ratio':>10}{'ratio':>12}")
    print(f"{'names a step':14}{len(PAIR):12}{len(PAIR):12}{MANY:12}{len(PAIR):10}{MANY:12}")
    rng = random.Random(SEED)
    model = GPT(Config(), rng)
    print(measure("all weights", model, rounds), flush=True)
    add_adapters(model, R, ALPHA, TARGETS, rng)
    for value in model.factors():  # B is no longer zero: the first loss depends on it
        value.data += rng.gauss(0.0, 0.1)
    print(measure("LoRA", model, rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
