"""One cell of an ablation: one adaptation of the base, and what came of it, kept on disk.

A cell seeds everything by itself, so it gives the same numbers whichever ran before it; its file is
written whole or not at all, so a run that was killed loses one cell. The loop is adapt.py's, the
adapters lora.py's, the scale rank.py's. Leaves out: which cells there are.
"""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

import torch
from tasks import PAD, Task
from torch import Tensor, nn

from minituner.minigpt import MiniGPT
from minituner.recipe import Recipe, Run

SETS = {
    "q": ("q_proj",),
    "v": ("v_proj",),
    "qv": ("q_proj", "v_proj"),
    "qkvo": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("mlp.fc1", "mlp.fc2"),
    "all": ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2"),
}
SIZE, WARMUP = 32, 20  # pairs a batch; steps until the learning rate is at its peak


@dataclass(frozen=True)
class Cell:
    """What is trained, and how; `peak` is the highest learning rate, for A and B alike."""

    task: str
    seed: int
    peak: float
    r: int = 8
    alpha: float = 16.0
    rule: str = "alpha/r"
    targets: str = "all"
    zero: str = "B"  # which factor begins at zero
    train: str = "adapters"  # or "weights" of the targets, or "everything"
    steps: int = 300

    @property
    def key(self) -> str:
        """A file's name that no other cell has."""
        rule = "root" if "sqrt" in self.rule else "plain"
        how = f"r{self.r}-a{self.alpha:g}-{rule}-{self.zero}0" if self.train == "adapters" else "w"
        return (
            f"{self.task}-{self.train}-{self.targets}-{how}-p{self.peak:g}"
            f"-n{self.steps}-s{self.seed}"
        )


@dataclass(frozen=True)
class Result:
    """Loss in nats a letter, accuracies in [0, 1], seconds of the processor."""

    loss: float
    learned: float
    control: float
    parameters: int
    seconds: float


@dataclass(frozen=True)
class Bench:
    """What every cell is run with."""

    base: MiniGPT
    tasks: dict[str, Task]
    lora: ModuleType
    adapt: ModuleType
    rank: ModuleType
    folder: Path  # of the cells that are done
    device: str = "cpu"

    def result(self, cell: Cell) -> Result:
        """The cell's result: from its file, else run and kept there."""
        place = self.folder / f"{cell.key}.json"
        if not place.is_file():
            found, state = run(cell, self)
            self.folder.mkdir(parents=True, exist_ok=True)
            torch.save(state, self.folder / f"{cell.key}.pt")
            part = self.folder / f"{cell.key}.part"
            part.write_text(json.dumps({"cell": asdict(cell)} | asdict(found)), encoding="utf-8")
            os.replace(part, place)  # last, so that what is there is whole
        said = json.loads(place.read_text(encoding="utf-8"))
        return Result(**{key: said[key] for key in Result.__dataclass_fields__})

    def optimizer(self, model: nn.Module, peak: float) -> torch.optim.Optimizer:
        """AdamW without decay, so that an update is the gradients' alone."""
        return torch.optim.AdamW(self.adapt.adapter_parameters(model), lr=peak, weight_decay=0.0)

    def state(self, cell: Cell) -> dict[str, Tensor]:
        """What the cell trained, by name."""
        self.result(cell)
        path = self.folder / f"{cell.key}.pt"
        kept: dict[str, Tensor] = torch.load(path, weights_only=True)
        return kept


def scale(cell: Cell, bench: Bench) -> float:
    """What the cell's branch is multiplied by."""
    return float(bench.rank.scaling_factor(cell.alpha, cell.r, cell.rule))


def prepare(cell: Cell, bench: Bench) -> MiniGPT:
    """A copy of the base with what the cell trains set free, and all else frozen."""
    model, targets = copy.deepcopy(bench.base), SETS[cell.targets]
    if cell.train == "everything":
        return model
    if cell.train == "weights":
        model.requires_grad_(False)
        for _, linear in linears(model, targets):
            linear.weight.requires_grad_(True)
        return model
    # wrap divides by r, so this alpha gives the scale of either rule.
    alpha = cell.r * scale(cell, bench)
    bench.lora.wrap_minigpt_with_lora(model, cell.r, alpha, targets, dropout=0.0)
    if cell.zero == "A":
        with torch.no_grad():
            for name, param in model.named_parameters():
                if name.endswith("lora_A"):
                    param.zero_()
                elif name.endswith("lora_B"):
                    nn.init.kaiming_uniform_(param, a=math.sqrt(5))  # U(±1/√r), as A is U(±1/√in)
    return model


def linears(model: MiniGPT, targets: Iterable[str]) -> list[tuple[str, nn.Linear]]:
    """The linears that the targets match, with their dotted names."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and any(f".{name}".endswith(f".{t}") for t in targets)
    ]


def ferry(model: MiniGPT, device: str) -> MiniGPT:
    """The model on its device; tokens are carried there and logits back, so the loop need not."""
    model.to(device)
    model.register_forward_pre_hook(lambda module, inputs: tuple(x.to(device) for x in inputs))
    model.register_forward_hook(lambda module, inputs, logits: logits.cpu())
    return model


def run(cell: Cell, bench: Bench) -> tuple[Result, dict[str, Tensor]]:
    """Adapt once, with nothing but the cell to depend on; the state is what was trained."""
    adapt, task = bench.adapt, bench.tasks[cell.task]
    torch.manual_seed(cell.seed)
    model = ferry(prepare(cell, bench), bench.device)
    batches = torch.Generator().manual_seed(cell.seed)
    state = Run(model, bench.optimizer(model, cell.peak), batches)
    # One evaluation, at the end: no adapters are chosen, the last ones are what is measured.
    recipe = Recipe(
        steps=cell.steps, pad_id=PAD, size=SIZE, share=task.share, peak=cell.peak, warmup=WARMUP,
        every=cell.steps,
    )  # fmt: skip
    began = time.process_time()
    adapt.adapt(state, task.new, task.old, recipe, lambda present: (0.0, 0.0))
    seconds = time.process_time() - began
    kept = {name: value.cpu() for name, value in adapt.adapter_state(model).items()}
    parameters = sum(value.numel() for value in kept.values())
    return judged(model, task, adapt, parameters, seconds), kept


def judged(
    model: nn.Module, task: Task, adapt: ModuleType, parameters: int = 0, seconds: float = 0.0
) -> Result:
    """Loss and accuracies of a model as it is."""
    return Result(
        loss=adapt.evaluate(model, [adapt.padded(task.asked, PAD)]),
        learned=adapt.exact_match(model, task.asked, PAD),
        control=adapt.exact_match(model, task.control, PAD),
        parameters=parameters,
        seconds=seconds,
    )
