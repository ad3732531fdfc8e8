"""An adapter's two files: a config and its tensors, to bytes and back. Given for lab 04: read it.

Source: PEFT's LoraConfig and its folder. Leaves out: whether tensors and config belong together,
which bridge.py checks; LoRA's relatives: a config that asks for one is refused.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # stands before a module's dotted name in the keys of WEIGHTS

Files = Mapping[str, bytes]  # file name -> what is in it
Pairs = dict[str, tuple[Tensor, Tensor]]  # a module's dotted name -> its A and its B

WRITTEN: dict[str, object] = {
    "peft_type": "LORA",
    "bias": "none",
    "init_lora_weights": True,
    "inference_mode": True,
    "lora_bias": False,
    "lora_dropout": 0.0,
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "use_dora": False,
    "use_rslora": False,
}
# A setting of PLAIN has to have one of these values. Other ways to init begin with a changed base.
PLAIN: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva"),
}
# These may say anything: the function that the adapter is does not depend on them. A setting that
# is neither here nor in PLAIN has to be off (null, false or empty), or this is not plain LoRA.
HARMLESS = {"r", "lora_alpha", "target_modules", "fan_in_fan_out", "task_type", "auto_mapping"}
HARMLESS |= {"base_model_name_or_path", "revision", "peft_version", "inference_mode"}
HARMLESS |= {"exclude_modules", "layers_to_transform", "layers_pattern", "ensure_weight_tying"}
HARMLESS |= {"lora_dropout", "megatron_core", "qalora_group_size", "eva_config", "runtime_config"}


@dataclass(frozen=True)
class Settings:
    """What a config says of the function.

    Args:
        targets: as in PEFT, each is a module's dotted name or an end of it, cut at a dot.
        fan_in_fan_out: the bases are Conv1Ds.
    """

    r: int
    alpha: float
    targets: tuple[str, ...]
    fan_in_fan_out: bool = False


def to_files(
    settings: Settings,
    tensors: Mapping[str, Tensor],
    base_name: str | None = None,
    task_type: str | None = None,
) -> dict[str, bytes]:
    """CONFIG and WEIGHTS as PEFT and vLLM read them.

    Args:
        tensors: by key; no two may share memory.
        base_name: what the base is called where models are published.
        task_type: CAUSAL_LM, for example; PEFT then asks the base for a `generate`.

    Raises:
        ValueError: one tensor stands under two names.
    """
    config = {
        **WRITTEN,
        "r": settings.r,
        "lora_alpha": settings.alpha,
        "target_modules": list(settings.targets),
        "fan_in_fan_out": settings.fan_in_fan_out,
        "base_model_name_or_path": base_name,
        "task_type": task_type,
    }
    own = {key: value.contiguous() for key, value in tensors.items()}
    places = Counter(value.data_ptr() for value in own.values())
    twice = [key for key, value in own.items() if value.numel() and places[value.data_ptr()] > 1]
    if twice:
        raise ValueError(f"tensors: expected a copy for each name, got one for {sorted(twice)}")
    weights = save(own, {"format": "pt"})
    return {CONFIG: json.dumps(config, indent=2).encode(), WEIGHTS: weights}


def read_config(content: bytes) -> Settings:
    """What CONFIG says.

    Raises:
        ValueError: it is no JSON object, something is missing, or it is not plain LoRA.
    """
    config = json.loads(content)  # a JSONDecodeError is a ValueError
    if not isinstance(config, dict):
        raise ValueError(f"{CONFIG}: expected an object, got {config!r:.80}")
    for key, value in config.items():
        plain = value in PLAIN[key] if key in PLAIN else key in HARMLESS or not value
        if not plain:
            raise ValueError(f"{key}: expected plain LoRA, got {value!r:.80}")
    if "peft_type" not in config:
        raise ValueError("peft_type: expected LORA, got nothing")
    r, alpha, targets = (config.get(key) for key in ("r", "lora_alpha", "target_modules"))
    if not isinstance(r, int) or isinstance(r, bool) or r < 1:
        raise ValueError(f"r: expected a count, at least 1, got {r!r}")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise ValueError(f"lora_alpha: expected a finite number, got {alpha!r}")
    if not isinstance(targets, list) or not all(isinstance(t, str) for t in targets):
        raise ValueError(f"target_modules: expected a list of names, got {targets!r:.80}")
    return Settings(r, float(alpha), tuple(targets), config.get("fan_in_fan_out") is True)


def from_files(files: Files) -> tuple[Settings, dict[str, Tensor]]:
    """The same back: what CONFIG says, and the tensors of WEIGHTS by name, checked no further.

    In the order of their names: safetensors has another in each run.

    Raises:
        ValueError: a file is missing, broken, or asks for something else than plain LoRA.
    """
    if files.keys() != {CONFIG, WEIGHTS}:
        raise ValueError(f"files: expected {CONFIG} and {WEIGHTS}, got {sorted(files)}")
    try:
        return read_config(files[CONFIG]), dict(sorted(load(files[WEIGHTS]).items()))
    except SafetensorError as error:
        raise ValueError(f"{WEIGHTS}: expected safetensors, got {error}") from error
