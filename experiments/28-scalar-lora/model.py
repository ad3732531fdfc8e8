"""MiniGPT number by number: the given model of the labs, on scalars.

Source: src/minituner/minigpt.py, whose weights it takes by name. Sizes are the caller's; there is
no batch axis. Leaves out: dropout, a key/value cache. Imports the standard library only.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from engine import Value, dot, frozen, total

Vector = list[Value]
Matrix = list[Vector]  # rows as in torch: a Linear's weight is (out_features, in_features)
EPS = 1e-5  # nn.LayerNorm's


@dataclass(frozen=True)
class Config:
    """Sizes of a model; all are counts but init_std."""

    vocab_size: int = 27
    block_size: int = 16  # the longest sequence, in tokens
    n_layer: int = 1
    n_head: int = 4
    d_model: int = 16
    d_ff: int = 64
    init_std: float = 0.08


@dataclass(frozen=True)
class Adapter:
    """What LoRA puts beside one frozen linear: scaling · B (A x)."""

    A: Matrix  # (r, in_features)
    B: Matrix  # (out_features, r)
    scaling: float  # alpha / r, dimensionless


def matrix(rows: int, columns: int, std: float, rng: random.Random) -> Matrix:
    return [[Value(rng.gauss(0.0, std), True) for _ in range(columns)] for _ in range(rows)]


def vector(size: int, data: float) -> Matrix:
    """A bias or a norm's gain: a matrix of one row, so that all weights are of one kind."""
    return [[Value(data, True) for _ in range(size)]]


def softmax(scores: Sequence[Value]) -> Vector:
    highest = max(score.data for score in scores)  # a constant: it cancels
    powers = [(score - highest).exp() for score in scores]
    scale = total(powers) ** -1
    return [power * scale for power in powers]


def cross_entropy(logits: Sequence[Value], target: int) -> Value:
    """-log of target's probability, by log-sum-exp."""
    highest = max(logit.data for logit in logits)
    return total([(logit - highest).exp() for logit in logits]).log() + highest - logits[target]


