"""One fine-tuning from beginning to end: before, the adapters, the training, after, the folder.

Everything lands in one folder: before.json, checkpoint.pt, adapter/ in PEFT's format, report.json.
Leaves out: the comparison of several (comparing.py), and the pictures.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any  # what JSON holds

import judging
import torch
from loading import Loaded, wrap
from texts import PROMPTS, Texts
from torch import nn
from tuning import Course, Logits, Plan, Show, blocks_of, tune
from whose import Files

from minituner.adapters import adapters_of, place

Report = dict[str, Any]
DIGITS = 4


@dataclass
class Scene:
    """What all runs of one call share."""

    files: Files
    loaded: Loaded  # not wrapped: each run wraps a model of its own
    texts: Texts
    device: str
    show: Show

    @property
    def stamp(self) -> str:
        """Of all that decides a run's numbers, but for its plan."""
        parts = [self.files.stamp, self.loaded.name, self.texts.sha256, self.device]
        own = Path(__file__).parent
        sources = [(own / name).read_bytes() for name in ("tuning.py", "texts.py", "judging.py")]
        said = " ".join([*parts, torch.__version__]).encode()
        return hashlib.sha256(said + b"".join(sources)).hexdigest()[:12]


def held(path: Path, stamp: str, make: Callable[[], Report]) -> Report:
    """The JSON in path if it has the stamp, else what make gives, written there."""
    if path.is_file():
        found: Report = json.loads(path.read_text(encoding="utf-8"))
        if found.get("stamp") == stamp:
            return found
    made = make() | {"stamp": stamp}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)
    return made


def bare(report: Report) -> Report:
    """What held gives, without the stamp."""
    return {key: value for key, value in report.items() if key != "stamp"}


def losses(scene: Scene, model: nn.Module, plan: Plan) -> dict[str, float]:
    """Mean losses on the held-out text and on the control, in nats a token."""
    found: dict[str, float] = {}
    for name in ("held_out", "control"):
        batches = judging.scored(
            scene.files.adapt,
            scene.loaded,
            getattr(scene.texts, name),
            plan,
            scene.device,
            plan.scored,
        )
        loss = scene.files.adapt.evaluate(Logits(model, plan.half), batches)
        found |= {name: round(loss, DIGITS), f"{name}_tokens": judging.counted(batches)}
    return found


def samples(scene: Scene, model: nn.Module, plan: Plan) -> list[str]:
    """Each prompt, continued from the plan's seed."""
    logits = Logits(model, plan.half)
    return [
        judging.sampled(scene.files.adapt, scene.loaded, logits, prompt, plan.seed, plan.sampled)
        for prompt in PROMPTS
    ]


def before(scene: Scene, plan: Plan) -> Report:
    """The model as it came."""
    model = scene.loaded.model.to(scene.device)
    return losses(scene, model, plan) | {"samples": samples(scene, model, plan)}


def trained(
    scene: Scene, model: nn.Module, plan: Plan, checkpoint: Path, until: int | None = None
) -> Course:
    """Wrap the model and tune its adapters."""
    torch.manual_seed(plan.seed)  # A is drawn from it
    wrap(
        scene.loaded, model, scene.files.lora, scene.files.bridge, plan.targets, plan.rank,
        plan.scale * plan.rank, plan.dropout,
    )  # fmt: skip
    adapt, loaded = scene.files.adapt, scene.loaded
    blocks = blocks_of(loaded.encode(scene.texts.trained), plan.tokens)
    watched = judging.scored(
        adapt,
        loaded,
        scene.texts.held_out,
        plan,
        scene.device,
        min(judging.WATCHED, plan.scored),
    )
    return tune(
        adapt, Logits(model.to(scene.device), plan.half), plan, blocks, watched, loaded.pad_id,
        checkpoint, scene.stamp, scene.show, until,
    )  # fmt: skip


def tell(scene: Scene, plan: Plan, folder: Path) -> Report:
    """The whole story; what is there already is not done again.

    The adapters lie in folder/adapter afterwards, and the model is as it was.
    """
    stamp = f"{scene.stamp} {plan}"

    def whole() -> Report:
        shape = (plan.tokens, plan.blocks, plan.half, plan.seed, plan.scored, plan.sampled)
        seen = f"{scene.stamp} {shape}"
        first = held(folder / "before.json", seen, lambda: before(scene, plan))
        return run(scene, plan, folder, first)

    return held(folder / "report.json", stamp, whole)


def run(scene: Scene, plan: Plan, folder: Path, first: Report) -> Report:
    """Train, save, measure; what report.json holds."""
    model = scene.loaded.model
    params = list(model.parameters())
    course = trained(scene, model, plan, folder / "checkpoint.pt")
    kept = folder / "adapter"
    scene.files.bridge.save_adapter(model, kept, base_name=scene.loaded.name)
    after = losses(scene, model, plan) | {"samples": samples(scene, model, plan)}
    trainable = sum(param.numel() for param in model.parameters() if param.requires_grad)
    strip(model)
    return {
        "model": scene.loaded.name,
        "text": scene.texts.name,
        "sha256": scene.texts.sha256,
        "plan": asdict(plan),
        "parameters": sum(param.numel() for param in params),
        "trainable": trainable,
        "model_bytes": sum(param.numel() * param.element_size() for param in params),
        "adapter_bytes": sum(file.stat().st_size for file in kept.iterdir()),
        "seconds": round(course.seconds, 1),
        "tokens_a_second": round(plan.steps * plan.blocks * plan.tokens / course.seconds, 1),
        "peak_bytes": judging.peak_bytes(scene.device),
        "device": scene.device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "losses": [round(loss, DIGITS) for loss in course.losses],
        "curve": [[step, round(loss, DIGITS)] for step, loss in course.held_out],
        "prompts": PROMPTS,
        "before": bare(first),
        "after": after,
    }


def strip(model: nn.Module) -> None:
    """Take the adapters out without merging them: the base is as before."""
    for name, adapter in adapters_of(model).items():
        place(model, name, adapter.base)


def perplexity(loss: float) -> float:
    return math.exp(loss)
