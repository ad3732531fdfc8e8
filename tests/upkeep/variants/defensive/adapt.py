"""An engineer who trusts nobody: arguments are checked, states are put back in finally, copies everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Final

import torch
from torch import Tensor, nn

from minituner.recipe import IGNORE, Batch, Checkpoint, Pair, Recipe, Run

_DTYPE: Final = torch.long


def _require(condition: bool, name: str, expected: str, got: object) -> None:
    if not condition:
        raise ValueError(f"{name}: expected {expected}, got {got!r}")


def padded(pairs: Sequence[Pair], pad_id: int) -> Batch:
    _require(len(pairs) > 0, "pairs", "at least one pair", pairs)
    for index, (prompt, answer) in enumerate(pairs):
        _require(len(prompt) > 0, f"pairs[{index}]", "a prompt", prompt)
        _require(len(answer) > 0, f"pairs[{index}]", "an answer", answer)
    lengths = [len(prompt) + len(answer) - 1 for prompt, answer in pairs]
    inputs = torch.empty((len(pairs), max(lengths)), dtype=_DTYPE).fill_(pad_id)
    targets = torch.empty_like(inputs).fill_(IGNORE)
    for i, (prompt, answer) in enumerate(pairs):
        row = torch.tensor([*prompt, *answer], dtype=_DTYPE)
        inputs[i, : lengths[i]].copy_(row[:-1])
        targets[i, len(prompt) - 1 : lengths[i]].copy_(row[len(prompt) :])
    return inputs, targets


def masked_loss(logits: Tensor, targets: Tensor) -> Tensor:
    if logits.shape[:-1] != targets.shape:
        raise ValueError(f"targets: expected shape {tuple(logits.shape[:-1])}, got {tuple(targets.shape)}")
    if bool(torch.all(targets == IGNORE)):
        raise ValueError("targets: expected at least one that counts")
    loss = nn.CrossEntropyLoss(ignore_index=IGNORE, reduction="mean")
    value: Tensor = loss(logits.movedim(-1, 1), targets)
    return value


def rehearsed(
    new: Sequence[Pair], old: Sequence[Pair], size: int, share: float, generator: torch.Generator
) -> list[Pair]:
    _require(not math.isnan(share) and 0.0 <= share < 1.0, "share", "a number in [0, 1)", share)
    _require(size >= 1, "size", "at least 1", size)
    wanted_old = round(share * size)
    wanted_new = size - wanted_old
    _require(len(new) > 0 or wanted_new == 0, "new", "pairs to draw from", new)
    _require(len(old) > 0 or wanted_old == 0, "old", "pairs to draw from", old)
    order = torch.randperm(size, generator=generator).tolist()
    sources = [new] * wanted_new + [old] * wanted_old
    return [
        sources[i][int(torch.randint(high=len(sources[i]), size=(), generator=generator).item())]
        for i in order
    ]


def adapter_parameters(model: nn.Module) -> list[nn.Parameter]:
    trainable = [p for p in model.parameters() if p.requires_grad]
    _require(bool(trainable), "model", "parameters that require grad", type(model).__name__)
    return trainable


def learning_rate(step: int, recipe: Recipe) -> float:
    _require(step >= 0, "step", "at least 0", step)
    if recipe.warmup > 0 and step < recipe.warmup:
        return recipe.peak * float(step + 1) / float(recipe.warmup)
    decay_steps = recipe.steps - recipe.warmup
    progress = 1.0 if decay_steps <= 0 else (step - recipe.warmup) / decay_steps
    progress = min(max(progress, 0.0), 1.0)
    return recipe.floor + 0.5 * (recipe.peak - recipe.floor) * (1.0 + math.cos(math.pi * progress))


def clip_(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    gradients = tuple(p.grad for p in tuple(parameters) if p.grad is not None)
    for gradient in gradients:
        if not bool(torch.isfinite(gradient).all()):
            raise ValueError("gradient: expected finite numbers, got NaN or infinity")
    norm = math.sqrt(math.fsum(float(g.to(torch.float64).pow(2).sum()) for g in gradients))
    _require(math.isfinite(norm), "gradient", "a finite norm", norm)
    if norm > max_norm:
        with torch.no_grad():
            for gradient in gradients:
                torch.mul(gradient, max_norm / norm, out=gradient)
    return norm


def train_step(run: Run, batch: Batch, recipe: Recipe) -> float:
    inputs, targets = batch
    rate = learning_rate(run.step, recipe)
    run.model.train(mode=True)
    run.optimizer.zero_grad(set_to_none=True)
    with torch.enable_grad():
        logits: Tensor = run.model(inputs)
        loss = masked_loss(logits, targets)
    parameters = adapter_parameters(run.model)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    clip_(parameters, recipe.max_norm)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    run.optimizer.step()
    run.step = run.step + 1
    return float(loss.detach().item())


def predict(model: nn.Module, inputs: Tensor) -> Tensor:
    before = {name: module.training for name, module in model.named_modules()}
    try:
        model.train(False)
        with torch.no_grad():
            logits: Tensor = model(inputs)
            return logits.detach().clone()
    finally:
        for name, mode in before.items():
            model.get_submodule(name).training = mode


def evaluate(model: nn.Module, batches: Sequence[Batch]) -> float:
    _require(len(batches) > 0, "batches", "at least one", batches)
    weighted = []
    weights = []
    for inputs, targets in batches:
        weight = int(torch.count_nonzero(targets != IGNORE).item())
        if weight == 0:
            continue
        weighted.append(weight * masked_loss(predict(model, inputs), targets).item())
        weights.append(weight)
    _require(bool(weights), "batches", "targets that count", "none")
    return math.fsum(weighted) / sum(weights)


def exact_match(model: nn.Module, pairs: Sequence[Pair], pad_id: int) -> float:
    inputs, targets = padded(pairs, pad_id)
    best = predict(model, inputs).max(dim=-1).indices
    wrong = torch.logical_and(best.ne(targets), targets.ne(IGNORE)).any(dim=1)
    return 1.0 - int(wrong.sum()) / len(pairs)


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.requires_grad:
            state[name] = parameter.detach().clone(memory_format=torch.contiguous_format)
    return state


def keep(run: Run, learned: float, control: float, lowest: float) -> bool:
    holds = control >= lowest
    improves = learned > run.best[0] or (learned == run.best[0] and control > run.best[1])
    if holds and improves:
        run.kept = adapter_state(run.model)
        run.best = (learned, control)
        run.since = 0
        return True
    run.since += 1
    return False


def check_adapters(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = adapter_state(model)
    complaints: list[str] = []
    for name in sorted(set(own) | set(state)):
        if name not in state:
            complaints.append(f"{name}: missing")
        elif name not in own:
            complaints.append(f"{name}: unexpected")
        elif tuple(own[name].shape) != tuple(state[name].shape):
            complaints.append(f"{name}: {tuple(state[name].shape)} instead of {tuple(own[name].shape)}")
    if complaints:
        raise ValueError("state: " + "; ".join(complaints))


def load_adapters(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    check_adapters(model, state)
    wanted = {name: value.detach().clone() for name, value in state.items()}
    with torch.no_grad():
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if name in wanted:
                parameter.copy_(wanted[name])


def checkpoint(run: Run) -> Checkpoint:
    return {
        "step": int(run.step),
        "best": (float(run.best[0]), float(run.best[1])),
        "since": int(run.since),
        "kept": {name: value.detach().clone() for name, value in run.kept.items()},
        "adapters": adapter_state(run.model),
        "optimizer": deepcopy(run.optimizer.state_dict()),
        "batch_rng": run.generator.get_state().clone(),
        "torch_rng": torch.get_rng_state().clone(),
    }


def restore(run: Run, state: Checkpoint) -> None:
    check_adapters(run.model, state["adapters"])
    before = deepcopy(run.optimizer.state_dict())
    try:
        run.optimizer.load_state_dict(deepcopy(state["optimizer"]))
    except Exception as error:
        run.optimizer.load_state_dict(before)
        raise ValueError(f"optimizer: {error}") from error
    load_adapters(run.model, state["adapters"])
    run.step = state["step"]
    run.best = (state["best"][0], state["best"][1])
    run.since = state["since"]
    run.kept = {name: value.clone() for name, value in state["kept"].items()}
    run.generator.set_state(state["batch_rng"].clone())
    torch.set_rng_state(state["torch_rng"].clone())


def adapt(
    run: Run,
    new: Sequence[Pair],
    old: Sequence[Pair],
    recipe: Recipe,
    measure: Callable[[nn.Module], tuple[float, float]],
    until: int | None = None,
) -> list[float]:
    _require(recipe.every >= 1, "every", "at least 1", recipe.every)
    end = recipe.steps
    if until is not None:
        end = min(end, until)
    losses: list[float] = []
    while run.step < end:
        if run.since >= recipe.patience:
            break
        drawn = rehearsed(new, old, recipe.size, recipe.share, run.generator)
        loss = train_step(run, padded(drawn, recipe.pad_id), recipe)
        losses.append(loss)
        finished = run.step == recipe.steps
        if finished or run.step % recipe.every == 0:
            learned, control = measure(run.model)
            keep(run, learned, control, recipe.lowest)
    return losses
