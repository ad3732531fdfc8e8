"""The folder experiments/28-scalar-lora for its tests, and its model once more, in torch.

The twin is written from the formulas and shares no code with the folder; float64 throughout.
Leaves out: batches; a loss is the mean over the tokens of several sequences, one by one.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minituner.grading.registry import ROOT

FOLDER = ROOT / "experiments/28-scalar-lora"
PARTS = ("engine", "model", "lora", "train", "names")
SIZES = {"vocab_size": 11, "block_size": 8, "n_layer": 2, "n_head": 2, "d_model": 6, "d_ff": 10}
R, ALPHA, TARGETS = 2, 3.0, ("q_proj", "v_proj", "mlp.fc2")
BATCH = [[10, 3, 1, 4, 1, 5, 10], [10, 2, 6, 10]]
Gradients = dict[str, Tensor]


class Scalar(NamedTuple):
    """The folder's modules; their names are common, so they are not left in sys.modules."""

    engine: Any
    model: Any
    lora: Any
    train: Any
    names: Any


def load() -> Scalar:
    own: dict[str, ModuleType] = {n: sys.modules.pop(n) for n in PARTS if n in sys.modules}
    path = list(sys.path)
    sys.path.insert(0, str(FOLDER))
    try:
        return Scalar(*(import_module(name) for name in PARTS))
    finally:
        sys.path[:] = path
        for name in PARTS:
            sys.modules.pop(name, None)
        sys.modules.update(own)


S = load()
Value = S.engine.Value


def leaf(data: float) -> Any:
    return Value(data, needs_grad=True)


def scalar_model(*, adapted: bool) -> Any:
    """A small model whose norms, biases and B are not at their start: every gradient counts."""
    rng = random.Random(random.random())
    model = S.model.GPT(S.model.Config(**SIZES, init_std=0.3), rng)
    if adapted:
        S.lora.add_adapters(model, R, ALPHA, TARGETS, rng)
    for value in (*model.base(), *model.factors()):
        value.data += rng.gauss(0.0, 0.1)
    return model


def tensor(rows: Any) -> Tensor:
    return torch.tensor([[v.data for v in row] for row in rows], dtype=torch.float64)


def grads(rows: Any) -> Tensor:
    return torch.tensor([[v.grad for v in row] for row in rows], dtype=torch.float64)


def scalar_grads(model: Any) -> Gradients:
    """Gradients by name of whatever model trains."""
    found = {n: grads(rows) for n, rows in model.weights.items() if rows[0][0].needs_grad}
    for name, adapter in model.adapters.items():
        found |= {f"{name}.lora_A": grads(adapter.A), f"{name}.lora_B": grads(adapter.B)}
    return found


class Twin:
    """The same model in torch, from the formulas: functional calls on a dictionary of tensors."""

    def __init__(self, model: Any) -> None:
        self.tensors = {name: tensor(rows) for name, rows in model.weights.items()}
        factors: Gradients = {}
        for name, adapter in model.adapters.items():
            factors |= {f"{name}.lora_A": tensor(adapter.A), f"{name}.lora_B": tensor(adapter.B)}
        self.trained = factors or dict(self.tensors)
        self.tensors |= factors
        for one in self.trained.values():
            one.requires_grad_()

    def linear(self, name: str, x: Tensor) -> Tensor:
        bias = self.tensors.get(f"{name}.bias")
        out = F.linear(x, self.tensors[f"{name}.weight"], None if bias is None else bias[0])
        if f"{name}.lora_A" in self.tensors:
            a, b = self.tensors[f"{name}.lora_A"], self.tensors[f"{name}.lora_B"]
            out = out + (ALPHA / R) * (x @ a.T @ b.T)
        return out

    def norm(self, name: str, x: Tensor) -> Tensor:
        gain, bias = self.tensors[f"{name}.weight"][0], self.tensors[f"{name}.bias"][0]
        return F.layer_norm(x, x.shape[-1:], gain, bias)

    def heads(self, x: Tensor) -> Tensor:
        """(seq, d_model) -> (1, head, seq, d_head)."""
        return x.view(1, len(x), SIZES["n_head"], -1).transpose(1, 2)

    def logits(self, tokens: Sequence[int]) -> Tensor:
        """(seq) -> (seq, vocab_size)."""
        ids, table = torch.tensor(tokens), self.tensors["tok_emb.weight"]
        x = table[ids] + self.tensors["pos_emb.weight"][: len(tokens)]
        for block in (f"blocks.{i}" for i in range(SIZES["n_layer"])):
            h = self.norm(f"{block}.ln1", x)
            q, k, v = (self.heads(self.linear(f"{block}.attn.{p}_proj", h)) for p in "qkv")
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            mixed = mixed[0].transpose(0, 1).flatten(-2)
            x = x + self.linear(f"{block}.attn.o_proj", mixed)
            wide = F.gelu(self.linear(f"{block}.mlp.fc1", self.norm(f"{block}.ln2", x)))
            x = x + self.linear(f"{block}.mlp.fc2", wide)
        return self.norm("ln_f", x) @ table.T

    def loss(self, batch: Sequence[Sequence[int]]) -> Tensor:
        """The mean over all tokens of the batch."""
        rows = torch.cat([self.logits(tokens[:-1]) for tokens in batch])
        return F.cross_entropy(rows, torch.tensor([t for tokens in batch for t in tokens[1:]]))

    def grads(self, batch: Sequence[Sequence[int]]) -> Gradients:
        values = torch.autograd.grad(self.loss(batch), list(self.trained.values()))
        return dict(zip(self.trained, values, strict=True))


def mean_loss(model: Any, batch: Sequence[Sequence[int]]) -> Any:
    losses = [loss for tokens in batch for loss in model.losses(tokens)]
    return S.engine.total(losses) * (1.0 / len(losses))


def same(got: Gradients, want: Gradients, within: float = 1e-9) -> None:
    """The same names, and no number further apart than within."""
    assert got.keys() == want.keys()
    gaps = {
        name: float((got[name] - one.view_as(got[name])).abs().max()) for name, one in want.items()
    }
    worst = max(gaps, key=lambda name: gaps[name])
    assert gaps[worst] <= within, f"{worst}: {gaps[worst]:.1e} apart"
    assert all(bool(one.count_nonzero()) for one in want.values()), (
        "a gradient of zeros says nothing"
    )
