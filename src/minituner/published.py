"""Figures that papers, documentation and tutorials print, each with the numbers it is made from.

Sources: beside each claim. Leaves out: their words, and whether they are right. That is for
counts.py to find out. You are given this file; read it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Matrix:
    """A weight of one shape, and how many of them there are; a vector has out_features 1."""

    in_features: int
    out_features: int
    copies: int = 1


# What one of a unit is. A GB is 10⁹ bytes; a GiB, 2³⁰, is 7 % more.
UNITS = {"": 1.0, "%": 0.01, "million": 1e6, "billion": 1e9, "MB": 1e6, "GB": 1e9, "GiB": 2.0**30}

# What a claim may be about, and how that is computed. Divide by the unit last.
QUANTITIES = {
    "entries": "Σ copies · in · out over the matrices",
    "adapter": "Σ copies · r (in + out) over the matrices: what LoRA trains there",
    "share": "adapter / params",
    "fewer": "params / adapter",
    "file": "adapter · bytes_each: an adapter file",
    "stored": "params · bytes_each",
    "training": "bytes of full fine-tuning: Adam, mixed precision, activations apart",
    "constants": "bits per parameter that NF4's constants take, with double quantisation",
    "double quantisation": "bytes that double quantisation saves on params in NF4",
    "quotient": "parts[0] / parts[1]",
}


@dataclass(frozen=True)
class Claim:
    """One published figure; which of the last fields it fills depends on `quantity`."""

    id: str
    source: str
    says: str  # in our words
    quantity: str  # a key of QUANTITIES
    published: float  # the figure, in units of `unit`
    step: float  # one in its last digit that counts: 0.1 for 3.2, 10 000 for "10,000 times"
    unit: str = ""  # a key of UNITS
    relation: str = "="  # "=", "<" (said to lie below the figure) or ">" (above it)
    matrices: tuple[Matrix, ...] = ()  # the adapted, or the counted, weights
    r: int = 0
    params: int = 0
    bytes_each: int = 0
    parts: tuple[float, ...] = ()


def gpt2(d: int, layers: int) -> tuple[Matrix, ...]:
    """Every parameter of a GPT-2: 50 257 tokens, 1024 positions, the head tied to the embedding."""
    return (
        Matrix(50_257, d),
        Matrix(1024, d),
        Matrix(d, 3 * d, layers),  # c_attn: q, k and v in one
        Matrix(d, d, layers),  # the attention's c_proj
        Matrix(d, 4 * d, layers),  # c_fc
        Matrix(4 * d, d, layers),  # the MLP's c_proj
        Matrix(d, 1, (3 + 1 + 4 + 1) * layers),  # their biases
        Matrix(d, 1, 2 * (2 * layers + 1)),  # LayerNorms: weight and bias
    )


def llama(d: int, layers: int, d_ff: int) -> tuple[Matrix, ...]:
    """Every parameter of a LLaMA: 32 000 tokens, no biases, a head of its own."""
    return (
        Matrix(32_000, d, 2),  # the embedding and the head
        Matrix(d, d, 4 * layers),  # q, k, v, o
        Matrix(d, d_ff, 2 * layers),  # gate and up
        Matrix(d_ff, d, layers),  # down
        Matrix(d, 1, 2 * layers + 1),  # RMSNorms: weight
    )


HU = "Hu et al. 2021, arXiv:2106.09685"
RADFORD = "Radford et al. 2019 (GPT-2), Table 2"
TOUVRON = "Touvron et al. 2023, arXiv:2302.13971, Table 2"
DETTMERS = "Dettmers et al. 2023, arXiv:2305.14314"
TUTORIAL = "a tutorial on LoRA for"
GPT3 = 175_255_800_000  # HU, Table 4: 175,255.8 million
GPT3_QV = (Matrix(12_288, 12_288, 2 * 96),)
LLAMA_7B, LLAMA_65B = 6_738_415_616, 65_285_660_672
LLAMA_7B_QV = (Matrix(4096, 4096, 2 * 32),)
LLAMA_7B_ALL = (Matrix(4096, 4096, 128), Matrix(4096, 11_008, 64), Matrix(11_008, 4096, 32))

CLAIMS: tuple[Claim, ...] = (
    Claim("gpt3-r1", f"{HU}, Table 4", "GPT-3, q and v at r = 1, in millions",
          "adapter", 4.7, 0.1, "million", matrices=GPT3_QV, r=1),
    Claim("gpt3-18m", f"{HU}, §7.1", "GPT-3, q and v at r = 4, in millions",
          "adapter", 18, 1, "million", matrices=GPT3_QV, r=4),
    Claim("gpt3-checkpoint", f"{HU}, §4.2", "that adapter's file in 16 bits",
          "file", 35, 1, "MB", matrices=GPT3_QV, r=4, bytes_each=2),
    Claim("gpt3-fewer", f"{HU}, abstract", "10,000 times fewer parameters to train",
          "fewer", 10_000, 10_000, matrices=GPT3_QV, r=4, params=GPT3),
    Claim("gpt3-memory", f"{HU}, abstract", "a third of the memory: 1200 GB down to 350 GB",
          "quotient", 3, 1, parts=(1200, 350)),
    Claim("gpt3-weights", f"{HU}, §4.2", "GPT-3 in 16 bits",
          "stored", 350, 10, "GB", params=GPT3, bytes_each=2),
    Claim("roberta-base", f"{HU}, Table 2", "12 layers, q and v at r = 8 (Table 9)",
          "adapter", 0.3, 0.1, "million", matrices=(Matrix(768, 768, 2 * 12),), r=8),
    Claim("deberta-xxl", f"{HU}, Table 2", "48 layers, q and v at r = 8 (Table 10)",
          "adapter", 4.7, 0.1, "million", matrices=(Matrix(1536, 1536, 2 * 48),), r=8),
    Claim("gpt2-medium-adapter", f"{HU}, Table 3", "24 layers, q and v at r = 4 (Table 11)",
          "adapter", 0.35, 0.01, "million", matrices=(Matrix(1024, 1024, 2 * 24),), r=4),
    Claim("gpt2-medium", f"{HU}, Table 3", "all parameters of GPT-2 medium",
          "entries", 354.92, 0.01, "million", matrices=gpt2(1024, 24)),
    Claim("gpt2-large", f"{HU}, Table 3", "all parameters of GPT-2 large",
          "entries", 774.03, 0.01, "million", matrices=gpt2(1280, 36)),
    Claim("gpt2-small", RADFORD, "all parameters of the smallest GPT-2",
          "entries", 117, 1, "million", matrices=gpt2(768, 12)),
    Claim("llama-7b", TOUVRON, "all parameters of LLaMA-7B",
          "entries", 6.7, 0.1, "billion", matrices=llama(4096, 32, 11_008)),
    Claim("llama-65b", TOUVRON, "all parameters of LLaMA-65B",
          "entries", 65.2, 0.1, "billion", matrices=llama(8192, 80, 22_016)),
    Claim("nf4-constants", f"{DETTMERS}, §3", "bits per parameter, 8-bit constants",
          "constants", 0.127, 0.001, params=LLAMA_65B),
    Claim("nf4-saved", f"{DETTMERS}, §3", "about 3 GB saved on a model of 65 billion",
          "double quantisation", 3, 1, "GB", params=LLAMA_65B),
    Claim("qlora-full", f"{DETTMERS}, abstract", "over 780 GB to fine-tune 65 billion in 16 bits",
          "training", 780, 10, "GB", relation=">", params=LLAMA_65B),
    Claim("zero", "Rajbhandari et al. 2019, arXiv:1910.02054, Figure 1", "7.5 billion, mixed",
          "training", 120, 1, "GB", params=7_500_000_000),
    Claim("torchtune-entries", "torchtune's LoRA tutorial", "a 4096 × 4096 weight, in millions",
          "entries", 15, 1, "million", matrices=(Matrix(4096, 4096),)),
    Claim("torchtune-7b", "torchtune's LoRA tutorial", "Llama 2 7B, q and v at r = 8",
          "adapter", 4_194_304, 1, matrices=LLAMA_7B_QV, r=8),
    Claim("peft-qwen", "PEFT's README", "Qwen2.5-3B, q and v (two key heads of 128) at r = 16",
          "adapter", 3_686_400, 1, matrices=(Matrix(2048, 2048, 36), Matrix(2048, 256, 36)), r=16),
    Claim("peft-whisper", "PEFT's README (2023)", "a model of 1.5 billion in 16 bits",
          "stored", 14, 1, "GB", params=1_500_000_000, bytes_each=2),
    Claim("stackllama", "Hugging Face's StackLLaMA post", "7 billion: 16 bits, Adam, gradients too",
          "stored", 70, 10, "GB", params=7_000_000_000, bytes_each=2 + 2 + 8),
    Claim("raschka-all", "Raschka 2023, Practical Tips for LoRA", "7B, r = 8, all linears and head",
          "adapter", 20_277_248, 1, matrices=(*LLAMA_7B_ALL, Matrix(4096, 32_000)), r=8),
    Claim("tutorial-w0", f"{TUTORIAL} GPT-2", "entries of a 768 × 2304 weight",
          "entries", 589_824, 1, matrices=(Matrix(768, 2304),)),
    Claim("tutorial-c-attn", f"{TUTORIAL} GPT-2", "c_attn and the attention's c_proj at r = 4",
          "adapter", 185_000, 1000, matrices=(Matrix(768, 2304, 12), Matrix(768, 768, 12)), r=4),
    Claim("tutorial-7b-memory", f"{TUTORIAL} 7B models", "7 billion, mixed precision with Adam",
          "training", 98, 1, "GB", params=7_000_000_000),
    Claim("tutorial-share", f"{TUTORIAL} a scalar engine", "below 1 %: two 16 × 16 weights, r = 2",
          "share", 1, 1, "%", relation="<", matrices=(Matrix(16, 16, 2),), r=2, params=4192),
    Claim("tutorial-7b-share", f"{TUTORIAL} a scalar engine", "LLaMA-7B, q and v at r = 16",
          "share", 0.1, 0.1, "%", matrices=LLAMA_7B_QV, r=16, params=LLAMA_7B),
)  # fmt: skip
