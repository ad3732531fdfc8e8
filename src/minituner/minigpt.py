"""A small GPT to adapt: pre-norm blocks, learned positions, a head tied to the embedding.

Source: Radford et al. 2019 (GPT-2), with separate q, k and v projections so that each can be a
target. Leaves out: dropout, a key/value cache, padding masks. You are given this file; read it.

Dotted names of the linears:
    blocks.<i>.attn.q_proj  k_proj  v_proj  o_proj     (d_model -> d_model, no bias)
    blocks.<i>.mlp.fc1      blocks.<i>.mlp.fc2         (d_model -> d_ff -> d_model, bias)
    lm_head                                            (d_model -> vocab_size, no bias)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class MiniGPTConfig:
    """Sizes of a MiniGPT; all are counts.

    Raises:
        ValueError: a size below 1, or n_head that does not divide d_model.
    """

    vocab_size: int = 65
    block_size: int = 64  # the longest sequence, in tokens
    n_layer: int = 4
    n_head: int = 4
    d_model: int = 64
    d_ff: int = 256
    tie_head: bool = True  # lm_head.weight is tok_emb.weight

    def __post_init__(self) -> None:
        for name in ("vocab_size", "block_size", "n_layer", "n_head", "d_model", "d_ff"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.d_model % self.n_head:
            raise ValueError(
                f"n_head: expected a divisor of d_model={self.d_model}, got {self.n_head}"
            )


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, config: MiniGPTConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.q_proj = nn.Linear(config.d_model, config.d_model, bias=False)
        self.k_proj = nn.Linear(config.d_model, config.d_model, bias=False)
        self.v_proj = nn.Linear(config.d_model, config.d_model, bias=False)
        self.o_proj = nn.Linear(config.d_model, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, seq, d_model) -> (batch, seq, d_model)."""
        q, k, v = (
            proj(x).unflatten(-1, (self.n_head, -1)).transpose(1, 2)  # (batch, head, seq, d_head)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(-2))
        return out


class MLP(nn.Module):
    """Two linears with a GELU between."""

    def __init__(self, config: MiniGPTConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.d_model, config.d_ff)
        self.fc2 = nn.Linear(config.d_ff, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, seq, d_model) -> (batch, seq, d_model)."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    """x + attention, then x + MLP, each behind a LayerNorm (pre-norm)."""

    def __init__(self, config: MiniGPTConfig) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(config.d_model)
        self.attn = Attention(config)
        self.ln2 = nn.LayerNorm(config.d_model)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, seq, d_model) -> (batch, seq, d_model)."""
        x = x + self.attn(self.ln1(x))
        out: Tensor = x + self.mlp(self.ln2(x))
        return out


class MiniGPT(nn.Module):
    """The model the labs adapt; its sizes are MiniGPTConfig's."""

    def __init__(self, config: MiniGPTConfig) -> None:
        super().__init__()
        self.config = config
        self.tok_emb = nn.Embedding(config.vocab_size, config.d_model)
        self.pos_emb = nn.Embedding(config.block_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.d_model)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        if config.tie_head:
            self.lm_head.weight = self.tok_emb.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids (batch, seq) -> logits (batch, seq, vocab_size).

        Raises:
            ValueError: seq is longer than block_size.
        """
        seq = tokens.shape[-1]
        if seq > self.config.block_size:
            raise ValueError(
                f"tokens: expected at most block_size={self.config.block_size} a row, got {seq}"
            )
        x = self.tok_emb(tokens) + self.pos_emb(torch.arange(seq, device=tokens.device))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.lm_head(self.ln_f(x))
        return logits

    @torch.no_grad()
    def generate(
        self,
        tokens: Tensor,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Append sampled tokens: (batch, seq) -> (batch, seq + max_new_tokens).

        Args:
            temperature: 0 takes the likeliest token; otherwise logits are divided by it.
            top_p: sample from the smallest set of tokens whose probability reaches top_p
                (Holtzman et al. 2020, arXiv:1904.09751 §3.1); the likeliest token always stays.

        Raises:
            ValueError: temperature below 0 or top_p outside (0, 1].
        """
        if temperature < 0:
            raise ValueError(f"temperature: expected at least 0, got {temperature}")
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p: expected a number in (0, 1], got {top_p}")
        for _ in range(max_new_tokens):
            logits = self(tokens[:, -self.config.block_size :])[:, -1]  # (batch, vocab_size)
            if temperature == 0:
                chosen = logits.argmax(dim=-1, keepdim=True)
            else:
                probs, ids = (logits / temperature).softmax(dim=-1).sort(dim=-1, descending=True)
                before = probs.cumsum(dim=-1) - probs  # the mass of all likelier tokens
                probs = probs.masked_fill(before >= top_p, 0.0)
                chosen = ids.gather(-1, torch.multinomial(probs, 1, generator=generator))
            tokens = torch.cat((tokens, chosen), dim=-1)
        return tokens
