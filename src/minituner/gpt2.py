"""GPT-2 as Hugging Face lays it out: the same names and shapes, and Conv1D. Given: read it.

Source: Radford et al. 2019; the names are those of transformers' GPT2LMHeadModel. Leaves out:
dropout, a key/value cache, generation. GPT-2 small has 124,439,808 parameters; hollow_gpt2 has as
many and no memory for them.

Dotted names of the projections, each a Conv1D:
    transformer.h.<i>.attn.c_attn  attn.c_proj     (768 -> 2304, 768 -> 768 in GPT-2 small)
    transformer.h.<i>.mlp.c_fc     mlp.c_proj      (768 -> 3072, 3072 -> 768)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Conv1D(nn.Module):
    """y = x W + b: an nn.Linear whose weight is stored the other way round.

    transformers has a class of this name and these attributes, and yours must take either: ask
    `is_conv1d`, not isinstance.
    """

    weight: nn.Parameter  # (in_features, out_features)
    bias: nn.Parameter  # (out_features,)
    nf: int  # out_features

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.empty(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return x @ self.weight + self.bias


def is_conv1d(module: object) -> TypeGuard[Conv1D]:
    """Whether it is a Conv1D, this file's or transformers' own."""
    named = any(kind.__name__ == "Conv1D" for kind in type(module).__mro__)
    return named and isinstance(module, nn.Module) and isinstance(getattr(module, "nf", None), int)


@dataclass(frozen=True)
class GPT2Config:
    """Sizes of a GPT-2, under transformers' names; those of GPT-2 small by default."""

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12


class Attention(nn.Module):
    """Causal multi-head self-attention; q, k and v come out of one Conv1D."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.c_attn = Conv1D(3 * config.n_embd, config.n_embd)
        self.c_proj = Conv1D(config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, seq, n_embd) -> (batch, seq, n_embd)."""
        q, k, v = (
            part.unflatten(-1, (self.n_head, -1)).transpose(1, 2)  # (batch, head, seq, d_head)
            for part in self.c_attn(x).chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.c_proj(mixed.transpose(1, 2).flatten(-2))
        return out


class MLP(nn.Module):
    """Two Conv1Ds with a GELU (its tanh form) between."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.c_fc = Conv1D(4 * config.n_embd, config.n_embd)
        self.c_proj = Conv1D(config.n_embd, 4 * config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, seq, n_embd) -> (batch, seq, n_embd)."""
        out: Tensor = self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))
        return out


class Block(nn.Module):
    """x + attention, then x + MLP, each behind a LayerNorm (pre-norm)."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, seq, n_embd) -> (batch, seq, n_embd)."""
        x = x + self.attn(self.ln_1(x))
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class Transformer(nn.Module):
    """Everything but the head."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids (batch, seq) -> (batch, seq, n_embd)."""
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[-1], device=tokens.device))
        for block in self.h:
            x = block(x)
        out: Tensor = self.ln_f(x)
        return out


class GPT2(nn.Module):
    """GPT-2 with random weights; its head is tied to the token embedding."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.transformer = Transformer(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        for embedding in (self.transformer.wte, self.transformer.wpe):
            nn.init.normal_(embedding.weight, std=0.02)
        self.lm_head.weight = self.transformer.wte.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids (batch, seq) -> logits (batch, seq, vocab_size)."""
        logits: Tensor = self.lm_head(self.transformer(tokens))
        return logits


def hollow_gpt2() -> GPT2:
    """GPT-2 small in full size and without memory: each weight is one zero, seen many times.

    It can be wrapped and counted, and what is made beside its weights is real. It computes nothing.
    """
    small = GPT2Config(vocab_size=5, n_positions=7, n_embd=12)
    full = {5: 50257, 7: 1024, 12: 768, 36: 2304, 48: 3072}  # a size here: its size in GPT-2 small
    model = GPT2(small)
    for module in model.modules():
        for name, param in list(module.named_parameters(recurse=False)):
            shape = [full[size] for size in param.shape]
            setattr(module, name, nn.Parameter(torch.zeros(()).expand(shape)))
        if is_conv1d(module):
            module.nf = full[module.nf]
    model.lm_head.weight = model.transformer.wte.weight
    return model
