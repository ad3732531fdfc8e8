"""The facts of theory/03-memory: closed forms of its own, torch itself, and the committed figures.

Source: theory_facts.py, which has the other pages. Leaves out: solutions/counts.py; the figures'
numbers are held to it by test_lab01_experiment.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any  # what JSON holds

import torch
from theory_numbers import Fact, fact
from torch import nn

from minituner.minigpt import MiniGPT, MiniGPTConfig

FIGURES = Path(__file__).parents[2] / "experiments" / "28-lora-counts" / "figures"
MEGA, GIGA = 10**6, 10**9
FLOAT, HALF = (torch.finfo(dtype).bits // 8 for dtype in (torch.float32, torch.bfloat16))
MOMENTS = 2 * FLOAT
ADAM = FLOAT + FLOAT + MOMENTS  # bytes of a parameter that trains
R, BATCH, SEQ = 8, 16, 64
TOKENS = BATCH * SEQ
# arXiv:2302.13971 Table 2: layers, d; d_ff and vocabulary from its released configuration.
LAYERS, D, FF, VOCAB, LLAMA_R, LLAMA_SEQ = 32, 4096, 11_008, 32_000, 16, 2048
GPT2_D, GPT2_LAYERS, GPT2_VOCAB, GPT2_SEQ = 768, 12, 50_257, 1024
BLOCK, GROUP, LEVELS = 64, 256, 16  # arXiv:2305.14314 §3
RULE = 12  # arXiv:1910.02054 §3.2, footnote
ZERO_B, SEVEN, CARD = 7.5, 7, 80  # billions in its Figure 1, in a tutorial's 7B; GB of an A100


def figure(name: str) -> Any:
    return json.loads((FIGURES / f"{name}.json").read_text(encoding="utf-8"))


def memory_facts() -> list[Fact]:
    """theory/03-memory.md"""
    return [*buckets(), *mixed(), *models(), *nf4(), *activations(), *allocated(), *questions()]


def constants(block: int) -> float:
    """Bits a weight that double quantisation leaves for the absmax."""
    return 8 / block + 8 * FLOAT / (block * GROUP)


def llama() -> tuple[int, int, int]:
    """LLaMA-7B: every parameter, its layers' linears, what adapters on these train."""
    linears = LAYERS * (4 * D * D + 3 * D * FF)
    total = linears + 2 * VOCAB * D + (2 * LAYERS + 1) * D
    return total, linears, LAYERS * LLAMA_R * (4 * 2 * D + 3 * (D + FF))


def quantised() -> tuple[int, int, int]:
    """Bytes of LLaMA-7B's linears in NF4: codes, absmax of a byte, their float32; none rounded."""
    linears = llama()[1]
    return linears // 2, linears // BLOCK, FLOAT * (linears // BLOCK // GROUP)


def buckets() -> list[Fact]:
    gpt2 = (GPT2_VOCAB + GPT2_SEQ) * GPT2_D + 2 * GPT2_D
    gpt2 += GPT2_LAYERS * (12 * GPT2_D * GPT2_D + 13 * GPT2_D)
    total, master = llama()[0], MOMENTS + FLOAT
    frozen = (4 + constants(BLOCK)) / 8
    return [
        fact("1 MB = 1 000 000 bytes, 1 GB = 1000 MB", 1, MEGA, 1, GIGA / MEGA),
        fact("4 bytes", FLOAT),
        fact("2 bytes", HALF),
        fact("| 4 | 4 | 8 | 16 |", FLOAT, FLOAT, MOMENTS, ADAM),
        fact("| 4 | 4 | 0 | 8 |", FLOAT, FLOAT, 0, 2 * FLOAT),
        fact("| 2 | 2 | 12 | 16 |", HALF, HALF, master, 2 * HALF + master),
        fact("| 2 | 2 | 4 | 8 |", HALF, HALF, FLOAT, 2 * HALF + FLOAT),
        fact("| 4 | 0 | 0 | 4 |", FLOAT, 0, 0, FLOAT),
        fact("| 2 | 0 | 0 | 2 |", HALF, 0, 0, HALF),
        fact("| 0.516 | 0 | 0 | 0.516 |", frozen, 0, 0, frozen),
        fact("16 bytes", ADAM),
        fact("16 · 124 439 808 bytes = 1.99 GB", ADAM, gpt2, ADAM * gpt2 / GIGA),
        fact("16 · 6 738 415 616 bytes = 107.8 GB", ADAM, total, ADAM * total / GIGA),
    ]


