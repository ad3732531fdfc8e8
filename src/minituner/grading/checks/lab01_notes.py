"""Lab 01, task S3: the values of notes.md, counted anew as experiments/28-lora-counts/run.py does.

Leaves out: the comparison (notes.py).
"""

from __future__ import annotations

from typing import Any

from minituner.grading.checks.asking import plain
from minituner.grading.expr import name
from minituner.grading.peer import Peer
from minituner.grading.talk import Talk
from minituner.published import LLAMA_7B, LLAMA_7B_ALL

ROWS, SEQ, RANK, LLAMA_RANK = 16, 64, 8, 16


def measure(worker: Peer) -> dict[str, str]:
    """Key -> value as run.py writes it; counts_sha256 apart."""
    w, star, given = Talk(worker), name("minituner.counts"), name("minituner")
    config = w.keep(given.minigpt.MiniGPTConfig())
    mini = w.keep(given.minigpt.MiniGPT(config))
    entries = sum(m.copies * m.in_features * m.out_features for m in LLAMA_7B_ALL)
    shapes = [(m.in_features, m.out_features, LLAMA_RANK) for m in LLAMA_7B_ALL]
    wrapped = w.keep(star.wrapped_count(mini, RANK))
    count, adapters = w.ask(
        (star.count_params(mini).total, [star.lora_param_count(*s) for s in shapes])
    )
    copies = [m.copies for m in LLAMA_7B_ALL]
    trainable = sum(n * plain(each) for n, each in zip(copies, adapters, strict=True))
    kept, verdicts = star.minigpt_activations, star.audit(given.published.CLAIMS)
    found = {
        "minigpt_trainable": wrapped.trainable,
        "minigpt_full_bytes": star.full_finetune_memory(plain(count)).total,
        "minigpt_lora_bytes": star.lora_memory(wrapped.frozen, wrapped.trainable).total,
        "minigpt_activations_full": kept(config, ROWS, SEQ),
        "minigpt_activations_lora": kept(config, ROWS, SEQ, r=RANK),
        "llama_mixed_bytes": star.full_finetune_memory(LLAMA_7B, mixed=True).total,
        "llama_lora_bytes": star.lora_memory(LLAMA_7B, trainable, weight_bytes=2).total,
        "llama_qlora_bytes": star.qlora_memory(entries, LLAMA_7B - entries, trainable).total,
        "claims_wrong": w.kit.fields(verdicts, ("holds",)),
    }
    values = dict(zip(found, plain(w.ask(list(found.values()))), strict=True))
    values["claims_wrong"] = sum(not row[0] for row in values["claims_wrong"])
    return {key: _shown(value) for key, value in values.items()}


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"
