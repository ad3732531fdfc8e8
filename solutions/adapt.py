"""Adapt a model without making it forget: data, loop, evaluation, resume.

Source: rehearsal, Robins 1995, doi:10.1080/09540099550039318; warm-up and cosine decay, Loshchilov
and Hutter 2017, arXiv:1608.03983 §3. The contract is BLUEPRINT-02.md beside this file.
Leaves out: gradient accumulation, mixed precision, the random state of a GPU, LoRA itself.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minituner.recipe import IGNORE, Batch, Checkpoint, Pair, Recipe, Run


def padded(pairs: Sequence[Pair], pad_id: int) -> Batch:
    """Prompt and answer in one row; a target is the next token where that is the answer's.

    ValueError when there are no pairs, or a prompt or an answer is empty.
    """
    # BEGIN SOLUTION A1
    if not pairs or not all(len(prompt) and len(answer) for prompt, answer in pairs):
        raise ValueError(f"pairs: expected prompts and answers, none empty, got {pairs!r:.80}")
    seq = max(len(prompt) + len(answer) for prompt, answer in pairs) - 1
    inputs = torch.full((len(pairs), seq), pad_id)
    targets = torch.full((len(pairs), seq), IGNORE)
    for row, (prompt, answer) in enumerate(pairs):
        tokens = torch.tensor([*prompt, *answer])
        end = len(tokens) - 1  # the last token is a target, never an input
        inputs[row, :end] = tokens[:-1]
        targets[row, len(prompt) - 1 : end] = tokens[len(prompt) :]
    return inputs, targets
    # END SOLUTION


def masked_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over the targets that count; ValueError when none does."""
    # BEGIN SOLUTION A2
    if not (targets != IGNORE).any():
        raise ValueError(f"targets: expected at least one that counts, got only {IGNORE}")
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=IGNORE)
    # END SOLUTION


def rehearsed(
    new: Sequence[Pair], old: Sequence[Pair], size: int, share: float, generator: torch.Generator
) -> list[Pair]:
    """size random pairs: round(share · size) from old, the rest from new; share is in [0, 1)."""
    # BEGIN SOLUTION A3
    if not 0.0 <= share < 1.0:
        raise ValueError(f"share: expected a number in [0, 1), got {share}")
    count = round(share * size)
    batch: list[Pair] = []
    for pairs, wanted in ((new, size - count), (old, count)):
        if wanted:
            drawn = torch.randint(len(pairs), (wanted,), generator=generator)
            batch += [pairs[i] for i in drawn.tolist()]
    return batch
    # END SOLUTION


def adapter_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that require grad, each once; ValueError when there are none."""
    # BEGIN SOLUTION B1
    found = [param for param in model.parameters() if param.requires_grad]
    if not found:
        raise ValueError("model: expected parameters that require grad, got none")
    return found
    # END SOLUTION


def learning_rate(step: int, recipe: Recipe) -> float:
    """peak · (step + 1) / warmup below warmup, then half a cosine, down to floor at steps."""
    # BEGIN SOLUTION B2
    if step < recipe.warmup:
        return recipe.peak * (step + 1) / recipe.warmup  # at a rate of 0, step 0 would be wasted
    done = min(1.0, (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup))
    return recipe.floor + (recipe.peak - recipe.floor) * (1.0 + math.cos(math.pi * done)) / 2
    # END SOLUTION


def clip_(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Scale all gradients by one factor, to a common norm of at most max_norm; return the old one.

    ValueError when that is not finite; no gradient is changed.
    """
    # BEGIN SOLUTION B3
    grads = [param.grad for param in parameters if param.grad is not None]
    norm = math.sqrt(sum(grad.double().square().sum().item() for grad in grads))
    if not math.isfinite(norm):
        raise ValueError(f"gradient: expected a finite norm, got {norm}; try a lower peak")
    for grad in grads if norm > max_norm else []:
        grad.mul_(max_norm / norm)
    return norm
    # END SOLUTION


def train_step(run: Run, batch: Batch, recipe: Recipe) -> float:
    """One step in train mode, counted in run.step; returns the loss before it."""
    # BEGIN SOLUTION B4
    inputs, targets = batch
    run.model.train()
    run.optimizer.zero_grad()
    loss = masked_loss(run.model(inputs), targets)
    torch.autograd.backward(loss)
    clip_(adapter_parameters(run.model), recipe.max_norm)
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(run.step, recipe)
    run.optimizer.step()
    run.step += 1
    return loss.item()
    # END SOLUTION


