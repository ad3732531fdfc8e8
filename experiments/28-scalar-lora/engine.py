"""Reverse-mode automatic differentiation of scalars: a number that remembers how it was made.

Source: Rumelhart, Hinton and Williams 1986; the shape of the class is micrograd's (Karpathy 2020).
Leaves out: tensors, second derivatives, in-place changes. Imports the standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import compress
from operator import mul


class Value:
    """One float, and an edge to each number it came from that needs a gradient.

    Only such edges are kept: below a frozen weight there is no graph, so nothing can reach it.
    """

    __slots__ = ("data", "grad", "needs_grad", "parents", "slopes")

    data: float
    grad: float  # d root / d data, summed over the calls of backward
    needs_grad: bool  # torch's requires_grad
    parents: tuple[Value, ...]
    slopes: tuple[float, ...]  # d data / d parent, one a parent

    def __init__(self, data: float, needs_grad: bool = False) -> None:
        self.data = data
        self.grad = 0.0
        self.needs_grad = needs_grad
        self.parents = ()
        self.slopes = ()

    def __repr__(self) -> str:
        return f"Value({self.data:.6g}, grad={self.grad:.6g})"

    def __add__(self, other: Value | float) -> Value:
        if isinstance(other, Value):
            return made(self.data + other.data, (self, other), (1.0, 1.0))
        return made(self.data + other, (self,), (1.0,))

    def __sub__(self, other: Value | float) -> Value:
        if isinstance(other, Value):
            return made(self.data - other.data, (self, other), (1.0, -1.0))
        return made(self.data - other, (self,), (1.0,))

    def __mul__(self, other: Value | float) -> Value:
        if isinstance(other, Value):
            return made(self.data * other.data, (self, other), (other.data, self.data))
        return made(self.data * other, (self,), (other,))

    def __pow__(self, exponent: float) -> Value:
        slope = exponent * self.data ** (exponent - 1)
        return made(self.data**exponent, (self,), (slope,))

    def __truediv__(self, other: Value | float) -> Value:
        return self * (other**-1)

    def __neg__(self) -> Value:
        return self * -1.0

    def __radd__(self, other: float) -> Value:
        return self + other

    def __rsub__(self, other: float) -> Value:
        return made(other - self.data, (self,), (-1.0,))

    def __rmul__(self, other: float) -> Value:
        return self * other

    def __rtruediv__(self, other: float) -> Value:
        return self**-1 * other

    def exp(self) -> Value:
        power = math.exp(self.data)
        return made(power, (self,), (power,))

    def log(self) -> Value:
        return made(math.log(self.data), (self,), (1.0 / self.data,))

    def tanh(self) -> Value:
        out = math.tanh(self.data)
        return made(out, (self,), (1.0 - out * out,))

    def relu(self) -> Value:
        return made(max(self.data, 0.0), (self,), (float(self.data > 0),))

    def gelu(self) -> Value:
        """x Φ(x), with Φ the normal distribution (Hendrycks and Gimpel 2016, arXiv:1606.08415)."""
        x = self.data
        below = 0.5 * (1.0 + math.erf(x / math.sqrt(2.0)))  # Φ(x)
        density = math.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
        return made(x * below, (self,), (below + x * density,))

    def backward(self) -> None:
        """Add d self / d leaf to the grad of every leaf that needs one.

        Raises:
            ValueError: self needs no gradient, because nothing it was made from does.
        """
        if not self.needs_grad:
            raise ValueError("backward: expected a value that needs a gradient, got a constant")
        order = topological(self)
        for value in order:
            value.grad = 0.0  # left by an earlier call; the leaves keep theirs, as in torch
        self.grad += 1.0
        for value in reversed(order):
            grad = value.grad
            for parent, slope in zip(value.parents, value.slopes, strict=True):
                parent.grad += slope * grad


def made(data: float, parents: tuple[Value, ...], slopes: tuple[float, ...]) -> Value:
    """A value made from parents; the edges to those that need no gradient are dropped."""
    out = Value(data)
    needed = [parent.needs_grad for parent in parents]
    if True in needed:
        out.needs_grad = True
        if False in needed:
            parents, slopes = tuple(compress(parents, needed)), tuple(compress(slopes, needed))
        out.parents, out.slopes = parents, slopes
    return out


def total(xs: Sequence[Value]) -> Value:
    """x_0 + x_1 + … as one value instead of a chain of +."""
    return made(sum(x.data for x in xs), tuple(xs), (1.0,) * len(xs))


def dot(xs: Sequence[Value], ys: Sequence[Value]) -> Value:
    """x_0 y_0 + x_1 y_1 + … as one value: most of a model's arithmetic is this."""
    left, right = [x.data for x in xs], [y.data for y in ys]
    return made(sum(map(mul, left, right)), (*xs, *ys), (*right, *left))


def topological(root: Value) -> list[Value]:
    """Every value that root was made from, parents first; not the leaves.

    A stack of our own in place of recursion: a sum of 10 000 terms is 10 000 calls deep.
    """
    order: list[Value] = []
    seen = {root}
    stack: list[tuple[Value, Iterator[Value]]] = [(root, iter(root.parents))]
    while stack:
        value, parents = stack[-1]
        for parent in parents:
            if parent.parents and parent not in seen:
                seen.add(parent)
                stack.append((parent, iter(parent.parents)))
                break
        else:
            stack.pop()
            if value.parents:
                order.append(value)
    return order


@contextmanager
def frozen(leaves: Iterable[Value]) -> Iterator[None]:
    """Within, none of the leaves needs a gradient: no graph grows, as under torch.no_grad."""
    thawed = [leaf for leaf in leaves if leaf.needs_grad]
    for leaf in thawed:
        leaf.needs_grad = False
    try:
        yield
    finally:
        for leaf in thawed:
            leaf.needs_grad = True
