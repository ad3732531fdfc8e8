"""Small classes for whatever has a state or an end: modes, schedule, rows, a stopwatch for patience."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minituner.recipe import IGNORE, Batch, Checkpoint, Pair, Recipe, Run


class Rows(NamedTuple):
    inputs: Tensor
    targets: Tensor


class Score(NamedTuple):
    learned: float
    control: float


class Row:
    """A prompt and its answer in one line of tokens."""

    def __init__(self, pair: Pair) -> None:
        self.prompt, self.answer = list(pair[0]), list(pair[1])
        if not self.prompt or not self.answer:
            raise ValueError(f"pairs: prompt and answer must not be empty, got {pair!r}")
        self.tokens = self.prompt + self.answer

    def __len__(self) -> int:
        return len(self.tokens) - 1

    def inputs(self, width: int, pad_id: int) -> list[int]:
        return self.tokens[:-1] + [pad_id] * (width - len(self))

    def targets(self, width: int) -> list[int]:
        return [IGNORE] * (len(self.prompt) - 1) + self.answer + [IGNORE] * (width - len(self))


def padded(pairs: Sequence[Pair], pad_id: int) -> Batch:
    rows = [Row(pair) for pair in pairs]
    if not rows:
        raise ValueError("pairs: expected at least one")
    width = max(len(row) for row in rows)
    inputs = torch.tensor([row.inputs(width, pad_id) for row in rows])
    return Rows(inputs, torch.tensor([row.targets(width) for row in rows]))


def masked_loss(logits: Tensor, targets: Tensor) -> Tensor:
    chosen = targets != IGNORE
    if not chosen.any():
        raise ValueError("targets: not one counts")
    return F.cross_entropy(logits[chosen], targets[chosen])


class Urn:
    """Pairs that are drawn without repetition until the urn is empty, and is filled again."""

    def __init__(self, pairs: Sequence[Pair], generator: torch.Generator) -> None:
        self.pairs, self.generator, self.order = pairs, generator, list[int]()

    def draw(self) -> Pair:
        if not self.order:
            self.order = torch.randperm(len(self.pairs), generator=self.generator).tolist()
        return self.pairs[self.order.pop()]


def rehearsed(
    new: Sequence[Pair], old: Sequence[Pair], size: int, share: float, generator: torch.Generator
) -> list[Pair]:
    if not 0 <= share < 1:
        raise ValueError(f"share: expected at least 0 and below 1, got {share}")
    count, fresh, known = round(share * size), Urn(new, generator), Urn(old, generator)
    return [known.draw() if i < count else fresh.draw() for i in range(size)]


def adapter_parameters(model: nn.Module) -> list[nn.Parameter]:
    found = list(filter(lambda param: param.requires_grad, model.parameters()))
    if found:
        return found
    raise ValueError("model: no parameter requires grad; is everything frozen?")


class Schedule:
    """A ramp, then half a cosine, then the floor."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def at(self, step: int) -> float:
        if step < self.recipe.warmup:
            return self.ramp(step)
        if step > self.recipe.steps:
            return self.recipe.floor
        return self.cosine(step)

    def ramp(self, step: int) -> float:
        return self.recipe.peak / self.recipe.warmup * (step + 1)

    def cosine(self, step: int) -> float:
        length = self.recipe.steps - self.recipe.warmup
        angle = math.pi * (step - self.recipe.warmup) / length
        drop = self.recipe.peak - self.recipe.floor
        return self.recipe.peak - drop * (1 - math.cos(angle)) / 2


def learning_rate(step: int, recipe: Recipe) -> float:
    return Schedule(recipe).at(step)


