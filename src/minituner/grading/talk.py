"""What a check says to a worker: steps that wait for the next question, and the answer to it.

Several talks may share a worker (stream.py): each has its own steps, and each question seeds torch
there first, so that nothing a talk gets depends on what another has asked in between.
Leaves out: frames and their limits (peer.py), what the steps mean (box/worker.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from minituner.grading.expr import Expr, encode, name, tried
from minituner.grading.peer import Frame, Odd, Peer, Raised
from minituner.words import say

Exchange = Callable[[dict[str, Any], list[Tensor]], Frame]


class Talk:
    """One check's end of the line.

    Args:
        exchange: sends a frame and returns its answer; by default it waits for it.
        seeds: draws the seed of each question; without, torch is left as it is there.
    """

    def __init__(
        self, peer: Peer, exchange: Exchange | None = None, seeds: random.Random | None = None
    ) -> None:
        self.peer, self.seeds = peer, seeds
        self.exchange = exchange or peer.exchange
        self.steps: list[list[Any]] = []
        self.tensors: list[Tensor] = []
        self.kit, self.torch, self.nn = name("kit"), name("torch"), name("torch.nn")

    def keep(self, thing: object) -> Expr:
        """Compute it there, and hold the value there under a name."""
        number = next(self.peer.numbers)
        self.steps.append([number, encode(thing, self.tensors)])
        return Expr(["v", number])

    def do(self, thing: object) -> None:
        """Compute it there, for what it does."""
        self.steps.append([None, encode(thing, self.tensors)])

    def ask(self, thing: object) -> Any:
        """The value: None, a bool, number, str, Tensor, list, tuple, dict, or Odd.

        Raises:
            Raised: it, or a step before it, raised. Lost.
        """
        self.do(thing)
        steps, tensors, self.steps, self.tensors = self.steps, self.tensors, [], []
        seed = None if self.seeds is None else self.seeds.randrange(2**31)
        return self.peer.answer(self.exchange({"seed": seed, "steps": steps}, tensors))

    def tensor(self, thing: object) -> Tensor:
        """A value that has to be a tensor; anything else is a Raised."""
        value = self.ask(thing)
        if not isinstance(value, Tensor):
            kind = value.kind if isinstance(value, Odd) else type(value).__name__
            raise Raised(["TypeError"], say("expected a tensor, got {kind}", kind=kind), "")
        return value

    def refusals(self, things: Sequence[object], *kinds: str) -> list[str | None]:
        """For each: the message with which it is refused by one of these kinds, or None.

        Raises:
            Raised: one is refused by an exception of another kind. Lost.
        """
        told = self.ask([tried(thing) for thing in things])
        for raised in told:
            if raised is not None and not set(kinds) & set(raised.kinds):
                raise raised
        return [None if raised is None else raised.said for raised in told]

    def refusal(self, thing: object, *kinds: str) -> str | None:
        """The message with which it is refused by one of these kinds, or None."""
        return self.refusals([thing], *kinds)[0]
