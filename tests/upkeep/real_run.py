"""Lab 04's experiment on a tiny random model: what its test modules run.

No network and no weights: a LLaMA of two blocks. Leaves out: the models that PEFT is compared on
(real_models.py), and fixtures (real_parts.py).
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any  # the experiment's modules

from real_models import ADAPT, BRIDGE, LORA

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "28-real-model"
PARTS = (
    *("loading", "texts", "tuning", "judging", "story"),
    *("comparing", "drawing", "shakespeare", "opened"),
)
TEXT = "".join(f"Speaker {n}:\nThe bell tolls {n} times, and no one counts.\n\n" for n in range(40))


def scene(parts: Any, texts: Any, loaded: Any = None) -> Any:
    """All that a run needs, with the references and a tiny model of its own."""
    files = SimpleNamespace(lora=LORA, adapt=ADAPT, bridge=BRIDGE, stamp="s")
    loaded = loaded or parts.loading.load("tiny")
    return parts.story.Scene(files, loaded, texts, "cpu", lambda *_: None)


def losses(course: Any) -> tuple[list[float], list[tuple[int, float]]]:
    return course.losses, [tuple(one) for one in course.held_out]


def tuned(parts: Any, texts: Any, plan: Any, place: Path, until: int | None = None) -> Any:
    """(course, adapters) of a fresh model, in one go or from what is in place."""
    here = scene(parts, texts)
    course = parts.story.trained(here, here.loaded.model, plan, place, until)
    return course, LORA.lora_state_dict(here.loaded.model)