def clip_(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    with_grad = [param for param in parameters if param.grad is not None]
    try:
        norm = nn.utils.clip_grad_norm_(with_grad, math.inf, error_if_nonfinite=True)
    except RuntimeError as error:
        raise ValueError(f"gradient: {error}") from error
    nn.utils.clip_grad_norm_(with_grad, max_norm)
    return norm.item()


def train_step(run: Run, batch: Batch, recipe: Recipe) -> float:
    inputs, targets = batch
    run.model.train()
    for group in run.optimizer.param_groups:
        group.update(lr=Schedule(recipe).at(run.step))

    def closure() -> float:
        run.optimizer.zero_grad(set_to_none=True)
        loss = masked_loss(run.model(inputs), targets)
        torch.autograd.backward(loss)
        clip_(run.model.parameters(), recipe.max_norm)
        return loss.item()

    found = run.optimizer.step(closure)
    run.step += 1
    return found


class Asking:
    """A model in eval mode without gradients, for as long as the with block lasts."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.training = {module: module.training for module in model.modules()}
        self.quiet = torch.no_grad()

    def __enter__(self) -> nn.Module:
        self.quiet.__enter__()
        return self.model.eval()

    def __exit__(self, *_: object) -> None:
        self.quiet.__exit__(None, None, None)
        for module, mode in self.training.items():
            module.training = mode


def predict(model: nn.Module, inputs: Tensor) -> Tensor:
    with Asking(model) as asked:
        logits: Tensor = asked(inputs)
    return logits


class Mean:
    """A mean of weighted values."""

    def __init__(self) -> None:
        self.total, self.weight = 0.0, 0

    def add(self, value: float, weight: int) -> None:
        self.total += value * weight
        self.weight += weight

    @property
    def value(self) -> float:
        return self.total / self.weight


def evaluate(model: nn.Module, batches: Sequence[Batch]) -> float:
    mean = Mean()
    for inputs, targets in batches:
        loss = masked_loss(predict(model, inputs), targets)
        mean.add(loss.item(), int(targets.ne(IGNORE).sum()))
    return mean.value


def exact_match(model: nn.Module, pairs: Sequence[Pair], pad_id: int) -> float:
    mean = Mean()
    with Asking(model) as asked:
        for pair in pairs:
            row = Row(pair)
            said = asked(torch.tensor([row.inputs(len(row), pad_id)]))[0].argmax(-1)
            mean.add(float(said[len(row.prompt) - 1 :].tolist() == row.answer), 1)
    return mean.value


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for name, param in model.named_parameters():
        if param.requires_grad:
            yield name, param


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    with torch.no_grad():
        return {name: param.clone() for name, param in _trained(model)}


def keep(run: Run, learned: float, control: float, lowest: float) -> bool:
    now = Score(learned, control)
    if control < lowest or now <= run.best:
        run.since += 1
        return False
    run.best = now
    run.kept = adapter_state(run.model)
    run.since = 0
    return True


def check_adapters(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    left = dict(state)
    bad = []
    for name, param in _trained(model):
        value = left.pop(name, None)
        if value is None or value.shape != param.shape:
            bad.append(name)
    bad.extend(left)
    if bad:
        raise ValueError(f"state: these do not fit the model: {', '.join(bad)}")


def load_adapters(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    check_adapters(model, state)
    with torch.no_grad():
        for name, param in _trained(model):
            param.copy_(state[name])


def checkpoint(run: Run) -> Checkpoint:
    moment: Checkpoint = {
        "step": run.step,
        "best": (run.best[0], run.best[1]),
        "since": run.since,
        "kept": run.kept,
        "adapters": adapter_state(run.model),
        "optimizer": run.optimizer.state_dict(),
        "batch_rng": run.generator.get_state(),
        "torch_rng": torch.get_rng_state(),
    }
    return copy.deepcopy(moment)


def restore(run: Run, state: Checkpoint) -> None:
    own = copy.deepcopy(state)
    check_adapters(run.model, own["adapters"])
    copy.deepcopy(run.optimizer).load_state_dict(copy.deepcopy(own["optimizer"]))  # does it fit?
    run.optimizer.load_state_dict(own["optimizer"])
    load_adapters(run.model, own["adapters"])
    run.generator.set_state(own["batch_rng"])
    torch.set_rng_state(own["torch_rng"])
    run.step, run.best, run.since, run.kept = own["step"], own["best"], own["since"], own["kept"]


class Loop:
    """Iterates over the losses of a run."""

    def __init__(self, run: Run, recipe: Recipe, end: int) -> None:
        self.run, self.recipe, self.end = run, recipe, end

    def over(self) -> bool:
        return self.run.step >= self.end or self.run.since >= self.recipe.patience

    def due(self) -> bool:
        return self.run.step == self.recipe.steps or self.run.step % self.recipe.every == 0

    def losses(
        self,
        new: Sequence[Pair],
        old: Sequence[Pair],
        measure: Callable[[nn.Module], tuple[float, float]],
    ) -> Iterator[float]:
        run, recipe = self.run, self.recipe
        while not self.over():
            pairs = rehearsed(new, old, recipe.size, recipe.share, run.generator)
            yield train_step(run, padded(pairs, recipe.pad_id), recipe)
            if self.due():
                learned, control = measure(run.model)
                keep(run, learned, control, recipe.lowest)


def adapt(
    run: Run,
    new: Sequence[Pair],
    old: Sequence[Pair],
    recipe: Recipe,
    measure: Callable[[nn.Module], tuple[float, float]],
    until: int | None = None,
) -> list[float]:
    end = recipe.steps if until is None else min(recipe.steps, until)
    return list(Loop(run, recipe, end).losses(new, old, measure))
