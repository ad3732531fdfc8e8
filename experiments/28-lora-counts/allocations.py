"""What torch really allocates when a MiniGPT trains, in bytes, bucket by bucket.

Counted, each storage once: the parameters, their gradients, the optimiser's state; what autograd
keeps from the tokens to the logits, parameters apart; and the peak of one step, over all storages
that an operation makes or reads, from the batch to the updated weights.
Source: torch.autograd.graph.saved_tensors_hooks; TorchDispatchMode. Leaves out: what a kernel takes
and gives back within one operation, the allocator's rounding, Python's own objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from minituner.minigpt import MiniGPT, MiniGPTConfig

SEED = 28
OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "adam": lambda params: torch.optim.Adam(params, lr=1e-4),
    "sgd": lambda params: torch.optim.SGD(params, lr=1e-4),
}


class Adapter(nn.Module):
    """LoRA as lab 00 writes it, without dropout; of its own, so that this lab needs no other."""

    def __init__(self, base: nn.Linear, r: int) -> None:
        super().__init__()
        self.base = base
        self.lora_A = nn.Parameter(torch.randn(r, base.in_features) / base.in_features**0.5)
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, r))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        out: Tensor = self.base(x)
        return out + 2.0 * F.linear(F.linear(x, self.lora_A), self.lora_B)


def minigpt(config: MiniGPTConfig, r: int | None) -> MiniGPT:
    """A MiniGPT, all of it trainable, or with adapters at rank r on its blocks' linears alone."""
    torch.manual_seed(SEED)
    model = MiniGPT(config)
    if r is not None:
        model.requires_grad_(False)
        for name, module in list(model.blocks.named_modules()):
            if isinstance(module, nn.Linear):
                parent, _, child = name.rpartition(".")
                setattr(model.blocks.get_submodule(parent), child, Adapter(module, r))
    return model


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages behind tensors, a shared one once."""
    storages = (tensor.untyped_storage() for tensor in tensors)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def saved_bytes(model: nn.Module, tokens: Tensor) -> int:
    """Bytes that autograd keeps for backward, from tokens to logits; parameters are not counted."""
    own = {param.untyped_storage().data_ptr() for param in model.parameters()}
    kept: list[Tensor] = []  # held, or a freed address could be taken for the next tensor's

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(tokens)
    return storage_bytes(kept)


def state_tensors(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Every tensor that the optimiser keeps between two steps."""
    kept = (value for state in optimizer.state.values() for value in state.values())
    return [value for value in kept if isinstance(value, Tensor)]


class Live(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types here
    """Follows the storages that operations make or read, and the most bytes alive at once."""

    def __init__(self, already: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the same
        self.seen: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0
        self._look(already)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # Any: torch's own signature; an operation takes and gives everything
        out = func(*args, **(kwargs or {}))
        self._look(leaf for leaf in tree_leaves((args, out)) if isinstance(leaf, Tensor))
        return out

    def _look(self, tensors: Iterable[Tensor]) -> None:
        """Right after an operation: its inputs, its results, and all that is still alive."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            ref = StorageWeakRef(storage)  # type: ignore[no-untyped-call]  # the same
            self.seen[ref.cdata] = (ref, storage.nbytes())
        alive = self.seen.items()
        self.seen = {
            key: (ref, size)
            for key, (ref, size) in alive
            if not ref.expired()  # type: ignore[no-untyped-call]  # the same
        }
        self.peak = max(self.peak, sum(size for _, size in self.seen.values()))


def allocated(
    config: MiniGPTConfig, r: int | None, optimizer: str, batch: int, seq: int
) -> dict[str, int]:
    """Bytes by bucket as torch has them after one step, and the peak of the second step."""
    model = minigpt(config, r)
    params = [param for param in model.parameters() if param.requires_grad]
    optim = OPTIMIZERS[optimizer](params)
    tokens = torch.randint(config.vocab_size, (batch, seq))
    targets = torch.randint(config.vocab_size, (batch, seq))

    def step() -> None:
        optim.zero_grad()  # sets them to None: the next backward makes them anew
        loss = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
        torch.autograd.backward(loss)
        optim.step()

    step()  # Adam makes its moments here
    buckets = {
        "weights": storage_bytes(model.parameters()),
        "gradients": storage_bytes(p.grad for p in model.parameters() if p.grad is not None),
        "optimizer": storage_bytes(state_tensors(optim)),
        "activations": saved_bytes(model, tokens),
    }
    optim.zero_grad()
    with Live([*model.parameters(), *state_tensors(optim), tokens, targets]) as live:
        step()
    return {**buckets, "peak": live.peak}
