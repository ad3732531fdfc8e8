"""What lab 02's judge builds inside a worker: a model that is a table, optimisers, told measures.

The optimisers are torch's own arithmetic without torch.optim's start, which takes a second. Like
kit.py it runs beside a submission, so nothing here is believed; it holds no oracle.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from minituner.grading.box.kit import CLONE, DETACH, GRAD, shape

MOST = 200  # steps of one optimiser; the checks take fewer


class Part(nn.Module):
    """What of a Table trains, and dropout, in a module with a mode of its own."""

    def __init__(self, shift: Tensor, dropout: float) -> None:
        super().__init__()
        self.shift = nn.Parameter(shift.clone())
        self.drop = nn.Dropout(dropout)


class Table(nn.Module):
    """The next token's logits from the last token alone: row table + shift, the table frozen.

    It keeps the inputs and the mode of every call.
    """

    def __init__(self, table: Tensor, shift: Tensor, dropout: float = 0.0) -> None:
        super().__init__()
        self.lora_table = nn.Parameter(table.clone(), requires_grad=False)
        self.part = Part(shift, dropout)
        self.calls: list[tuple[Tensor, bool]] = []

    def forward(self, tokens: Tensor) -> Tensor:
        self.calls.append((CLONE(DETACH(tokens)), self.training))
        rows = nn.functional.embedding(tokens, self.lora_table + self.part.shift)
        out: Tensor = self.part.drop(rows)
        return out

    def inputs(self) -> list[Tensor]:
        return [tokens for tokens, _ in self.calls]

    def modes(self) -> list[bool]:
        return [training for _, training in self.calls]


class Momentum(torch.optim.Optimizer):
    """v ← mu v + g, p ← p - lr v, each parameter in a group of its own.

    As in torch, state_dict() gives the live tensors, and load_state_dict() keeps those it gets.
    """

    def __init__(self, params: Sequence[nn.Parameter], mu: float = 0.0) -> None:
        self.param_groups = [{"params": [param], "lr": 0.0} for param in params]
        self.mu = mu
        self.speeds: dict[int, Tensor] = {}
        self.done = 0

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for group in self.param_groups:
            GRAD.__set__(group["params"][0], None)

    def step(self, closure: Any = None) -> Any:  # Any: as torch's own, by overloads
        with torch.enable_grad():
            loss = None if closure is None else closure()
        self.done += 1
        if self.done > MOST:
            raise RuntimeError(f"{MOST} steps and no end: is run.step counted?")
        with torch.no_grad():
            for i, group in enumerate(self.param_groups):
                self.move(i, group["params"][0], group["lr"])
        return loss

    def move(self, i: int, param: nn.Parameter, lr: float) -> None:
        """One parameter's share of a step."""
        slope = GRAD.__get__(param)
        if slope is not None:
            speed = self.speeds.setdefault(i, torch.zeros_like(param))
            speed.mul_(self.mu).add_(slope)
            param.sub_(lr * speed)

    def state_dict(self) -> dict[str, Any]:
        groups = [{"params": [i], "lr": g["lr"]} for i, g in enumerate(self.param_groups)]
        state = {i: {"momentum_buffer": speed} for i, speed in self.speeds.items()}
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if len(state_dict["param_groups"]) != len(self.param_groups):
            raise ValueError("loaded state dict has a different number of parameter groups")
        self.speeds = {i: kept["momentum_buffer"] for i, kept in state_dict["state"].items()}
        for group, kept in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group["lr"] = kept["lr"]

    def rates(self) -> list[float]:
        return [group["lr"] for group in self.param_groups]


