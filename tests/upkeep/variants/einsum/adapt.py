"""As one writes numpy: whole arrays, one-hot rows, einsum, no loop over rows where it can be helped."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from minituner.recipe import IGNORE, Batch, Checkpoint, Pair, Recipe, Run


def padded(pairs: Sequence[Pair], pad_id: int) -> Batch:
    p = torch.tensor([len(prompt) for prompt, _ in pairs], dtype=torch.int64)
    a = torch.tensor([len(answer) for _, answer in pairs], dtype=torch.int64)
    if not len(pairs) or bool((p * a == 0).any()):
        raise ValueError(f"pairs: expected no empty part, got lengths {p.tolist()}, {a.tolist()}")
    width = int((p + a).max())
    tokens = torch.tensor(
        [[*prompt, *answer] + [pad_id] * (width - len(prompt) - len(answer)) for prompt, answer in pairs]
    )
    at = torch.arange(width)
    inside = (at >= p[:, None]) & (at < (p + a)[:, None])
    inputs = torch.where(at < (p + a - 1)[:, None], tokens, pad_id)
    return inputs[:, :-1], torch.where(inside, tokens, IGNORE)[:, 1:]


def masked_loss(logits: Tensor, targets: Tensor) -> Tensor:
    mask = (targets != IGNORE).to(logits.dtype)
    count = mask.sum()
    if float(count) == 0.0:
        raise ValueError(f"targets: all {targets.numel()} of them are hidden")
    onehot = nn.functional.one_hot(targets.clamp_min(0), logits.shape[-1]).to(logits.dtype)
    return -torch.einsum("bs,bsv,bsv->", mask / count, onehot, logits.log_softmax(-1))


def rehearsed(
    new: Sequence[Pair], old: Sequence[Pair], size: int, share: float, generator: torch.Generator
) -> list[Pair]:
    if not (share >= 0 and share < 1):
        raise ValueError(f"share: expected [0, 1), got {share}")
    k = round(share * size)
    everything = [*new, *old]
    u = torch.rand(size, generator=generator, dtype=torch.float64)
    first = (u[: size - k] * len(new)).floor().long()
    then = len(new) + (u[size - k :] * len(old)).floor().long()
    mixed = torch.cat((first, then))[torch.randperm(size, generator=generator)]
    return [everything[i] for i in mixed.tolist()]


def adapter_parameters(model: nn.Module) -> list[nn.Parameter]:
    named = dict(model.named_parameters())
    found = [named[name] for name in named if named[name].requires_grad]
    if len(found) < 1:
        raise TypeError(f"model: {type(model).__name__} has nothing to train")
    return found


def learning_rate(step: int, recipe: Recipe) -> float:
    warm = (step + 1) / max(recipe.warmup, 1)
    t = (step - recipe.warmup) / (recipe.steps - recipe.warmup)
    t = max(0.0, min(t, 1.0))
    cosine = 0.5 + 0.5 * math.cos(math.pi * t)
    return recipe.peak * warm if step < recipe.warmup else recipe.peak * cosine + recipe.floor * (1 - cosine)


def clip_(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.reshape(-1).double() for g in grads])
    norm = float(torch.einsum("i,i->", flat, flat).sqrt())
    if norm in (math.inf, -math.inf) or norm != norm:
        raise ValueError(f"gradient: its norm is {norm}")
    scale = min(1.0, max_norm / norm) if norm else 1.0
    if scale < 1.0:
        for g in grads:
            g.copy_(g * scale)
    return norm


def train_step(run: Run, batch: Batch, recipe: Recipe) -> float:
    model, optimizer = run.model.train(), run.optimizer
    x, y = batch
    optimizer.zero_grad(set_to_none=False)
    loss = masked_loss(model(x), y)
    torch.autograd.backward(loss)
    clip_(adapter_parameters(model), recipe.max_norm)
    lr = learning_rate(run.step, recipe)
    optimizer.param_groups = [{**g, "lr": lr} for g in optimizer.param_groups]
    optimizer.step()
    run.step += 1
    return float(loss)


def predict(model: nn.Module, inputs: Tensor) -> Tensor:
    was = [m for m in model.modules() if m.training]
    out: Tensor
    with torch.no_grad():
        out = model.eval()(inputs)
    for m in was:
        m.training = True
    return out


def evaluate(model: nn.Module, batches: Sequence[Batch]) -> float:
    n = torch.tensor([int((y != IGNORE).sum()) for _, y in batches], dtype=torch.float64)
    each = torch.tensor([masked_loss(predict(model, x), y).item() for x, y in batches], dtype=torch.float64)
    return float(torch.einsum("b,b->", n, each) / n.sum())


def exact_match(model: nn.Module, pairs: Sequence[Pair], pad_id: int) -> float:
    x, y = padded(pairs, pad_id)
    missed = (predict(model, x).argmax(-1) != y) * (y != IGNORE)
    return float((missed.sum(1) == 0).float().mean())


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    return {n: torch.clone(p.data) for n, p in model.named_parameters() if p.requires_grad}


def keep(run: Run, learned: float, control: float, lowest: float) -> bool:
    if not (control >= lowest and max(run.best, (learned, control)) != run.best):
        run.since += 1
        return False
    run.best, run.since, run.kept = (learned, control), 0, adapter_state(run.model)
    return True


def check_adapters(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = adapter_state(model)
    wrong = set(own) ^ set(state) | {n for n in set(own) & set(state) if own[n].shape != state[n].shape}
    if wrong:
        raise KeyError(f"state does not fit: {sorted(wrong)}")


def load_adapters(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    check_adapters(model, state)
    for name, value in state.items():
        model.get_parameter(name).data.copy_(value)


def checkpoint(run: Run) -> Checkpoint:
    return Checkpoint(
        step=run.step,
        best=run.best,
        since=run.since,
        kept=run.kept,
        adapters=adapter_state(run.model),
        optimizer=deepcopy(run.optimizer.state_dict()),
        batch_rng=run.generator.get_state(),
        torch_rng=torch.random.get_rng_state(),
    )


def restore(run: Run, state: Checkpoint) -> None:
    check_adapters(run.model, state["adapters"])
    run.optimizer.load_state_dict(deepcopy(state["optimizer"]))
    load_adapters(run.model, state["adapters"])
    run.step, run.best, run.since, run.kept = state["step"], state["best"], state["since"], state["kept"]
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
    last = min(recipe.steps, until if until is not None else recipe.steps)
    while run.since < recipe.patience and run.step < last:
        batch = padded(rehearsed(new, old, recipe.size, recipe.share, run.generator), recipe.pad_id)
        losses += [train_step(run, batch, recipe)]
        if run.step in (recipe.steps, run.step // recipe.every * recipe.every):
            keep(run, *measure(run.model), lowest=recipe.lowest)
    return losses
