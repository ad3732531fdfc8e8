"""LoRA layers there, and what they should compute here: shared by the checks of lab 00 and later.

Source: Hu et al. 2021 §4.1. The oracle is x (W + s B A)ᵀ + b in float64, from the judge's values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from minituner.grading.checks.asking import Asking, Base
from minituner.grading.expr import Expr

SCALES = (0.75, 1.5, 2.75)


@dataclass(frozen=True)
class Layer:
    """A LoRALinear there, and its values here."""

    it: Expr
    base: Base
    A: Tensor  # (r, in)
    B: Tensor  # (out, r)
    r: int
    alpha: float
    scale: float

    @property
    def dense(self) -> Tensor:
        """W + s B A in float64."""
        update = self.B.double() @ self.A.double()
        return self.base.weight.double() + self.scale * update

    def out(self, x: Tensor) -> Tensor:
        """x (W + s B A)ᵀ + b in float64."""
        y = x.double() @ self.dense.T
        return y if self.base.bias is None else y + self.base.bias.double()


def new(ask: Asking, base: Expr, **options: object) -> Expr:
    """LoRALinear(base, …) there."""
    return ask.w.keep(ask.star("LoRALinear")(base, **options))


def trained(
    ask: Asking,
    *,
    dropout: float = 0.0,
    bias: bool = True,
    dtype: str = "float64",
    base: Base | None = None,
    scale: float | None = None,
) -> Layer:
    """A layer whose A and B hold values of the judge's, of training size."""
    r = ask.rng.choice((2, 3))
    scale = ask.rng.choice(SCALES) if scale is None else scale
    base = base or ask.linear(bias=bias, dtype=dtype)
    it = new(ask, base.it, r=r, alpha=r * scale, dropout=dropout)
    d_out, d_in = base.sizes
    A, B = ask.randn(r, d_in, dtype=dtype), ask.randn(d_out, r, dtype=dtype) / 2
    ask.w.do(ask.kit.fill(it, A, B))
    return Layer(it, base, A, B, r, r * scale, scale)


def worked(ask: Asking) -> Layer:
    """Small whole numbers, three outputs, four inputs: exact in float32, in any order."""
    base = ask.linear((3, 4), dtype="float32", whole=True)
    it = new(ask, base.it, r=2, alpha=3.0)
    A, B = ask.whole(3, 2, 4, dtype="float32"), ask.whole(3, 3, 2, dtype="float32")
    A[0, 0], B[0, 0] = 2, 3  # neither may come out as zero
    ask.w.do(ask.kit.fill(it, A, B))
    return Layer(it, base, A, B, 2, 3.0, 1.5)


def factors(ask: Asking, layer: Expr) -> tuple[Tensor, Tensor]:
    """A and B as they are there."""
    pair = ask.w.ask((layer.lora_A, layer.lora_B))
    ask.see("tensors", [isinstance(value, Tensor) for value in pair], [True, True])
    return pair[0], pair[1]


def learns(ask: Asking, *params: Expr) -> list[Any]:
    """Whether each is learnt, by what torch says of a sum over it: not by a word of its own."""
    found: list[Any] = ask.w.ask([ask.torch.sum(param).requires_grad for param in params])
    return found


def size(row: list[Any]) -> int:
    """Entries of the parameter that a row of kit.params describes."""
    return math.prod(row[1])


def trainable(ask: Asking, model: Expr) -> set[str]:
    """The names of what requires grad."""
    return all_trainable(ask, [model])[0]


def all_trainable(ask: Asking, models: Sequence[Expr]) -> list[set[str]]:
    """The same for several, in one question."""
    found = ask.w.ask([ask.kit.params(model) for model in models])
    return [{row[0] for row in rows if row[4]} for rows in found]
