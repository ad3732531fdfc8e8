"""LoRA without torch: pretrain a scalar GPT on names A–M, adapt it to N–Z, compare both on both.

    python experiments/28-scalar-lora/run.py                the whole job, under two minutes
    python experiments/28-scalar-lora/run.py --smoke        the same in seconds: too short to learn
    python experiments/28-scalar-lora/run.py --names FILE   one name a line, in place of ours

Needs Python alone: no package, no environment. Numbers and samples go to results/run.json, too.
Leaves out: full fine-tuning, several seeds; experiments/28-names has them, in torch.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from engine import frozen, topological, total
from lora import add_adapters
from model import GPT, Config, softmax
from names import END, LETTERS, Half, decoded, halves
from train import evaluate, train

HERE = Path(__file__).resolve().parent
R, ALPHA, TARGETS = 2, 4.0, ("q_proj", "v_proj")
BATCH, BASE_RATE, LORA_RATE = 2, 0.01, 0.02
TEMPERATURE, SAMPLES = 0.7, 12


@dataclass(frozen=True)
class Measured:
    """One model, on names it never saw."""

    loss_am: float  # nats a token
    loss_nz: float
    edges: int  # that backward walks for one name
    late: float  # the probability that a name begins with N to Z
    empty: float  # that it has no letter at all
    samples: list[str]


@dataclass(frozen=True)
class Found:
    """All that is reported."""

    counts: list[int]  # names: A–M to train and held out, then N–Z
    steps: list[int]  # of pretraining and of adapting
    base: Measured
    adapted: Measured
    start_gap: float  # largest |loss with fresh adapters - loss without|
    moved: int  # frozen weights whose value changed
    frozen: int
    trainable: int
    seconds: float  # of processor time


def progress(label: str, steps: int) -> Callable[[int, float], None]:
    """A line that moves on a terminal, four lines in a log; standard output stays clean."""
    started, moving, recent = time.monotonic(), sys.stderr.isatty(), 0.0

    def show(done: int, loss: float) -> None:
        nonlocal recent
        recent = loss if done == 1 else 0.95 * recent + 0.05 * loss
        if moving or done == steps or done % max(steps // 4, 1) == 0:
            left = (time.monotonic() - started) * (steps - done) / done
            bar = "#" * (20 * done // steps)
            line = f"{label:9}[{bar:<20}] {done}/{steps}, loss {recent:.2f}, {left:.0f} s left "
            print(line, end="\r" if moving and done < steps else "\n", file=sys.stderr, flush=True)

    return show


def measured(model: GPT, am: Half, nz: Half, rng: random.Random) -> Measured:
    graph = topological(total(model.losses(max(nz.train, key=len))))
    with frozen(model.trainable()):
        first = [chance.data for chance in softmax(model.forward([END])[0])]
    return Measured(
        loss_am=evaluate(model, am.held_out),
        loss_nz=evaluate(model, nz.held_out),
        edges=sum(len(value.parents) for value in graph),
        late=sum(first[LETTERS.index("n") : END]),
        empty=first[END],
        samples=[decoded(model.sample(END, TEMPERATURE, rng)) for _ in range(SAMPLES)],
    )


def job(am: Half, nz: Half, steps: int, rng: random.Random) -> Found:
    """Pretrain, adapt, cross-evaluate, sample."""
    began = time.process_time()
    model = GPT(Config(), rng)
    shown = progress("pretrain", steps)
    train(model, am.train, steps=steps, batch=BATCH, rate=BASE_RATE, rng=rng, report=shown)
    base = measured(model, am, nz, rng)
    before = [value.data for value in model.base()]

    add_adapters(model, R, ALPHA, TARGETS, rng)
    fresh = evaluate(model, am.held_out), evaluate(model, nz.held_out)
    fewer = max(steps // 2, 1)
    shown = progress("adapt", fewer)
    train(model, nz.train, steps=fewer, batch=BATCH, rate=LORA_RATE, rng=rng, report=shown)
    return Found(
        counts=[len(am.train), len(am.held_out), len(nz.train), len(nz.held_out)],
        steps=[steps, fewer],
        base=base,
        adapted=measured(model, am, nz, rng),
        start_gap=max(abs(fresh[0] - base.loss_am), abs(fresh[1] - base.loss_nz)),
        moved=sum(a != b.data for a, b in zip(before, model.base(), strict=True)),
        frozen=len(model.base()),
        trainable=len(model.factors()),
        seconds=time.process_time() - began,
    )


def grouped(count: int) -> str:
    return f"{count:,}".replace(",", " ") if count > 9999 else str(count)


def listed(samples: Sequence[str]) -> str:
    return " ".join(sample or "(empty)" for sample in samples)


def row(one: Measured) -> str:
    chances = f"{100 * one.late:10.1f} % {100 * one.empty:10.1f} %"
    return f"{one.loss_am:8.3f}   {one.loss_nz:8.3f} {chances}"


def told(found: Found) -> str:
    """The report, for people."""
    am, am_held, nz, nz_held = found.counts
    every = found.frozen + found.trainable
    base, lora = found.base, found.adapted
    return f"""\
pretrained                 {found.steps[0]} steps on {am} names A-M
adapted                    {found.steps[1]} steps on {nz} names N-Z

loss on held-out names     A-M ({am_held})   N-Z ({nz_held})   begins N-Z   empty name
  base                     {row(base)}
  with LoRA                {row(lora)}

trainable with LoRA        {found.trainable} of {every} = {100 * found.trainable / every:.2f} %  \
(r = {R}, alpha = {ALPHA:g}, on {", ".join(TARGETS)})
fresh adapters change loss {found.start_gap}
frozen weights that moved  {found.moved} of {found.frozen}
edges that backward walks  {grouped(base.edges)} for one name, {grouped(lora.edges)} \
with the base frozen

samples of the base        {listed(base.samples)}
samples with LoRA          {listed(lora.samples)}

{found.seconds:.0f} s of processor time"""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=600, help="of pretraining; adapting has half")
    parser.add_argument("--seed", type=int, default=28)
    parser.add_argument("--smoke", action="store_true", help="four steps: does it run at all?")
    parser.add_argument("--names", type=Path, help="one name a line; ours if not given")
    options = parser.parse_args()
    if options.steps < 1:
        parser.error(f"--steps: expected at least 1, got {options.steps}")
    rng = random.Random(options.seed)
    try:
        am, nz = halves(options.names, Config().block_size - 1, rng)
    except (OSError, ValueError) as error:
        parser.error(f"--names: {error}")
    if options.smoke:
        am, nz = (Half(half.train, half.held_out[:3]) for half in (am, nz))
    found = job(am, nz, 4 if options.smoke else options.steps, rng)
    print(told(found))
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    (results / "run.json").write_text(json.dumps(asdict(found), indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