def mixed() -> list[Fact]:
    step = torch.finfo(torch.bfloat16).eps
    master = FLOAT + MOMENTS
    parts = [SEVEN * each for each in (HALF, FLOAT, MOMENTS)]
    return [
        fact("8 bits", 8),
        fact("1 + 2⁻⁷ = 1.0078125", 1, 2, 1 + step),
        fact("16 bits", 8 * HALF),
        fact("4 + 8 = 12 bytes", FLOAT, MOMENTS, master),
        fact("2 + 2 + 12 = 16", HALF, HALF, master, 2 * HALF + master),
        fact("7.5 · 10⁹", ZERO_B, 10),
        fact("7.5 · 16 = 120 GB", ZERO_B, ADAM, ZERO_B * ADAM),
        fact("14 + 28 + 56 = 98 GB", *parts, sum(parts)),
        fact("28 GB", SEVEN * FLOAT),
        fact("7 · 16 = 112 GB", SEVEN, ADAM, SEVEN * ADAM),
        fact("6 + 8 + 4 = 18 bytes", HALF + FLOAT, MOMENTS, FLOAT, HALF + ADAM),
    ]


def mini_sizes() -> tuple[int, int]:
    """A default MiniGPT's parameters, and what adapters at r = 8 on its blocks' linears train."""
    model = MiniGPT(MiniGPTConfig())
    linears = [m for m in model.blocks.modules() if isinstance(m, nn.Linear)]
    adapters = sum(R * (m.in_features + m.out_features) for m in linears)
    return sum(p.numel() for p in model.parameters()), adapters


def kept(full: bool) -> int:
    """Bytes that a MiniGPT keeps for backward: the table of BLUEPRINT-01, summed."""
    c = MiniGPTConfig()
    block = 2 * (c.d_model + 2) + c.d_model + 4 * c.d_model + c.n_head + c.d_model + 2 * c.d_ff
    if full:  # ln_f, what lm_head reads, and the ids for the embeddings
        return FLOAT * TOKENS * (c.n_layer * block + 2 * c.d_model + 2) + 8 * (TOKENS + SEQ)
    return FLOAT * TOKENS * c.n_layer * (block + 6 * R)  # no first norm, but ln_f


def models() -> list[Fact]:
    base, adapters = mini_sizes()
    full = (FLOAT * base, FLOAT * base, MOMENTS * base, kept(True))
    lora = (FLOAT * (base + adapters), FLOAT * adapters, MOMENTS * adapters, kept(False))
    total, linears, trained = llama()
    rest = total - linears
    mega = [each * total / GIGA for each in (HALF, HALF, FLOAT + MOMENTS)]
    trains = [FLOAT * trained / GIGA, MOMENTS * trained / GIGA]
    half = mega[0] + trains[0]
    four = (sum(quantised()) + HALF * rest) / GIGA + trains[0]
    return [
        fact("16 × 64 tokens", BATCH, SEQ),
        fact("| 829 184 | 829 184 | 1 658 368 | 17 449 472 | 20 766 208 |", *full, sum(full)),
        fact("r = 8", R),
        fact("| 976 640 | 147 456 | 294 912 | 17 694 720 | 19 113 728 |", *lora, sum(lora)),
        fact("17.8 %", 100 * adapters / base),
        fact("1.4 %", 100 * (kept(False) / kept(True) - 1)),
        fact("8 %", 100 * (1 - sum(lora) / sum(full))),
        fact("r = 16", LLAMA_R),
        fact(
            "| 6 738 415 616 | 13.48 GB | 13.48 GB | 80.86 GB | 107.8 GB |",
            *(total, *mega, sum(mega)),
        ),
        fact(
            "| 39 976 960 | 13.64 GB | 0.16 GB | 0.32 GB | 14.1 GB |",
            *(trained, half, *trains, half + sum(trains)),
        ),
        fact(
            "| 39 976 960 | 4.03 GB | 0.16 GB | 0.32 GB | 4.5 GB |",
            *(trained, four, *trains, four + sum(trains)),
        ),
        fact("169×", total / trained),
        fact("7.6×", sum(mega) / (half + sum(trains))),
        fact("95 %", 100 * mega[0] / (half + sum(trains))),
        fact("12 · d", RULE),
    ]


