"""Whatever torch has: clip_grad_norm_, cross_entropy, pad_sequence, CosineAnnealingLR's formula, load_state_dict."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, parameters_to_vector

from minituner.recipe import IGNORE, Batch, Checkpoint, Pair, Recipe, Run


def padded(pairs: Sequence[Pair], pad_id: int) -> Batch:
    if not pairs or any(not len(part) for pair in pairs for part in pair):
        raise ValueError("pairs must not be empty, nor a prompt or an answer in them")
    rows = [torch.as_tensor([*prompt, *answer]) for prompt, answer in pairs]
    whole = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORE)
    targets = whole[:, 1:].clone()
    for row, (prompt, _) in enumerate(pairs):
        targets[row, : len(prompt) - 1] = IGNORE
    inputs = whole[:, :-1].clone()
    for row, tokens in enumerate(rows):
        inputs[row, len(tokens) - 1 :] = pad_id
    return inputs, targets


def masked_loss(logits: Tensor, targets: Tensor) -> Tensor:
    loss = nn.functional.cross_entropy(logits.permute(0, 2, 1), targets, ignore_index=IGNORE)
    if (targets == IGNORE).all():
        raise ValueError("targets: no target counts, the mean would be NaN")
    return loss


def rehearsed(
    new: Sequence[Pair], old: Sequence[Pair], size: int, share: float, generator: torch.Generator
) -> list[Pair]:
    if share != share or share < 0 or share >= 1:
        raise ValueError(f"share must be in [0, 1), not {share}")
    count = round(share * size)
    known = torch.randint(len(old), (count,), generator=generator) if count else torch.empty(0)
    fresh = torch.randint(0, len(new), (size - count,), generator=generator)
    return [new[int(i)] for i in fresh] + [old[int(i)] for i in known]


def adapter_parameters(model: nn.Module) -> list[nn.Parameter]:
    params = [*filter(lambda p: p.requires_grad, model.parameters())]
    if not params:
        raise ValueError("model has no parameter that requires grad")
    return params


def learning_rate(step: int, recipe: Recipe) -> float:
    if step < recipe.warmup:
        return recipe.peak / recipe.warmup * (1 + step)
    t = torch.tensor((step - recipe.warmup) / (recipe.steps - recipe.warmup), dtype=torch.float64)
    half = (1 + torch.cos(t.clamp(max=1) * math.pi)) / 2
    return torch.lerp(torch.tensor(recipe.floor).double(), torch.tensor(recipe.peak).double(), half).item()


def clip_(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    params = list(parameters)
    grads = [p.grad for p in params if p.grad is not None]
    if not torch.isfinite(parameters_to_vector(grads)).all():
        raise ValueError("gradient is not finite")
    return float(clip_grad_norm_(params, max_norm))


def train_step(run: Run, batch: Batch, recipe: Recipe) -> float:
    inputs, targets = batch
    run.model.train()
    loss = masked_loss(run.model(inputs), targets)
    run.optimizer.zero_grad()
    torch.autograd.backward(loss, inputs=adapter_parameters(run.model))
    clip_(adapter_parameters(run.model), recipe.max_norm)
    for i in range(len(run.optimizer.param_groups)):
        run.optimizer.param_groups[i]["lr"] = learning_rate(run.step, recipe)
    run.optimizer.step()
    run.step += 1
    return float(loss)


def predict(model: nn.Module, inputs: Tensor) -> Tensor:
    modes = {name: module.training for name, module in model.named_modules()}
    model.eval()
    with torch.set_grad_enabled(False):
        logits: Tensor = model.forward(inputs)
    for name, module in model.named_modules():
        module.training = modes[name]
    return logits


def evaluate(model: nn.Module, batches: Sequence[Batch]) -> float:
    sums, counts = torch.zeros(2, dtype=torch.float64)
    for inputs, targets in batches:
        count = (targets != IGNORE).sum()
        sums = sums + masked_loss(predict(model, inputs), targets) * count
        counts = counts + count
    return float(sums / counts)


def exact_match(model: nn.Module, pairs: Sequence[Pair], pad_id: int) -> float:
    inputs, targets = padded(pairs, pad_id)
    said = predict(model, inputs).topk(1, dim=-1).indices.squeeze(-1)
    said = torch.where(targets == IGNORE, IGNORE, said)
    return sum(torch.equal(a, b) for a, b in zip(said, targets, strict=True)) / len(pairs)


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    return {name: v.clone() for name, v in model.state_dict().items() if name in trained}


def keep(run: Run, learned: float, control: float, lowest: float) -> bool:
    better = control >= lowest and sorted([run.best, (learned, control)])[0] != (learned, control)
    if better:
        run.best = (learned, control)
        run.kept = adapter_state(run.model)
    run.since = (run.since + 1) * (not better)
    return better


def check_adapters(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = adapter_state(model)
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    shape = [name for name in own if name in state and state[name].size() != own[name].size()]
    if missing + unexpected + shape:
        raise ValueError(f"{missing=}, {unexpected=}, {shape=}")


def load_adapters(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    check_adapters(model, state)
    told = model.load_state_dict(dict(state), strict=False)
    assert not told.unexpected_keys


def checkpoint(run: Run) -> Checkpoint:
    return {
        "step": run.step,
        "best": run.best,
        "since": run.since,
        "kept": dict(run.kept),
        "adapters": adapter_state(run.model),
        "optimizer": copy.deepcopy(run.optimizer.state_dict()),
        "batch_rng": run.generator.get_state(),
        "torch_rng": torch.random.get_rng_state(),
    }


def restore(run: Run, state: Checkpoint) -> None:
    check_adapters(run.model, state["adapters"])
    run.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
    load_adapters(run.model, state["adapters"])
    run.step, run.best, run.since = state["step"], state["best"], state["since"]
    run.kept = dict(state["kept"])
    run.generator.set_state(state["batch_rng"])
    torch.random.set_rng_state(state["torch_rng"])


def adapt(
    run: Run,
    new: Sequence[Pair],
    old: Sequence[Pair],
    recipe: Recipe,
    measure: Callable[[nn.Module], tuple[float, float]],
    until: int | None = None,
) -> list[float]:
    losses: list[float] = []
    end = min(recipe.steps, recipe.steps if until is None else until)
    for _ in range(run.step, end):
        if run.since >= recipe.patience:
            return losses
        batch = padded(
            rehearsed(new, old, recipe.size, recipe.share, run.generator), recipe.pad_id
        )
        losses.append(train_step(run, batch, recipe))
        if not run.step % recipe.every or run.step >= recipe.steps:
            keep(run, *measure(run.model), recipe.lowest)
    return losses
