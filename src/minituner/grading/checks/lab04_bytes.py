"""PEFT's two files, written and read by the judge's own hand, within limits.

Source: safetensors' format (a length, a JSON header, the values); PEFT's LoraConfig. Leaves out:
safetensors itself, which the submission's side uses.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from minituner.grading.checks.asking import Wrong
from minituner.grading.checks.lab04_asking import KIT, TARGETS, Pairs
from minituner.grading.expr import Expr

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
MOST, ENTRIES = 1 << 18, 200  # bytes of a header or a CONFIG; tensors of a file
LENGTH = struct.Struct("<Q")
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
PLAIN: dict[str, object] = {  # what PEFT writes for plain LoRA
    "peft_type": "LORA",
    "auto_mapping": None,
    "base_model_name_or_path": None,
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "lora_dropout": 0.0,
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "task_type": None,
    "use_dora": False,
    "use_rslora": False,
}
Told = dict[str, bytes]

# --- written --------------------------------------------------------------------------------------


def keyed(pairs: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Pairs under the keys that WEIGHTS has for them."""
    return {
        f"{PREFIX}{name}.lora_{part}.weight": value
        for name, pair in pairs.items()
        for part, value in zip("AB", pair, strict=True)
    }


def packed(tensors: Mapping[str, Tensor]) -> bytes:
    """A safetensors file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at, parts = 0, []
    for key, value in tensors.items():
        content = bytes(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        rows = [at, at + len(content)]
        header[key] = {"dtype": NAMES[value.dtype], "shape": [*value.shape], "data_offsets": rows}
        at += len(content)
        parts.append(content)
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    return LENGTH.pack(len(head)) + head + b"".join(parts)


def written(
    pairs: Pairs,
    alpha: float,
    targets: Sequence[str] = TARGETS,
    tensors: Mapping[str, Tensor] | None = None,
    settings: Mapping[str, object] | None = None,
) -> Told:
    """The two files of an adapter.

    Args:
        tensors: what WEIGHTS has in place of the pairs.
        settings: others of CONFIG; one that is ... is left out.
    """
    r = len(next(iter(pairs.values()))[0])
    config = PLAIN | {"r": r, "lora_alpha": alpha, "target_modules": list(targets)}
    told = {k: v for k, v in (config | dict(settings or {})).items() if v is not ...}
    weights = packed(keyed(pairs) if tensors is None else tensors)
    return {CONFIG: json.dumps(told).encode(), WEIGHTS: weights}


def sent(told: Told) -> Expr:
    """The same files there."""
    return KIT.files({name: crossing(content) for name, content in told.items()})


def crossing(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


# --- read -----------------------------------------------------------------------------------------


def content(told: object, name: str) -> bytes:
    """What a file has that came back as a tensor of bytes."""
    found = told.get(name) if isinstance(told, dict) else None
    if not isinstance(found, Tensor) or found.dtype != torch.uint8 or found.ndim != 1:
        raise Wrong(f"files = {_listed(told)}", name, 0)
    return bytes(found.numpy().tobytes())


def _listed(told: object) -> str:
    return f"{sorted(map(str, told))}" if isinstance(told, dict) else type(told).__name__


def config(told: object) -> dict[str, Any]:
    """CONFIG, an object."""
    found = _json(content(told, CONFIG), CONFIG)
    if not isinstance(found, dict):
        raise Wrong(f"{CONFIG}: a {type(found).__name__}", "an object", 0)
    return found


def _json(text: bytes, what: str) -> Any:
    try:
        if len(text) > MOST:
            raise ValueError(f"{len(text)} bytes")
        return json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise Wrong(f"{what}: {type(error).__name__}: {error}"[:200], "JSON", 0) from None


def _once(rows: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(rows)
    if len(found) != len(rows):
        raise ValueError("a key that comes twice")
    return found


def unpacked(told: object) -> dict[str, Tensor]:
    """The tensors of WEIGHTS; every byte of it belongs to one."""
    whole = content(told, WEIGHTS)
    size = LENGTH.unpack_from(whole)[0] if len(whole) >= LENGTH.size else MOST + 1
    start = LENGTH.size + size
    if size > MOST or start > len(whole):
        raise Wrong(f"{WEIGHTS}: {len(whole)} bytes, a header of {size}", "safetensors", 0)
    header = _json(whole[LENGTH.size : start], WEIGHTS)
    if not isinstance(header, dict) or len(header) > ENTRIES:
        raise Wrong(f"{WEIGHTS}: a header that is none, or too long", "safetensors", 0)
    rows = {key: row for key, row in header.items() if key != "__metadata__"}
    found, body, at = {}, whole[start:], 0
    for key, row in sorted(rows.items(), key=lambda item: _offsets(item[1])):
        dtype, shape = DTYPES.get(str(row.get("dtype"))), row.get("shape")
        begin, end = _offsets(row)
        sound = isinstance(shape, list) and len(shape) <= 4
        sound = sound and all(type(n) is int and 0 < n <= 1 << 20 for n in shape)
        if dtype is None or not sound or begin != at or end > len(body):
            raise Wrong(f"{WEIGHTS}: {key:.80} is {row}"[:200], "a tensor", 0)
        if end - begin != math.prod(shape) * dtype.itemsize:
            raise Wrong(f"{WEIGHTS}: {key:.80} of {shape} in {end - begin} bytes", "its size", 0)
        held = bytearray(body[begin:end])
        found[key], at = torch.frombuffer(held, dtype=dtype).view(shape), end
    if at != len(body):
        raise Wrong(f"{WEIGHTS}: {len(body) - at} bytes too many", "0", 0)
    return found


def _offsets(row: Any) -> tuple[int, int]:
    if not isinstance(row, dict):
        raise Wrong(f"{WEIGHTS}: a tensor's entry is {row!r}"[:200], "an object", 0)
    match row.get("data_offsets"):
        case [begin, end] if type(begin) is type(end) is int and 0 <= begin <= end:
            return begin, end
        case offsets:
            raise Wrong(f"{WEIGHTS}: data_offsets = {offsets!r}"[:200], "two counts", 0)


def alike(found: Mapping[str, Tensor], want: Mapping[str, Tensor]) -> list[str]:
    """Keys that are missing, too many, or of another dtype, shape or value."""
    odd = sorted(set(found) ^ set(want))
    return odd + [
        key
        for key in want
        if key in found
        and not (found[key].dtype == want[key].dtype and torch.equal(found[key], want[key]))
    ]
