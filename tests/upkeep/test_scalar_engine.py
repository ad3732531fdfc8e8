"""The scalar engine of experiments/28-scalar-lora: each operation and the walk backwards.

Oracles: torch in float64, and numbers done by hand. Leaves out: the model; test_scalar_lora.py.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scalar import S, Value, leaf
from torch import Tensor


def test_a_worked_example() -> None:
    """f = (x y + x)² at x = 2, y = 3: f = 64, df/dx = 2·8·(3 + 1) = 64, df/dy = 2·8·2 = 32."""
    x, y = leaf(2.0), leaf(3.0)
    f = (x * y + x) ** 2
    f.backward()
    assert (f.data, x.grad, y.grad) == (64.0, 64.0, 32.0)


OPERATIONS: dict[str, tuple[Callable[[Any, Any], Any], Callable[[Tensor, Tensor], Tensor]]] = {
    "add": (lambda x, y: x + y + 2.0 + (3.0 + x), lambda x, y: x + y + 2.0 + (3.0 + x)),
    "sub": (lambda x, y: x - y - 2.0 + (3.0 - x) * y, lambda x, y: x - y - 2.0 + (3.0 - x) * y),
    "mul": (lambda x, y: 2.0 * x * y * x * 3.0, lambda x, y: 2.0 * x * y * x * 3.0),
    "div": (lambda x, y: x / y + 2.0 / x + y / 4.0, lambda x, y: x / y + 2.0 / x + y / 4.0),
    "pow": (lambda x, y: x**3 * y**-0.5, lambda x, y: x**3 * y**-0.5),
    "neg": (lambda x, y: -x * y, lambda x, y: -x * y),
    "exp": (lambda x, y: (x * y).exp(), lambda x, y: (x * y).exp()),
    "log": (lambda x, y: (x * y).log(), lambda x, y: (x * y).log()),
    "tanh": (lambda x, y: (x - y).tanh(), lambda x, y: (x - y).tanh()),
    "relu": (
        lambda x, y: (x - y).relu() + (y - x).relu() * 2,
        lambda x, y: (x - y).relu() + (y - x).relu() * 2,
    ),
    "gelu": (lambda x, y: (x - y).gelu() * y, lambda x, y: F.gelu(x - y) * y),
    "dot": (lambda x, y: S.engine.dot([x, y, x], [y, y, x]), lambda x, y: x * y + y * y + x * x),
    "total": (lambda x, y: S.engine.total([x, y, x]) * x, lambda x, y: (x + y + x) * x),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_equals_torchs(name: str) -> None:
    """Value and both slopes of each operation, a number on either side, to 1e-12."""
    ours, theirs = OPERATIONS[name]
    a, b = random.uniform(0.5, 2.0), random.uniform(0.5, 2.0)
    x, y = leaf(a), leaf(b)
    out = ours(x, y)
    out.backward()
    s = torch.tensor(a, dtype=torch.float64, requires_grad=True)
    t = torch.tensor(b, dtype=torch.float64, requires_grad=True)
    want = theirs(s, t)
    slopes = torch.autograd.grad(want, (s, t))
    got = (out.data, x.grad, y.grad)
    assert got == pytest.approx((want.item(), *(slope.item() for slope in slopes)), rel=1e-12)


def test_known_slopes() -> None:
    """tanh' 0 = 1, relu' at ±1 and at 0, exp' 0 = 1, log' 2 = 1/2, gelu' 0 = 1/2."""
    for operation, at, slope in (
        ("tanh", 0.0, 1.0),
        ("relu", 1.0, 1.0),
        ("relu", -1.0, 0.0),
        ("relu", 0.0, 0.0),
        ("exp", 0.0, 1.0),
        ("log", 2.0, 0.5),
        ("gelu", 0.0, 0.5),
    ):
        x = leaf(at)
        getattr(x, operation)().backward()
        assert x.grad == slope, (operation, at)


def test_a_deep_chain_does_not_overflow() -> None:
    """A chain of 10 000 values, far beyond the recursion limit; each doubling adds its slope."""
    x = leaf(1.0)
    y = x
    for _ in range(10_000):
        y = y + x
    y.backward()
    assert sys.getrecursionlimit() < 10_000
    assert (y.data, x.grad) == (10_001.0, 10_001.0)


def test_shared_values_are_counted_once_each_way() -> None:
    """Thirty squarings of 1: each value has two edges to the one before, 2³⁰ paths, 30 steps."""
    x = leaf(1.0)
    y = x
    for _ in range(30):
        y = y * y
    y.backward()
    assert x.grad == 2.0**30
    assert len(S.engine.topological(y)) == 30


def test_backward_adds_to_leaves_as_torch_does() -> None:
    """A second call on the same graph doubles the leaves' gradients and nothing more."""
    x = leaf(3.0)
    y = (x * x).exp().log()
    y.backward()
    first = x.grad
    y.backward()
    assert first == pytest.approx(6.0)
    assert x.grad == 2 * first


def test_a_constant_has_no_backward() -> None:
    """backward on what nothing needs a gradient of is an error, as in torch."""
    with pytest.raises(ValueError, match="needs a gradient"):
        (Value(1.0) * Value(2.0)).backward()


def test_frozen_builds_no_graph_and_thaws() -> None:
    """Within frozen no edge is kept; afterwards, and after an error, all is as before."""
    x, y = leaf(2.0), Value(3.0)
    with S.engine.frozen([x, y]):
        out = x * y
    assert not out.needs_grad and not out.parents
    with pytest.raises(KeyError), S.engine.frozen([x, y]):
        raise KeyError
    assert x.needs_grad and not y.needs_grad


def test_no_edge_leads_to_what_needs_no_gradient() -> None:
    """A product with a frozen number keeps one edge; the frozen number's grad is never written."""
    x, w = leaf(2.0), Value(5.0)
    w.grad = 123.0
    y = S.engine.dot([x, w], [w, w]) + w
    y.backward()
    assert [len(value.parents) for value in S.engine.topological(y)] == [1, 1]
    assert (x.grad, w.grad) == (5.0, 123.0)