class GPT:
    """Pre-norm blocks, learned positions, a head tied to the embedding.

    Args:
        config: the sizes.
        rng: where the weights are drawn from.
    """

    config: Config
    weights: dict[str, Matrix]  # MiniGPT's dotted names; each needs a gradient until frozen
    adapters: dict[str, Adapter]  # by the dotted name of a linear

    def __init__(self, config: Config, rng: random.Random) -> None:
        self.config = config
        d, std = config.d_model, config.init_std
        self.adapters = {}
        self.weights = {
            "tok_emb.weight": matrix(config.vocab_size, d, std, rng),
            "pos_emb.weight": matrix(config.block_size, d, std, rng),
        }
        for i in range(config.n_layer):
            block: dict[str, Matrix] = {"ln1.weight": vector(d, 1.0), "ln1.bias": vector(d, 0.0)}
            for name in "qkvo":
                block[f"attn.{name}_proj.weight"] = matrix(d, d, std, rng)
            block |= {"ln2.weight": vector(d, 1.0), "ln2.bias": vector(d, 0.0)}
            block["mlp.fc1.weight"] = matrix(config.d_ff, d, std, rng)
            block["mlp.fc1.bias"] = vector(config.d_ff, 0.0)
            block["mlp.fc2.weight"] = matrix(d, config.d_ff, std, rng)
            block["mlp.fc2.bias"] = vector(d, 0.0)
            self.weights |= {f"blocks.{i}.{name}": rows for name, rows in block.items()}
        self.weights |= {"ln_f.weight": vector(d, 1.0), "ln_f.bias": vector(d, 0.0)}

    def base(self) -> list[Value]:
        """Every weight that is not an adapter's."""
        return [value for rows in self.weights.values() for row in rows for value in row]

    def factors(self) -> list[Value]:
        """Every entry of every A and B."""
        pairs = [(adapter.A, adapter.B) for adapter in self.adapters.values()]
        return [value for pair in pairs for rows in pair for row in rows for value in row]

    def trainable(self) -> list[Value]:
        return [value for value in (*self.base(), *self.factors()) if value.needs_grad]

    def linears(self) -> list[str]:
        """The dotted names of what can be adapted."""
        ends = ("_proj.weight", ".fc1.weight", ".fc2.weight")
        return [name.removesuffix(".weight") for name in self.weights if name.endswith(ends)]

    def linear(self, name: str, x: Vector) -> Vector:
        """(in_features) -> (out_features), with the adapter of that name where there is one."""
        out = [dot(row, x) for row in self.weights[f"{name}.weight"]]
        if f"{name}.bias" in self.weights:
            [bias] = self.weights[f"{name}.bias"]
            out = [y + b for y, b in zip(out, bias, strict=True)]
        if name in self.adapters:
            adapter = self.adapters[name]
            narrow = [dot(row, x) for row in adapter.A]  # (r)
            update = [dot(row, narrow) * adapter.scaling for row in adapter.B]
            out = [y + u for y, u in zip(out, update, strict=True)]
        return out

    def norm(self, name: str, x: Vector) -> Vector:
        """LayerNorm: (d_model) -> (d_model)."""
        [gain], [bias] = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        mean = total(x) * (1.0 / len(x))
        centred = [value - mean for value in x]
        scale = (dot(centred, centred) * (1.0 / len(x)) + EPS) ** -0.5
        return [c * scale * g + b for c, g, b in zip(centred, gain, bias, strict=True)]

    def attention(self, name: str, xs: Sequence[Vector]) -> list[Vector]:
        """Causal multi-head self-attention: (seq, d_model) -> (seq, d_model)."""
        size = self.config.d_model // self.config.n_head
        q, k, v = ([self.linear(f"{name}.{p}_proj", x) for x in xs] for p in "qkv")
        out = []
        for t in range(len(xs)):
            mixed: Vector = []
            for start in range(0, self.config.d_model, size):
                head = slice(start, start + size)
                query = q[t][head]
                past = range(t + 1)  # a token sees itself and what came before
                scores = [dot(query, k[s][head]) * (1.0 / math.sqrt(size)) for s in past]
                shares = softmax(scores)
                mixed += [dot(shares, [v[s][j] for s in past]) for j in range(start, head.stop)]
            out.append(self.linear(f"{name}.o_proj", mixed))
        return out

    def forward(self, tokens: Sequence[int]) -> list[Vector]:
        """Token ids (seq) -> logits (seq, vocab_size).

        Raises:
            ValueError: seq is longer than block_size.
        """
        if len(tokens) > self.config.block_size:
            limit = self.config.block_size
            raise ValueError(f"tokens: expected at most block_size={limit}, got {len(tokens)}")
        table, places = self.weights["tok_emb.weight"], self.weights["pos_emb.weight"]
        xs = [added(table[token], place) for token, place in zip(tokens, places, strict=False)]
        for i in range(self.config.n_layer):
            name = f"blocks.{i}"
            attended = self.attention(f"{name}.attn", [self.norm(f"{name}.ln1", x) for x in xs])
            xs = [added(x, a) for x, a in zip(xs, attended, strict=True)]
            for t, x in enumerate(xs):
                wide = self.linear(f"{name}.mlp.fc1", self.norm(f"{name}.ln2", x))
                wide = [value.gelu() for value in wide]  # (d_ff)
                xs[t] = added(x, self.linear(f"{name}.mlp.fc2", wide))
        lasts = [self.norm("ln_f", x) for x in xs]
        return [[dot(row, last) for row in table] for last in lasts]

    def losses(self, tokens: Sequence[int]) -> Vector:
        """The cross-entropy of each next token: (seq) -> (seq - 1)."""
        rows = self.forward(tokens[:-1])
        return [cross_entropy(row, target) for row, target in zip(rows, tokens[1:], strict=True)]

    def sample(self, end: int, temperature: float, rng: random.Random) -> list[int]:
        """Tokens drawn one by one after end, until end comes again or the block is full."""
        tokens = [end]
        with frozen(self.trainable()):
            while len(tokens) <= self.config.block_size:
                last = self.forward(tokens)[-1]
                chances = [p.data for p in softmax([logit * (1.0 / temperature) for logit in last])]
                [token] = rng.choices(range(len(chances)), chances)
                if token == end:
                    break
                tokens.append(token)
        return tokens[1:]


def added(xs: Sequence[Value], ys: Sequence[Value]) -> Vector:
    return [x + y for x, y in zip(xs, ys, strict=True)]