def nf4() -> list[Fact]:
    total, linears, trained = llama()
    codes, bytes_, floats = quantised()
    plain = FLOAT * bytes_
    rest, base = total - linears, codes + bytes_ + floats
    return [
        fact("2⁴ = 16", 2, LEVELS),
        fact("4 bits", LEVELS.bit_length() - 1),
        fact("block_size = 64", BLOCK),
        fact("32 / 64 = 0.5", 8 * FLOAT, BLOCK, 8 * FLOAT / BLOCK),
        fact("256 · 64", GROUP, BLOCK),
        fact(
            "8 / 64 + 32 / (64 · 256) = 0.127",
            *(8, BLOCK, 8 * FLOAT, BLOCK, GROUP, constants(BLOCK)),
        ),
        fact("4.5", 4 + 8 * FLOAT / BLOCK),
        fact("4.127", 4 + constants(BLOCK)),
        fact("0.373", 8 * FLOAT / BLOCK - constants(BLOCK)),
        fact("6 476 005 376", linears),
        fact("6 476 005 376 / 2 = 3 238 002 688", linears, 2, codes),
        fact("6 476 005 376 / 64 = 101 187 584", linears, BLOCK, bytes_),
        fact("4 · 395 264 = 1 581 056", FLOAT, floats / FLOAT, floats),
        fact("3 340 771 328", base),
        fact("404 750 336", plain),
        fact("3 642 753 024", codes + plain),
        fact("302 MB", (plain - bytes_ - floats) / MEGA),
        fact("262 410 240", rest),
        fact("525 MB", HALF * rest / MEGA),
        fact("3.87 GB", (base + HALF * rest) / GIGA),
        fact("13.48 GB", HALF * total / GIGA),
        fact("640 MB", ADAM * trained / MEGA),
    ]


def activations() -> list[Fact]:
    c = MiniGPTConfig()
    one, rule = c.d_model, RULE * D * LAYERS * LLAMA_SEQ * HALF
    block = (kept(False) // (FLOAT * TOKENS * c.n_layer)) - 6 * R
    small = FLOAT * TOKENS * c.n_layer * (block - c.d_model - c.d_ff + 2 * R)  # q and v alone
    gpt2 = next(m for m in figure("stacks") if m["model"] == "GPT-2 small")
    return [
        fact("1024 tokens, in = 64, r = 8", TOKENS, one, R),
        fact("262 144 bytes", FLOAT * TOKENS * one),
        fact("| 0 | 0 bytes |", 0, 0),
        fact("294 912 bytes", FLOAT * TOKENS * (one + R)),
        fact("1032", block),
        fact("6 · 8 = 48", 6, R, 6 * R),
        fact("64 + 256 = 320", c.d_model, c.d_ff, c.d_model + c.d_ff),
        fact("11 927 552", small),
        fact("32 %", 100 * (1 - small / kept(True))),
        fact(
            "1024 · 65 · 4 = 266 240",
            *(TOKENS, c.vocab_size, FLOAT, TOKENS * c.vocab_size * FLOAT),
        ),
        fact("50 257", GPT2_VOCAB),
        fact("206 MB", GPT2_SEQ * GPT2_VOCAB * FLOAT / MEGA),
        fact("611 MB", gpt2["adam"]["full, float32"]["activations"] / MEGA),
        fact("2048 tokens", LLAMA_SEQ),
        fact("6.44 GB", rule / GIGA),
        fact("0.54 GB", rule / RULE / GIGA),
    ]


def allocated() -> list[Fact]:
    rows = {(row["way"], row["optimizer"]): row["torch"] for row in figure("allocations")["rows"]}
    full, lora = (dict(rows[way, "adam"]) for way in ("full, float32", "LoRA r=8"))
    peaks = full.pop("peak"), lora.pop("peak")
    model, c = MiniGPT(MiniGPTConfig()), MiniGPTConfig()
    factors = 2 * sum(isinstance(m, nn.Linear) for m in model.blocks.modules())
    tensors, wide = len(list(model.parameters())), TOKENS * c.d_ff * FLOAT
    return [
        fact("52 · 4 = 208 bytes", tensors, FLOAT, FLOAT * tensors),
        fact("48 · 4 = 192 bytes", factors, FLOAT, FLOAT * factors),
        fact("| 20 766 416 | 20 806 616 |", sum(full.values()), peaks[0]),
        fact("| 19 113 920 | 21 049 288 |", sum(lora.values()), peaks[1]),
        fact("1024 · 256 · 4 = 1 048 576", TOKENS, c.d_ff, FLOAT, wide),
    ]


def questions() -> list[Fact]:
    (total, _, trained), short = llama(), BLOCK // 2
    saved, lora = MOMENTS * trained, HALF * total + ADAM * trained
    return [
        fact("8 · 39 976 960 bytes = 320 MB", MOMENTS, trained, saved / MEGA),
        fact("14.1 GB", lora / GIGA),
        fact("2.3 %", 100 * saved / lora),
        fact("block_size = 32", short),
        fact(
            "4 + 8 / 32 + 32 / (32 · 256) = 4.254",
            *(4, 8, short, 8 * FLOAT, short, GROUP, 4 + constants(short)),
        ),
        fact("80 GB", CARD),
        fact("107.8 GB", ADAM * total / GIGA),
    ]
