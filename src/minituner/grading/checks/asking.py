"""What a check works with: a worker, fresh values from a secret seed, and float64 closed forms.

The judge draws every weight and input itself and sends it, so no reply is needed to know the right
answer. Leaves out: the claims (lab00.py …) and the verdict (exam.py).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from minituner.grading.expr import Expr, name
from minituner.grading.peer import Odd, Peer
from minituner.grading.talk import Exchange, Talk
from minituner.messages import tells

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}
CONSONANTS = "bcdfghjkmnpstvwxz"


Words = tuple[str | float, ...]  # what a message has to say: as it stands, or as a number


class Wrong(Exception):
    """A claim that does not hold: what was measured, what was expected, which of its causes."""

    def __init__(self, measured: str, expected: str, nth: int) -> None:
        super().__init__(measured)
        self.measured, self.expected, self.nth = measured, expected, nth


@dataclass(frozen=True)
class Base:
    """An nn.Linear there, and its values here."""

    it: Expr
    weight: Tensor  # (out, in)
    bias: Tensor | None  # (out,)

    @property
    def sizes(self) -> tuple[int, int]:
        """(out, in)."""
        return self.weight.shape[0], self.weight.shape[1]

    def out(self, x: Tensor) -> Tensor:
        """x Wᵀ + b in float64."""
        y = x.double() @ self.weight.double().T
        return y if self.bias is None else y + self.bias.double()


class Asking:
    """One check's tools.

    Args:
        worker: with the submission loaded.
        module: its module's name, minituner.lora.
        seed: draws every shape and value of this check.
        another: a fresh worker with the same submission.
        exchange: how a frame reaches the worker (Talk).
    """

    def __init__(
        self,
        worker: Peer,
        module: str,
        seed: int,
        another: Callable[[], Peer],
        exchange: Exchange | None = None,
    ) -> None:
        self.module, self._another = module, another
        self.rng = random.Random(seed)
        self.torch_rng = torch.Generator().manual_seed(seed)
        self.w = Talk(worker, exchange, self.rng)
        self.kit, self.nn, self.torch = self.w.kit, self.w.nn, self.w.torch

    def another(self) -> Talk:
        """A talk with a fresh worker."""
        return Talk(self._another(), seeds=self.rng)

    def star(self, what: str) -> Expr:
        """A class or function of the submission."""
        return name(f"{self.module}.{what}")

    def given(self, what: str) -> Expr:
        """A class or function of a module the lab gives, for example minigpt.MiniGPT."""
        return name(f"minituner.{what}")

    # --- values ---

    def randn(self, *shape: int, dtype: str = "float64") -> Tensor:
        drawn = torch.randn(shape, generator=self.torch_rng, dtype=torch.float64)
        return drawn if dtype == "float64" else drawn.to(DTYPES[dtype])

    def whole(self, most: int, *shape: int, dtype: str = "float64") -> Tensor:
        """Integers in ±most, as floats: small ones are exact in any order of summation."""
        drawn = torch.randint(-most, most + 1, shape, generator=self.torch_rng)
        return drawn.to(DTYPES[dtype])

    def linear(
        self,
        sizes: tuple[int, int] | None = None,
        *,
        bias: bool = True,
        dtype: str = "float64",
        whole: bool = False,
    ) -> Base:
        """An nn.Linear (out, in), out ≠ in, with values of the judge's."""
        d_in = self.rng.randint(7, 11)
        d_out, d_in = sizes or (d_in + self.rng.choice((-2, -1, 1, 2)), d_in)
        draw = partial(self.whole, 8, dtype=dtype) if whole else self._uniform(d_in, dtype)
        weight, offset = draw(d_out, d_in), draw(d_out) if bias else None
        it = self.w.keep(self.kit.linear(weight, offset))
        return Base(it, weight, offset)

    def _uniform(self, d_in: int, dtype: str) -> Callable[..., Tensor]:
        """As nn.Linear itself draws: U(±1/√in)."""
        most = d_in**-0.5

        def draw(*shape: int) -> Tensor:
            drawn = torch.empty(shape, dtype=torch.float64)
            drawn.uniform_(-most, most, generator=self.torch_rng)
            return drawn if dtype == "float64" else drawn.to(DTYPES[dtype])

        return draw

    def put(self, target: Expr, value: Tensor) -> None:
        self.w.do(self.kit.put(target, value))

    # --- claims ---

    def see(self, what: str, got: object, want: object, nth: int = 0) -> None:
        """The two are equal, types of containers and of floats included.

        Args:
            nth: which explain() of the contract's test says the cause.
        """
        if type(got) is not type(want) or got != want:
            raise Wrong(f"{what} = {shown(got)}", shown(want), nth)

    def hold(self, claim: bool, measured: str, expected: str, nth: int = 0) -> None:
        if not claim:
            raise Wrong(measured, expected, nth)

    def near(self, what: str, got: object, want: Tensor, most: float, nth: int = 0) -> None:
        """max|got - want| ≤ most (0.0: to the bit), of the same shape."""
        off = gap(got, want)
        if not off <= most:
            raise Wrong(f"max|{what}| = {off:.3g}", f"≤ {most:g}", nth)

    def refuses(
        self, what: str, thing: Expr, words: Words, kinds: tuple[str, ...], nth: int = 0
    ) -> None:
        """It raises one of these kinds, with each of the words and numbers in its message."""
        self.all_refused([(what, thing, words)], kinds, nth)

    def all_refused(
        self,
        things: Sequence[tuple[str, Expr, Words]],
        kinds: tuple[str, ...],
        nth: int = 0,
    ) -> None:
        """The same for several, in one question."""
        told = self.w.refusals([thing for _, thing, _ in things], *kinds)
        for (what, _, words), said in zip(things, told, strict=True):
            if said is None or not all(_has(said, word) for word in words):
                raise Wrong(f"{what} -> {said!r}", f"{kinds[0]}: … {_listed(words)}", nth)


