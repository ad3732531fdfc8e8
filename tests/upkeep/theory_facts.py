"""The facts of the theory pages: text as it stands there, and what each number in it equals."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from theory_facts_forgetting import forgetting_facts
from theory_facts_memory import memory_facts
from theory_facts_rank import rank_facts
from theory_facts_real import real_facts
from theory_numbers import About, Fact, fact
from theory_values import (
    ALPHA,
    BFLOAT16_LAYERS,
    LARGE_B,
    LAYERS,
    REALISTIC_B,
    ROWS,
    SIDE,
    R,
    adam,
    bound,
    default,
    keyword,
    merged,
    reference,
    right_in_bfloat16,
    sgd,
    size,
    step_gains,
    tensors,
    typical_gap,
)
from torch import nn

from minituner.minigpt import MiniGPT, MiniGPTConfig

ROOT = Path(__file__).parents[2]


def update_facts() -> list[Fact]:
    """theory/01-the-update.md"""
    W, b, A, B = tensors("worked_layer")
    (x,) = tensors("test_lora_init_identity_then_the_worked_example")
    r, alpha = keyword("worked_layer", "r"), keyword("worked_layer", "alpha")
    s, base, hidden = alpha / r, W @ x + b, A @ x
    W_, b_, A_, B_, x_, base_ = (t.flatten().tolist() for t in (W, b, A, B, x, base))
    update = s * (B @ hidden)
    squared_relu_gain = nn.init.calculate_gain("leaky_relu", 0.0) ** 2
    a_squared = 3 * squared_relu_gain - 1  # the a with gain · √3 = 1
    gain = nn.init.calculate_gain("leaky_relu", a_squared**0.5)
    spread = 12 / 2**2  # U(-bound, bound) has variance (2 bound)² / 12
    return [
        fact("out = 3, in = 4, r = 2", *W.shape, r),
        fact("α = 3", alpha),
        fact("s = α/r = 1.5", s),
        fact("W = [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]", *W_),
        fact("b = [0.5, 0, -0.5]", *b_),
        fact("A = [[1, 0, 2, -1], [0, 3, -2, 1]]", *A_),
        fact("B = [[1, 2], [0, -1], [2, 0]]", *B_),
        fact("x = [1, -1, 2, 0.5]", *x_),
        fact("= [7, 17, 27] + [0.5, 0, -0.5] = [7.5, 17, 26.5]", *(W @ x).tolist(), *b_, *base_),
        fact("A x = [4.5, -6.5]", *hidden.tolist()),
        fact("B (A x) = [-8.5, 6.5, 9]", *(B @ hidden).tolist()),
        fact("s B (A x) = [-12.75, 9.75, 13.5]", *update.tolist()),
        fact(
            "y = [7.5, 17, 26.5] + [-12.75, 9.75, 13.5] = [-5.25, 26.75, 40]",
            *(*base_, *update.tolist(), *(base + update).tolist()),
        ),
        fact("bound = gain · √(3 / in)", spread),
        fact("gain = √(2 / (1 + a²))", squared_relu_gain, squared_relu_gain / gain**2 - a_squared),
        fact(
            "a = √5: gain = √(2 / 6) = √(1 / 3)",
            *(a_squared, squared_relu_gain, squared_relu_gain / gain**2, 1, 1 / gain**2),
        ),
        fact("√(1 / 3) · √(3 / in) = 1 / √in", 1, 1 / gain**2, spread, gain * spread**0.5),
        fact("in = 64", SIDE),
        fact("0.125", gain * spread**0.5 / SIDE**0.5),
        fact("r = 8", default("r")),
        fact("r = 16", 2 * default("r")),
        fact("α = 16", default("alpha")),
        fact("s = 2", default("alpha") / default("r")),
        fact("| SGD | ×2.0 | ×0.5 | ×1.0 |", *step_gains(sgd)),
        fact("| Adam | ×2.0 | ×1.0 | ×1.4 |", *step_gains(adam)),
        fact(
            "α/r = 16 / 16 = 1",
            *(default("alpha"), 2 * default("r"), default("alpha") / (2 * default("r"))),
        ),
    ]


@cache
def minigpt_counts() -> dict[str, int]:
    """What a MiniGPT trains after wrapping, by the first parts of the names; 'base' beforehand."""
    model = MiniGPT(MiniGPTConfig())
    counts = Counter({"base": sum(p.numel() for p in model.parameters())})
    reference().wrap_minigpt_with_lora(model, r=R)
    for name, param in model.named_parameters():
        if param.requires_grad:
            for depth in range(5):
                counts[".".join(name.split(".")[:depth])] += param.numel()
    return counts


def gpt2_total(d: int, layers: int, vocab: int = 50257, context: int = 1024) -> int:
    """GPT-2: tied head, biases everywhere, two norms a block and one at the end."""
    block = 2 * 2 * d + (d + 1) * 3 * d + (d + 1) * d + (d + 1) * 4 * d + (4 * d + 1) * d
    return (vocab + context) * d + layers * block + 2 * d


def llama_total(d: int, layers: int, ff: int = 11008, vocab: int = 32000) -> int:
    """LLaMA: untied head, no biases, a gated MLP of three matrices, RMS norms."""
    return 2 * vocab * d + layers * (4 * d * d + 3 * d * ff + 2 * d) + d


# Quoted from Hu et al. 2021, tables and §4.2: the only figures here that nothing computes.
GPT3_MILLIONS, TRAINING_TB, LORA_GB = 175_255.8, 1.2, 350


def count_facts() -> list[Fact]:
    """theory/02-parameter-count.md"""
    config, mini, mega = MiniGPTConfig(), minigpt_counts(), 10**6
    d, ff, layers = config.d_model, config.d_ff, config.n_layer
    attention = sum(mini[f"blocks.0.attn.{name}_proj"] for name in "qkvo")
    mlp, block, base = mini["blocks.0.mlp"], mini["blocks.0"], mini["base"]
    wide, llama_r, llama_layers = 4096, 16, 32
    gpt2, r4, depth = 768, 4, 12
    gpt2_all = gpt2_total(gpt2, depth)
    c_attn = depth * size(r4, (gpt2, 3 * gpt2))
    both = c_attn + depth * size(r4, (gpt2, gpt2))
    mlp_proj = depth * size(r4, (4 * gpt2, gpt2))
    gpt3, gpt3_layers = 12288, 96
    gpt3_qv = {r: gpt3_layers * 2 * size(r, (gpt3, gpt3)) for r in (1, 4, 8)}
    ratio = GPT3_MILLIONS * mega / gpt3_qv[r4]
    llama_qv = llama_layers * 2 * size(llama_r, (wide, wide))
    llama_all = llama_total(wide, llama_layers)
    moments, width = 2, torch.finfo(torch.float32).bits // 8
    kept = moments * width
    extra = R + SIDE  # the biases of nn.Linear(64, 8) and nn.Linear(8, 64)
    lone = size(R, (SIDE, SIDE))
    projections = sum("proj" in target for target in reference().MINIGPT_LINEARS)
    fcs = sum("fc" in target for target in reference().MINIGPT_LINEARS)
    return [
        fact("Linear(64, 64)", SIDE, SIDE),
        fact("r = 8", R),
        fact("8 · (64 + 64) = 1024", R, SIDE, SIDE, lone),
        fact("64 · 64 = 4096", SIDE, SIDE, SIDE * SIDE),
        fact("1024 / 4096 = 25 %", lone, SIDE * SIDE, 100 * lone / SIDE**2),
        fact("4096 × 4096", wide, wide),
        fact("65 536", size(R, (wide, wide))),
        fact("16 777 216", wide * wide),
        fact("0.39 %", 100 * size(R, (wide, wide)) / wide**2),
        fact("| 64 × 64 | 32 |", d, d, d * d / (d + d)),
        fact("| 64 × 256 | 51.2 |", d, ff, d * ff / (d + ff)),
        fact("| 768 × 2304 | 576 |", gpt2, 3 * gpt2, 3 * gpt2 * gpt2 / (4 * gpt2)),
        fact("| 4096 × 4096 | 2048 |", wide, wide, wide * wide / (2 * wide)),
        fact("n_layer = 4, d_model = 64", layers, d),
        fact("d_ff = 256", ff),
        fact("4 · 8 · (64 + 64) = 4096", projections, R, d, d, attention),
        fact("2 · 8 · (64 + 256) = 5120", fcs, R, d, ff, mlp),
        fact("4096 + 5120 = 9216", attention, mlp, block),
        fact("4 · 9216 = 36 864", layers, block, mini[""]),
        fact("207 296", base),
        fact("vocab_size = 65, block_size = 64", config.vocab_size, config.block_size),
        fact("36 864 / 207 296 = 17.8 %", mini[""], base, 100 * mini[""] / base),
        fact("n_layer = 12, d = 768", depth, gpt2),
        fact("124 439 808", gpt2_all),
        fact("768 × 2304 = 1 769 472", gpt2, 3 * gpt2, gpt2 * 3 * gpt2),
        fact("589 824", gpt2 * gpt2),
        fact("768 × 768", gpt2, gpt2),
        fact("r = 4", r4),
        fact("| `c_attn` | 147 456 | 0.118 % |", c_attn, 100 * c_attn / gpt2_all),
        fact("| `c_attn`, `attn.c_proj` | 221 184 | 0.178 % |", both, 100 * both / gpt2_all),
        fact(
            "| `c_attn`, `c_proj` | 405 504 | 0.326 % |",
            *(both + mlp_proj, 100 * (both + mlp_proj) / gpt2_all),
        ),
        fact("184 320", mlp_proj),
        fact("d = 12 288", gpt3),
        fact("n_layer = 96", gpt3_layers),
        fact("| GPT-3, r = 1 | 4 718 592 |", 1, gpt3_qv[1]),
        fact("| GPT-3, r = 4 | 18 874 368 |", r4, gpt3_qv[r4]),
        fact("| GPT-3, r = 8 | 37 748 736 |", R, gpt3_qv[R]),
        fact("| LLaMA-7B, r = 16 | 8 388 608 |", llama_r, llama_qv),
        fact("10 000×", 10 ** round(math.log10(ratio))),
        fact("175 255.8", GPT3_MILLIONS),
        fact("18 874 368 (r = 4)", gpt3_qv[r4], r4),
        fact("9285", ratio),
        fact("3×", 1000 * TRAINING_TB / LORA_GB),
        fact(
            "1.2 TB / 350 GB = 3.4",
            *(TRAINING_TB, LORA_GB, 1000 * TRAINING_TB / LORA_GB),
        ),
        fact("n_layer = 32, d = 4096", llama_layers, wide),
        fact("6 738 415 616", llama_all),
        fact("6.74", llama_all / 10**9),
        fact("r = 16", llama_r),
        fact("0.124 %", 100 * llama_qv / llama_all),
        fact("2 · 4 = 8 bytes", moments, width, kept),
        fact("995.5 MB", kept * gpt2_all / mega),
        fact("1.77 MB", kept * both / mega),
        fact(
            "405 504 · 4 bytes = 1.62 MB",
            *(both + mlp_proj, width, width * (both + mlp_proj) / mega),
        ),
        fact("307×", gpt2_all / (both + mlp_proj)),
        fact("1 MB = 1 000 000 bytes", 1, mega),
        fact("1096", lone + extra),
        fact("1096 - 1024 = 72 = 8 + 64", lone + extra, lone, extra, R, SIDE),
        fact("3 · (768 + 768) = 4608", 3, gpt2, gpt2, 3 * size(1, (gpt2, gpt2))),
        fact("768 + 2304 = 3072", gpt2, 3 * gpt2, size(1, (gpt2, 3 * gpt2))),
        fact("768 × 2304", gpt2, 3 * gpt2),
    ]


def merging_facts() -> list[Fact]:
    """theory/04-merging-and-floats.md"""
    W, b, A, B = tensors("worked_layer")
    (x,) = tensors("test_lora_init_identity_then_the_worked_example")
    s = keyword("worked_layer", "alpha") / keyword("worked_layer", "r")
    BA, sBA, after = (t.flatten().tolist() for t in (B @ A, s * B @ A, W + s * B @ A))
    single, double, half = torch.float32, torch.float64, torch.bfloat16
    outputs = statistics.median(merged(single, False, 1.0)[1])
    reach = torch.tensor(outputs)
    apart = (torch.nextafter(reach, 2 * reach) - reach).item()
    step = torch.finfo(half).eps
    large, realistic = right_in_bfloat16(LARGE_B), right_in_bfloat16(REALISTIC_B)
    return [
        fact("s = 1.5", s),
        fact("B A = [[1, 6, -2, 1], [0, -3, 2, -1], [2, 0, 4, -2]]", *BA),
        fact("s B A = [[1.5, 9, -3, 1.5], [0, -4.5, 3, -1.5], [3, 0, 6, -3]]", *sBA),
        fact("W + s B A = [[2.5, 11, 0, 5.5], [5, 1.5, 10, 6.5], [12, 10, 17, 9]]", *after),
        fact("[-5.25, 26.75, 40]", *((W + s * B @ A) @ x + b).tolist()),
        fact("64 × 64", SIDE, SIDE),
        fact("r = 8", R),
        fact("25 %", 100 * size(R, (SIDE, SIDE)) / SIDE**2),
        fact("1e-5", bound("test_lora_merge_keeps_the_output_in_float32_to_1e_5")),
        fact("1e-12", bound("test_lora_merge_keeps_the_output_in_float64")),
        fact("in = out = 64, r = 8, α = 16", SIDE, R, ALPHA),
        fact("(32, 64)", ROWS, SIDE),
        fact("100", LAYERS),
        fact("| float32 | ≈ 6e-5 |", typical_gap(single, False, 1.0)),
        fact("6e-5", typical_gap(single, False, 1.0)),
        fact("| N(0, 1) | float32 | ≈ 4e-6 |", typical_gap(single, True, 1.0)),
        fact(
            "| 0.02 · N(0, 1) | float32 | ≈ 7e-7 |",
            *(REALISTIC_B, typical_gap(single, True, REALISTIC_B)),
        ),
        fact("| float64 | ≈ 1e-13 |", typical_gap(double, False, 1.0)),
        fact("≈ 200", About(outputs)),
        fact("1.5e-5", apart),
        fact("0.0078125", step),
        fact("0.00390625", step / 2),
        fact("20 · 4096 = 81 920", BFLOAT16_LAYERS, SIDE**2, BFLOAT16_LAYERS * SIDE**2),
        fact("| 0.3 · N(0, 1) | ≈ 69 % | ≈ 100 % |", LARGE_B, About(large[0], 2), large[1]),
        fact("| 0.02 · N(0, 1) | ≈ 91 %", REALISTIC_B, About(realistic[0], 2)),
        fact("≈ 91 % | ≈ 100 %", About(realistic[0], 2), realistic[1]),
        fact("70 %", About(large[0])),
    ]


PAGES: dict[str, Callable[[], list[Fact]]] = {
    "01-the-update": update_facts,
    "02-parameter-count": count_facts,
    "03-memory": memory_facts,
    "04-merging-and-floats": merging_facts,
    "05-forgetting": forgetting_facts,
    "06-low-rank": rank_facts,
    "07-real-models": real_facts,
}
FACTS = {name: cache(facts) for name, facts in PAGES.items()}
every_page = pytest.mark.parametrize("page", PAGES)
every_face = pytest.mark.parametrize("ending", [".md", ".es.md"])


def read(page: str, ending: str) -> str:
    return (ROOT / "theory" / f"{page}{ending}").read_text(encoding="utf-8")