class Adam(Momentum):
    """What torch.optim.AdamW does with its defaults and no weight decay, in the same order.

    Source: Kingma & Ba 2015, arXiv:1412.6980, algorithm 1.
    """

    def __init__(self, params: Sequence[nn.Parameter]) -> None:
        super().__init__(params)
        self.squares: dict[int, Tensor] = {}

    def move(self, i: int, param: nn.Parameter, lr: float) -> None:
        slope = GRAD.__get__(param)
        if slope is not None:
            mean = self.speeds.setdefault(i, torch.zeros_like(param))
            square = self.squares.setdefault(i, torch.zeros_like(param))
            mean.lerp_(slope, 0.1)
            square.mul_(0.999).addcmul_(slope, slope, value=1 - 0.999)
            root = (square.sqrt() / (1 - 0.999**self.done) ** 0.5).add_(1e-8)
            param.addcdiv_(mean, root, value=-(lr / (1 - 0.9**self.done)))


class Told:
    """A measure that answers what it was told, by run.step or else the same; it notes when."""

    def __init__(self, run: Any, answers: Any, other: tuple[float, float] = (0.0, 0.0)) -> None:
        self.run, self.answers, self.other = run, answers, other
        self.asked: list[int] = []
        self.models: list[object] = []
        self.shifts: list[Tensor] = []

    def __call__(self, model: Any) -> tuple[float, float]:
        self.asked.append(self.run.step)
        self.models.append(model)
        if isinstance(model, Table):
            self.shifts.append(CLONE(DETACH(model.part.shift)))
        return self.answer()

    def answer(self) -> tuple[float, float]:
        found: tuple[float, float] = self.answers.get(self.run.step, self.other)
        return found


class InTurn(Told):
    """The same, with the answers in order, whatever the step, and the other one after them."""

    def answer(self) -> tuple[float, float]:
        told = len(self.asked) <= len(self.answers)
        found: tuple[float, float] = self.answers[len(self.asked) - 1] if told else self.other
        return found


def tree(rows: Sequence[tuple[str, Tensor, bool]], again: dict[str, str]) -> nn.Module:
    """Modules with these parameters: dotted name, value, whether it trains.

    Args:
        again: a second name of a module -> its first.
    """
    root = nn.Module()
    for name, value, trains in rows:
        *outer, last = name.split(".")
        at = root
        for step in outer:
            if step not in at._modules:
                at.add_module(step, nn.Module())
            at = at.get_submodule(step)
        at.register_parameter(last, nn.Parameter(value.clone(), requires_grad=trains))
    for name, first in again.items():
        root.add_module(name, root.get_submodule(first))
    return root


def named(found: Iterable[object], model: nn.Module) -> list[str]:
    """The first name in model of each parameter found; "?" for one that is not its own."""
    first = {id(param): name for name, param in model.named_parameters()}
    return [first.get(id(param), "?") for param in found]


def sloped(values: Sequence[Tensor], slopes: Sequence[Tensor | None]) -> list[nn.Parameter]:
    """Parameters with these values and gradients."""
    found = []
    for value, slope in zip(values, slopes, strict=True):
        param = nn.Parameter(value.clone())
        GRAD.__set__(param, None if slope is None else slope.clone())
        found.append(param)
    return found


def once(things: Iterable[object]) -> Iterator[object]:
    """An iterator, which can be read once."""
    yield from things


def part(things: Sequence[object], begin: int, end: int) -> Sequence[object]:
    return things[begin:end]


def drawn(times: int, draw: Callable[..., Any], *args: Any) -> list[int]:
    """The first token of every pair of so many batches."""
    return [prompt[0] for _ in range(times) for prompt, _ in draw(*args)]


def shapes(state: dict[str, Tensor]) -> dict[str, list[int]]:
    return {name: shape(value) for name, value in state.items()}


def through_file(state: Any) -> Any:
    """Saved and loaded again, as torch.load(weights_only=True) reads it."""
    held = io.BytesIO()
    torch.save(state, held)
    held.seek(0)
    return torch.load(held, weights_only=True)


def luck(*generators: torch.Generator) -> list[Any]:
    """The states of torch's global generator, of Python's, and of these."""
    states = [torch.default_generator.get_state(), *(each.get_state() for each in generators)]
    return [*states, list(random.getstate()[1])]
