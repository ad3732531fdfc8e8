"""A mathematician: as little text as will carry the formula."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from minituner.recipe import IGNORE, Batch, Checkpoint, Pair, Recipe, Run


def padded(pairs: Sequence[Pair], pad_id: int) -> Batch:
    if not pairs or min(min(len(p), len(a)) for p, a in pairs) == 0:
        raise ValueError("pairs: empty")
    n = max(len(p) + len(a) for p, a in pairs)
    x = torch.tensor([([*p, *a][:-1] + [pad_id] * n)[: n - 1] for p, a in pairs])
    y = torch.tensor([([IGNORE] * len(p) + [*a] + [IGNORE] * n)[1:n] for p, a in pairs])
    return x, y


def masked_loss(logits: Tensor, targets: Tensor) -> Tensor:
    m = targets != IGNORE
    if not m.any():
        raise ValueError("targets: none counts")
    return (logits[m].logsumexp(-1) - logits[m].gather(-1, targets[m].unsqueeze(-1)).squeeze(-1)).mean()


def rehearsed(
    new: Sequence[Pair], old: Sequence[Pair], size: int, share: float, generator: torch.Generator
) -> list[Pair]:
    if not 0 <= share < 1:
        raise ValueError(f"share: {share} is not in [0, 1)")
    k = round(share * size)
    u: list[float] = torch.rand(size, generator=generator, dtype=torch.float64).tolist()
    return [(old if i < k else new)[int(t * len(old if i < k else new))] for i, t in enumerate(u)]


def adapter_parameters(model: nn.Module) -> list[nn.Parameter]:
    θ = [p for p in model.parameters() if p.requires_grad]
    if not θ:
        raise ValueError("model: nothing trains")
    return θ


def learning_rate(step: int, recipe: Recipe) -> float:
    w, n, top, low = recipe.warmup, recipe.steps, recipe.peak, recipe.floor
    t = min(max((step - w) / (n - w), 0.0), 1.0)
    return top * (step + 1) / w if step < w else low + (top - low) * math.cos(math.pi * t / 2) ** 2


def clip_(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    g = [p.grad for p in parameters if p.grad is not None]
    norm = math.hypot(*(float(torch.linalg.vector_norm(v.double())) for v in g))
    if not norm < math.inf:
        raise ValueError(f"gradient: |g| = {norm}")
    _ = [v.div_(norm / max_norm) for v in g if norm > max_norm]
    return norm


def train_step(run: Run, batch: Batch, recipe: Recipe) -> float:
    run.model.train(), run.optimizer.zero_grad()
    loss = masked_loss(run.model(batch[0]), batch[1])
    torch.autograd.backward(loss)
    clip_(run.model.parameters(), recipe.max_norm)
    for group in run.optimizer.param_groups:
        group |= {"lr": learning_rate(run.step, recipe)}
    run.optimizer.step()
    run.step += 1
    return loss.item()


def predict(model: nn.Module, inputs: Tensor) -> Tensor:
    on = {m for m in model.modules() if m.training}
    with torch.inference_mode():
        logits: Tensor = model.eval()(inputs)
    for m in model.modules():
        m.training = m in on
    return logits


def evaluate(model: nn.Module, batches: Sequence[Batch]) -> float:
    n = [int((y != IGNORE).sum()) for _, y in batches]
    return sum(k * float(masked_loss(predict(model, x), y)) for k, (x, y) in zip(n, batches, strict=True)) / sum(n)


def exact_match(model: nn.Module, pairs: Sequence[Pair], pad_id: int) -> float:
    x, y = padded(pairs, pad_id)
    hits: list[bool] = ((predict(model, x).argmax(-1) - y) * (y != IGNORE)).abs().sum(-1).eq(0).tolist()
    return sum(hits) / len(pairs)


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    return {k: p.detach() + 0.0 for k, p in model.named_parameters() if p.requires_grad}


def keep(run: Run, learned: float, control: float, lowest: float) -> bool:
    if control >= lowest and run.best < (learned, control):
        run.best, run.kept, run.since = (learned, control), adapter_state(run.model), -1
    run.since += 1
    return run.since == 0


def check_adapters(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    a, b = ({(k, *v.shape) for k, v in s.items()} for s in (adapter_state(model), state))
    if a ^ b:
        raise ValueError(f"state: {a ^ b}")


def load_adapters(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    check_adapters(model, state)
    with torch.no_grad():
        _ = [p.copy_(state[k]) for k, p in model.named_parameters() if k in state]


def checkpoint(run: Run) -> Checkpoint:
    return copy.deepcopy(
        Checkpoint(
            step=run.step,
            best=run.best,
            since=run.since,
            kept=run.kept,
            adapters=adapter_state(run.model),
            optimizer=run.optimizer.state_dict(),
            batch_rng=run.generator.get_state(),
            torch_rng=torch.get_rng_state(),
        )
    )


def restore(run: Run, state: Checkpoint) -> None:
    check_adapters(run.model, (s := copy.deepcopy(state))["adapters"])
    run.optimizer.load_state_dict(s["optimizer"])
    load_adapters(run.model, s["adapters"])
    run.step, run.best, run.since, run.kept = s["step"], s["best"], s["since"], s["kept"]
    run.generator.set_state(s["batch_rng"])
    torch.set_rng_state(s["torch_rng"])


def adapt(
    run: Run,
    new: Sequence[Pair],
    old: Sequence[Pair],
    recipe: Recipe,
    measure: Callable[[nn.Module], tuple[float, float]],
    until: int | None = None,
) -> list[float]:
    losses, r, n = [], recipe, recipe.steps
    while run.step < min(n, n if until is None else until) and run.since < r.patience:
        losses += [train_step(run, padded(rehearsed(new, old, r.size, r.share, run.generator), r.pad_id), r)]
        _ = (run.step % r.every and run.step != n) or keep(run, *measure(run.model), r.lowest)
    return losses
