"""Small things a judge asks of torch inside a worker: values, flags, modules, one step of SGD.

Everything here runs beside a submission that may have changed torch under it, so nothing here is
believed: the judge compares the tensors that come back with its own. Leaves out: any verdict.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

deepcopy = copy.deepcopy


def put(target: Tensor, value: Tensor) -> None:
    """Copy values into a parameter, in its own dtype."""
    with torch.no_grad():
        target.copy_(value.to(target.dtype))


def add(target: Tensor, amount: float) -> None:
    with torch.no_grad():
        target.add_(amount)


def assign(owner: Any, name: str, value: Any) -> None:
    setattr(owner, name, value)


def same(a: object, b: object) -> bool:
    return a is b


def isa(thing: object, kind: type) -> bool:
    return isinstance(thing, kind)


def kind(thing: object) -> str:
    return type(thing).__name__


def subclass(of: type[nn.Module], name: str) -> type[nn.Module]:
    """Somebody's own kind of module."""
    return type(name, (of,), {})


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """An nn.Linear with these values."""
    d_out, d_in = weight.shape
    made = nn.Linear(d_in, d_out, bias=bias is not None, dtype=weight.dtype)
    put(made.weight, weight)
    if bias is not None:
        put(made.bias, bias)
    return made


def fill(layer: Any, a: Tensor, b: Tensor) -> None:
    """Give an adapter its values."""
    put(layer.lora_A, a)
    put(layer.lora_B, b)


class Net(nn.Module):
    """Calls its parts one after the other, tanh between; beside them an embedding and a norm.

    A part's name may be dotted; the same part may come twice, under two names.
    """

    def __init__(self, names: Sequence[str], parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.tok_emb = nn.Embedding(3, 4)
        self.norm = nn.LayerNorm(4)
        self.order = list(names)
        for name, part in zip(names, parts, strict=True):
            at: nn.Module = self
            *outer, last = name.split(".")
            for step in outer:
                if step not in at._modules:
                    at.add_module(step, nn.ModuleDict())
                at = at.get_submodule(step)
            at.add_module(last, part)

    def forward(self, x: Tensor) -> Tensor:
        for index, name in enumerate(self.order):
            x = self.get_submodule(name)(x if index == 0 else x.tanh())
        return x


def params(model: nn.Module) -> list[list[Any]]:
    """[name, shape, dtype, device, requires_grad, is a Parameter, first name of the same one]."""
    first: dict[int, str] = {}
    rows = []
    for name, param in model.named_parameters(remove_duplicate=False):
        first.setdefault(id(param), name)
        is_one = isinstance(param, nn.Parameter)
        row = [name, list(param.shape), str(param.dtype), str(param.device), param.requires_grad]
        rows.append([*row, is_one, first[id(param)]])
    return rows


def modules(model: nn.Module) -> list[list[Any]]:
    """[name, class, training, first name of the same one] of every module, duplicates too."""
    first: dict[int, str] = {}
    rows = []
    for name, module in model.named_modules(remove_duplicate=False):
        first.setdefault(id(module), name)
        rows.append([name, type(module).__name__, module.training, first[id(module)]])
    return rows


def values(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter's value by name, duplicates too."""
    return {n: p.detach().clone() for n, p in model.named_parameters(remove_duplicate=False)}


def instances(model: nn.Module, cls: type[nn.Module]) -> list[str]:
    """Names of the modules of a class, duplicates too."""
    rows = model.named_modules(remove_duplicate=False)
    return sorted(name for name, module in rows if isinstance(module, cls))


def members(model: nn.Module) -> list[object]:
    """The modules and parameters themselves, to be compared by identity later."""
    return [*model.modules(), *model.parameters()]


def unmoved(before: list[object], model: nn.Module) -> bool:
    """Whether the model consists of the very same modules and parameters."""
    now = members(model)
    return len(before) == len(now) and all(a is b for a, b in zip(before, now, strict=True))


def rest(model: nn.Module, kept: nn.Module) -> list[str]:
    """Names of model's parameters that are not kept's."""
    own = {id(p) for p in kept.parameters()}
    rows = model.named_parameters(remove_duplicate=False)
    return sorted(name for name, param in rows if id(param) not in own)


def leaf(tensor: Tensor) -> Tensor:
    """The same values, to be differentiated by."""
    return tensor.clone().requires_grad_(True)


def strided(tensor: Tensor) -> Tensor:
    """The same values with their first two axes stored the other way round."""
    return tensor.transpose(0, 1).contiguous().transpose(0, 1)


def run(model: Callable[[Tensor], Tensor], x: Tensor, graph: bool = True) -> Tensor:
    with torch.set_grad_enabled(graph):
        return model(x)


def backward(output: Tensor, weight: Tensor) -> None:
    """d(sum(output * weight)): gives every tensor that takes part its gradient."""
    torch.autograd.backward((output * weight).sum())


def sgd(model: nn.Module, lr: float) -> None:
    """One step of SGD on what requires grad."""
    step([p for p in model.parameters() if p.requires_grad], lr)


def step(trained: Sequence[nn.Parameter], lr: float) -> None:
    optimiser = torch.optim.SGD(trained, lr=lr)
    optimiser.step()
    optimiser.zero_grad()


def dtype(name: str) -> torch.dtype:
    found = getattr(torch, name)
    assert isinstance(found, torch.dtype)
    return found


def seed(number: int) -> None:
    """Seed the global generator; torch.manual_seed also notes where it was called, at a price."""
    torch.default_generator.manual_seed(number)
