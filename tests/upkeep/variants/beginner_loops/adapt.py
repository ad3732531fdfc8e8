"""Everything step by step, with lists and plain loops; decoding token by token."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from minituner.recipe import IGNORE, Batch, Checkpoint, Pair, Recipe, Run


def padded(pairs: Sequence[Pair], pad_id: int) -> Batch:
    if len(pairs) == 0:
        raise ValueError("pairs: there are none")
    longest = 0
    for prompt, answer in pairs:
        if len(prompt) == 0:
            raise ValueError("pairs: a prompt is empty")
        if len(answer) == 0:
            raise ValueError("pairs: an answer is empty")
        if len(prompt) + len(answer) > longest:
            longest = len(prompt) + len(answer)
    all_inputs = []
    all_targets = []
    for prompt, answer in pairs:
        row = list(prompt) + list(answer)
        inputs = []
        targets = []
        for i in range(longest - 1):
            if i < len(row) - 1:
                inputs.append(row[i])
            else:
                inputs.append(pad_id)
            if len(prompt) <= i + 1 < len(row):
                targets.append(row[i + 1])
            else:
                targets.append(IGNORE)
        all_inputs.append(inputs)
        all_targets.append(targets)
    return torch.tensor(all_inputs), torch.tensor(all_targets)


def masked_loss(logits: Tensor, targets: Tensor) -> Tensor:
    total = torch.zeros((), dtype=logits.dtype)
    count = 0
    for row in range(targets.shape[0]):
        for i in range(targets.shape[1]):
            target = int(targets[row, i])
            if target != IGNORE:
                z = logits[row, i]
                total = total + torch.logsumexp(z, dim=0) - z[target]
                count = count + 1
    if count == 0:
        raise ValueError("targets: none of them counts")
    return total / count


def rehearsed(
    new: Sequence[Pair], old: Sequence[Pair], size: int, share: float, generator: torch.Generator
) -> list[Pair]:
    if math.isnan(share) or share < 0 or share >= 1:
        raise ValueError("share: it must be from 0 up to but not 1, and it is " + str(share))
    from_old = round(share * size)
    batch = []
    for _ in range(from_old):
        i = int(torch.randint(0, len(old), (1,), generator=generator))
        batch.append(old[i])
    for _ in range(size - from_old):
        i = int(torch.randint(0, len(new), (1,), generator=generator))
        batch.append(new[i])
    return batch


def adapter_parameters(model: nn.Module) -> list[nn.Parameter]:
    result = []
    for p in model.parameters():
        if p.requires_grad == True:
            result.append(p)
    if len(result) == 0:
        raise ValueError("model: nothing in it requires grad")
    return result


def learning_rate(step: int, recipe: Recipe) -> float:
    if step < recipe.warmup:
        part = (step + 1) / recipe.warmup
        return recipe.peak * part
    if step >= recipe.steps:
        return recipe.floor
    t = (step - recipe.warmup) / (recipe.steps - recipe.warmup)
    height = (1 + math.cos(math.pi * t)) / 2
    return recipe.floor + (recipe.peak - recipe.floor) * height


def clip_(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    grads = []
    for p in parameters:
        if p.grad is not None:
            grads.append(p.grad)
    squares = 0.0
    for g in grads:
        squares = squares + float((g.double() ** 2).sum())
    norm = math.sqrt(squares)
    if norm != norm or norm == float("inf"):
        raise ValueError("the gradient is not finite")
    if norm > max_norm:
        for g in grads:
            g *= max_norm / norm
    return norm


def train_step(run: Run, batch: Batch, recipe: Recipe) -> float:
    run.model.train()
    run.optimizer.zero_grad()
    logits = run.model(batch[0])
    loss = masked_loss(logits, batch[1])
    torch.autograd.backward([loss])
    clip_(run.model.parameters(), recipe.max_norm)
    rate = learning_rate(run.step, recipe)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    run.optimizer.step()
    run.step = run.step + 1
    return float(loss.detach())


def predict(model: nn.Module, inputs: Tensor) -> Tensor:
    modules = []
    modes = []
    for module in model.modules():
        modules.append(module)
        modes.append(module.training)
    model.eval()
    with torch.no_grad():
        logits = model(inputs)
    for i in range(len(modules)):
        modules[i].training = modes[i]
    assert isinstance(logits, Tensor)
    return logits


def evaluate(model: nn.Module, batches: Sequence[Batch]) -> float:
    losses = []
    counts = []
    for inputs, targets in batches:
        n = 0
        for row in targets.tolist():
            for t in row:
                if t != IGNORE:
                    n += 1
        losses.append(float(masked_loss(predict(model, inputs), targets)) * n)
        counts.append(n)
    return sum(losses) / sum(counts)


def exact_match(model: nn.Module, pairs: Sequence[Pair], pad_id: int) -> float:
    right = 0
    for prompt, answer in pairs:
        tokens = list(prompt)
        for _ in range(len(answer)):
            logits = predict(model, torch.tensor([tokens]))
            tokens.append(int(torch.argmax(logits[0, -1])))
        if tokens[len(prompt) :] == list(answer):
            right += 1
    return right / len(pairs)


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    state = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            state[name] = p.detach().clone()
    return state


def keep(run: Run, learned: float, control: float, lowest: float) -> bool:
    better = False
    if control >= lowest:
        if learned > run.best[0]:
            better = True
        elif learned == run.best[0] and control > run.best[1]:
            better = True
    if better:
        run.best = (learned, control)
        run.kept = adapter_state(run.model)
        run.since = 0
        return True
    run.since = run.since + 1
    return False


def check_adapters(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = adapter_state(model)
    problems = []
    for name in own:
        if name not in state:
            problems.append(name + " is missing")
        elif state[name].shape != own[name].shape:
            problems.append(name + " has another shape")
    for name in state:
        if name not in own:
            problems.append(name + " is unexpected")
    if problems:
        raise ValueError("state: " + ", ".join(problems))


def load_adapters(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    check_adapters(model, state)
    parameters = dict(model.named_parameters())
    for name in state:
        with torch.no_grad():
            parameters[name][...] = state[name]


def copied(thing: object) -> object:
    if isinstance(thing, Tensor):
        return thing.clone()
    if isinstance(thing, dict):
        return {key: copied(value) for key, value in thing.items()}
    if isinstance(thing, list):
        return [copied(value) for value in thing]
    return thing


def copied_dict(thing: dict[str, object]) -> dict[str, object]:
    return {key: copied(value) for key, value in thing.items()}


def checkpoint(run: Run) -> Checkpoint:
    kept = {}
    for name in run.kept:
        kept[name] = run.kept[name].clone()
    return {
        "step": run.step,
        "best": run.best,
        "since": run.since,
        "kept": kept,
        "adapters": adapter_state(run.model),
        "optimizer": copied_dict(run.optimizer.state_dict()),
        "batch_rng": run.generator.get_state(),
        "torch_rng": torch.get_rng_state(),
    }


def restore(run: Run, state: Checkpoint) -> None:
    check_adapters(run.model, state["adapters"])
    run.optimizer.load_state_dict(copied_dict(state["optimizer"]))
    load_adapters(run.model, state["adapters"])
    run.step = state["step"]
    run.best = state["best"]
    run.since = state["since"]
    run.kept = state["kept"]
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
    losses = []
    while True:
        if run.step >= recipe.steps:
            break
        if until is not None and run.step >= until:
            break
        if run.since >= recipe.patience:
            break
        pairs = rehearsed(new, old, recipe.size, recipe.share, run.generator)
        batch = padded(pairs, recipe.pad_id)
        losses.append(train_step(run, batch, recipe))
        if run.step % recipe.every == 0 or run.step == recipe.steps:
            learned, control = measure(run.model)
            keep(run, learned, control, recipe.lowest)
    return losses
