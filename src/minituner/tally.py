"""What counts.py counts in: shapes, parameters, bytes, verdicts.

Leaves out: every formula; those are yours to write. You are given this file; read it.
"""

from __future__ import annotations

from dataclasses import dataclass

from minituner.published import Claim


@dataclass(frozen=True)
class LinearShape:
    """One nn.Linear of a model, under its dotted name."""

    name: str
    in_features: int
    out_features: int
    bias: bool


@dataclass(frozen=True)
class ParamCount:
    """Parameters, each counted once."""

    trainable: int
    frozen: int

    @property
    def total(self) -> int:
        return self.trainable + self.frozen


@dataclass(frozen=True)
class Memory:
    """Bytes of training, in the four places they go; two of them add up."""

    weights: int = 0
    gradients: int = 0
    optimizer: int = 0  # what it keeps: Adam's moments, and in mixed precision the float32 copy
    activations: int = 0  # kept by the forward pass for the backward pass

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations

    def __add__(self, other: Memory) -> Memory:
        return Memory(
            self.weights + other.weights,
            self.gradients + other.gradients,
            self.optimizer + other.optimizer,
            self.activations + other.activations,
        )


@dataclass(frozen=True)
class Verdict:
    """What a claim's figure should have been, in the claim's own unit, and whether it holds."""

    claim: Claim
    truth: float
    holds: bool


def require(least: int, **given: int) -> None:
    """Refuse a number that is too small, by its name: require(1, r=r).

    Raises:
        ValueError: one of them is below least.
    """
    for name, value in given.items():
        if value < least:
            raise ValueError(f"{name}: expected at least {least}, got {value}")