def predict(model: nn.Module, inputs: Tensor) -> Tensor:
    """The logits in eval mode, without gradients; afterwards every module's mode is as found."""
    # BEGIN SOLUTION C1
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    with torch.no_grad():
        logits: Tensor = model(inputs)
    for module, mode in modes:
        module.training = mode  # train(mode) would reach its children, too
    return logits
    # END SOLUTION


def evaluate(model: nn.Module, batches: Sequence[Batch]) -> float:
    """The mean loss over the tokens that count, of all batches together."""
    # BEGIN SOLUTION C2
    total, tokens = 0.0, 0
    for inputs, targets in batches:
        count = int((targets != IGNORE).sum())
        total += count * masked_loss(predict(model, inputs), targets).item()
        tokens += count
    return total / tokens
    # END SOLUTION


def exact_match(model: nn.Module, pairs: Sequence[Pair], pad_id: int) -> float:
    """The share of pairs whose whole answer greedy decoding gives."""
    # BEGIN SOLUTION C3
    # Up to its first wrong token, decoding reads the very row that padded makes.
    inputs, targets = padded(pairs, pad_id)
    right = (predict(model, inputs).argmax(dim=-1) == targets) | (targets == IGNORE)
    return right.all(dim=-1).double().mean().item()
    # END SOLUTION


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter that requires grad, by its full name, as a detached copy."""
    # BEGIN SOLUTION C4
    named = model.named_parameters()
    return {name: param.detach().clone() for name, param in named if param.requires_grad}
    # END SOLUTION


def keep(run: Run, learned: float, control: float, lowest: float) -> bool:
    """Keep the adapters if control is at least lowest and (learned, control) beats run.best."""
    # BEGIN SOLUTION C5
    better = control >= lowest and (learned, control) > run.best
    if better:
        run.best, run.kept = (learned, control), adapter_state(run.model)
    run.since = 0 if better else run.since + 1
    return better
    # END SOLUTION


def check_adapters(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """ValueError that names every entry which model lacks, wants, or has in another shape."""
    # BEGIN SOLUTION D1
    own = {name: tuple(value.shape) for name, value in adapter_state(model).items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    if found != own:
        apart = sorted(dict(found.items() ^ own.items()))
        raise ValueError(f"state: expected the adapters of this model, got others: {apart}")
    # END SOLUTION


def load_adapters(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy a checked state into the Parameters that model already has."""
    # BEGIN SOLUTION D2
    check_adapters(model, state)
    with torch.no_grad():
        for name, param in model.named_parameters():
            if name in state:
                param.copy_(state[name])
    # END SOLUTION


def checkpoint(run: Run) -> Checkpoint:
    """All that run needs to go on later as if nothing had happened, in copies."""
    # BEGIN SOLUTION D3
    return {
        "step": run.step,
        "best": run.best,
        "since": run.since,
        "kept": copy.deepcopy(run.kept),
        "adapters": adapter_state(run.model),
        "optimizer": copy.deepcopy(run.optimizer.state_dict()),  # it holds the live tensors
        "batch_rng": run.generator.get_state(),
        "torch_rng": torch.get_rng_state(),
    }
    # END SOLUTION


def restore(run: Run, state: Checkpoint) -> None:
    """Put a checkpoint's values into a run that was built the same way.

    ValueError when the adapters or the optimiser are others; run is then as it was.
    """
    # BEGIN SOLUTION D4
    check_adapters(run.model, state["adapters"])
    # A copy, for the optimiser trains the tensors it is given; first, for it may refuse, too.
    run.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
    load_adapters(run.model, state["adapters"])
    run.step, run.best, run.since = state["step"], state["best"], state["since"]
    run.kept = copy.deepcopy(state["kept"])
    run.generator.set_state(state["batch_rng"])
    torch.set_rng_state(state["torch_rng"])
    # END SOLUTION


def adapt(
    run: Run,
    new: Sequence[Pair],
    old: Sequence[Pair],
    recipe: Recipe,
    measure: Callable[[nn.Module], tuple[float, float]],
    until: int | None = None,
) -> list[float]:
    """Train up to a step or the recipe's end, or till patience runs out; returns the losses.

    measure gives (learned, control), more is better: every `every` steps, and after the last.
    """
    # BEGIN SOLUTION D5
    end = recipe.steps if until is None else min(until, recipe.steps)
    losses = []
    while run.step < end and run.since < recipe.patience:
        pairs = rehearsed(new, old, recipe.size, recipe.share, run.generator)
        losses.append(train_step(run, padded(pairs, recipe.pad_id), recipe))
        if run.step % recipe.every == 0 or run.step == recipe.steps:
            keep(run, *measure(run.model), recipe.lowest)
    return losses
    # END SOLUTION