def _has(said: str, word: str | float) -> bool:
    return word in said if isinstance(word, str) else tells(said, word)


def _listed(words: Words) -> str:
    return " … ".join(map(str, words))


def gap(got: object, want: Tensor) -> float:
    """max|got - want| in float64; infinite for another shape, NaN, or what is no tensor."""
    if not isinstance(got, Tensor) or got.shape != want.shape:
        return float("inf")
    if got.dtype == want.dtype and torch.equal(got, want):
        return 0.0
    if not want.numel():
        return 0.0
    most = (got.double() - want.double()).abs().max().item()  # NaN where one is NaN
    return most if math.isfinite(most) else float("inf")


def shown(value: Any) -> str:
    """A value in a message: short, and an unknown one by its type alone."""
    if isinstance(value, Odd):
        return f"<{value.kind}>"
    if isinstance(value, Tensor):
        return f"tensor{tuple(value.shape)}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple | set):
        items = sorted(map(shown, value)) if isinstance(value, set) else list(map(shown, value))
        more = f", … ({len(items)})" if len(items) > 6 else ""
        inside = ", ".join(items[:6]) + more
        return f"({inside})" if isinstance(value, tuple) else f"[{inside}]"
    return repr(value)[:200]


def plain(value: Any) -> Any:
    """Tuples as lists, and a tensor of one number as that number."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def equal(ask: Asking, what: str, got: Any, want: Any, nth: int = 0) -> None:
    """Equal numbers, in lists or alone; 5.0 is 5, as it is for the contract."""
    got = plain(got)
    ask.hold(got == plain(want), f"{what} = {shown(got)}", shown(want), nth)


def words(ask: Asking, count: int) -> list[str]:
    """Names without a meaning, none a part of another."""
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(ask.rng.choices(CONSONANTS, k=5))] = None
    return list(found)


def gathered(parts: Sequence[ModuleType], prefix: str) -> dict[str, Callable[[Asking], None]]:
    """The checks of a lab's parts, whose names begin so, by the names of the contract's tests."""
    named = [item for part in parts for item in vars(part).items() if item[0].startswith(prefix)]
    return {f"test_{name}": check for name, check in named if callable(check)}
