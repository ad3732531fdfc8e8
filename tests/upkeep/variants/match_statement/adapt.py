"""match wherever there is a case to tell, dataclasses for the parts, recursion for the copies."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minituner.recipe import IGNORE, Batch, Checkpoint, Pair, Recipe, Run


@dataclass(frozen=True)
class Line:
    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    @classmethod
    def of(cls, pair: Pair) -> Line:
        match (tuple(pair[0]), tuple(pair[1])):
            case ((), _):
                raise ValueError("pairs: a prompt is empty")
            case (_, ()):
                raise ValueError("pairs: an answer is empty")
            case (prompt, answer):
                return cls(prompt, answer)

    @property
    def inputs(self) -> tuple[int, ...]:
        return (self.prompt + self.answer)[:-1]

    @property
    def targets(self) -> tuple[int, ...]:
        return (IGNORE,) * (len(self.prompt) - 1) + self.answer


def _filled(rows: Sequence[tuple[int, ...]], value: int) -> Tensor:
    width = max(map(len, rows))
    return torch.stack([F.pad(torch.tensor(row), (0, width - len(row)), value=value) for row in rows])


def padded(pairs: Sequence[Pair], pad_id: int) -> Batch:
    match [Line.of(pair) for pair in pairs]:
        case []:
            raise ValueError("pairs: none")
        case lines:
            inputs = _filled([line.inputs for line in lines], pad_id)
            return inputs, _filled([line.targets for line in lines], IGNORE)


def masked_loss(logits: Tensor, targets: Tensor) -> Tensor:
    flat = targets.reshape(-1)
    match flat.ne(IGNORE).nonzero().reshape(-1):
        case where if where.numel() == 0:
            raise TypeError("targets: all are hidden")
        case where:
            rows = logits.reshape(flat.numel(), -1).index_select(0, where)
            return F.nll_loss(F.log_softmax(rows, dim=1), flat.index_select(0, where))


def rehearsed(
    new: Sequence[Pair], old: Sequence[Pair], size: int, share: float, generator: torch.Generator
) -> list[Pair]:
    match share:
        case float() | int() if 0 <= share < 1:
            count = round(share * size)
        case _:
            raise ValueError(f"share: expected a number in [0, 1), got {share}")

    def drawn(pairs: Sequence[Pair], wanted: int) -> Iterator[Pair]:
        while wanted > 0:
            for i in torch.randperm(len(pairs), generator=generator).tolist()[:wanted]:
                yield pairs[i]
            wanted -= len(pairs)

    return [*drawn(new, size - count), *drawn(old, count)]


def adapter_parameters(model: nn.Module) -> list[nn.Parameter]:
    match [param for param in model.parameters() if param.requires_grad]:
        case []:
            raise ValueError("model: everything is frozen")
        case found:
            return found


def learning_rate(step: int, recipe: Recipe) -> float:
    match recipe:
        case Recipe(warmup=warmup, peak=peak) if step < warmup:
            return peak * ((step + 1) / warmup)
        case Recipe(steps=steps, floor=floor) if step >= steps:
            return floor
        case Recipe(steps=steps, warmup=warmup, peak=peak, floor=floor):
            half = (math.cos(math.pi * (step - warmup) / (steps - warmup)) + 1) / 2
            return half * peak + (1 - half) * floor
    raise AssertionError(recipe)


def clip_(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    gradients: list[Tensor] = []
    for param in parameters:
        match param.grad:
            case None:
                continue
            case gradient:
                gradients.append(gradient)
    match math.sqrt(sum(float(torch.sum(g.double() * g.double())) for g in gradients)):
        case norm if not math.isfinite(norm):
            raise ValueError(f"gradient: a norm of {norm}")
        case norm if norm <= max_norm:
            return norm
        case norm:
            torch._foreach_mul_(gradients, max_norm / norm)
            return norm


def train_step(run: Run, batch: Batch, recipe: Recipe) -> float:
    match batch:
        case (inputs, targets):
            run.model.train()
    run.optimizer.zero_grad()
    loss = masked_loss(run.model(inputs), targets)
    torch.autograd.backward(loss)
    clip_(iter(adapter_parameters(run.model)), recipe.max_norm)
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(run.step, recipe)
    run.optimizer.step()
    run.step += 1
    return loss.item()


@dataclass
class Modes:
    model: nn.Module
    children: list[Modes] = field(init=False)
    training: bool = field(init=False)

    def __post_init__(self) -> None:
        self.training = self.model.training
        self.children = [Modes(child) for child in self.model.children()]

    def back(self) -> None:
        self.model.training = self.training
        for child in self.children:
            child.back()


def predict(model: nn.Module, inputs: Tensor) -> Tensor:
    modes = Modes(model)
    model.eval()
    with torch.no_grad():
        logits: Tensor = model(inputs)
    modes.back()
    return logits


def evaluate(model: nn.Module, batches: Sequence[Batch]) -> float:
    rows = [(int(y.ne(IGNORE).sum()), masked_loss(predict(model, x), y).item()) for x, y in batches]
    whole = sum(count for count, _ in rows)
    return sum(loss * (count / whole) for count, loss in rows)


def exact_match(model: nn.Module, pairs: Sequence[Pair], pad_id: int) -> float:
    def right(read: tuple[int, ...], left: tuple[int, ...]) -> bool:
        match left:
            case (token, *rest):
                said = int(predict(model, torch.tensor([read]))[0, -1].argmax())
                return said == token and right((*read, token), tuple(rest))
            case _:
                return True

    lines = [Line.of(pair) for pair in pairs]
    return sum(right(line.prompt, line.answer) for line in lines) / len(lines)


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    def walk(module: nn.Module, path: str) -> Iterator[tuple[str, Tensor]]:
        for name, param in module.named_parameters(recurse=False):
            if param.requires_grad:
                yield path + name, param.detach().clone()
        for name, child in module.named_children():
            yield from walk(child, f"{path}{name}.")

    return dict(walk(model, ""))


def keep(run: Run, learned: float, control: float, lowest: float) -> bool:
    match (control >= lowest, run.best):
        case (True, (best, _)) if learned > best:
            better = True
        case (True, (best, held)) if learned == best and control > held:
            better = True
        case _:
            better = False
    match better:
        case True:
            run.best, run.kept, run.since = (learned, control), adapter_state(run.model), 0
        case False:
            run.since += 1
    return better


def check_adapters(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own, bad = adapter_state(model), []
    for name in own.keys() | state.keys():
        match (own.get(name), state.get(name)):
            case (Tensor() as one, Tensor() as other) if one.shape == other.shape:
                continue
            case _:
                bad.append(name)
    if bad:
        raise ValueError(f"state: {sorted(bad)} do not fit")


def load_adapters(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    check_adapters(model, state)
    with torch.no_grad():
        for name, value in state.items():
            model.get_parameter(name).copy_(value)


def _copy(thing: object) -> object:
    match thing:
        case Tensor():
            return thing.clone()
        case dict():
            return {key: _copy(value) for key, value in thing.items()}
        case list():
            return list(map(_copy, thing))
        case tuple():
            return tuple(map(_copy, thing))
        case _:
            return thing


def _copied(state: Mapping[str, object]) -> dict[str, object]:
    return {key: _copy(value) for key, value in state.items()}


def checkpoint(run: Run) -> Checkpoint:
    return {
        "step": run.step,
        "best": run.best,
        "since": run.since,
        "kept": {name: value.clone() for name, value in run.kept.items()},
        "adapters": adapter_state(run.model),
        "optimizer": _copied(run.optimizer.state_dict()),
        "batch_rng": run.generator.get_state(),
        "torch_rng": torch.get_rng_state(),
    }


def restore(run: Run, state: Checkpoint) -> None:
    match state:
        case {"adapters": adapters, "optimizer": optimizer}:
            check_adapters(run.model, adapters)
            run.optimizer.load_state_dict(_copied(optimizer))
            load_adapters(run.model, adapters)
    match state:
        case {"step": step, "best": best, "since": since, "kept": kept}:
            run.step, run.best, run.since = step, best, since
            run.kept = {name: value.clone() for name, value in kept.items()}
    run.generator.set_state(state["batch_rng"])
    torch.set_rng_state(state["torch_rng"])


def adapt(
    run: Run,
    new: Sequence[Pair],
    old: Sequence[Pair],
    recipe: Recipe,
    measure: Callable[[nn.Module], tuple[float, float]],
    until: int | None = None,
) -> list[float]:
    match until:
        case None:
            end = recipe.steps
        case int():
            end = min(until, recipe.steps)
    losses: list[float] = []
    while run.step < end and run.since < recipe.patience:
        pairs = rehearsed(new, old, recipe.size, recipe.share, run.generator)
        losses.append(train_step(run, padded(pairs, recipe.pad_id), recipe))
        match (run.step % recipe.every, recipe.steps - run.step):
            case (0, _) | (_, 0):
                keep(run, *measure(run.model), recipe.lowest)
    return losses
