"""Small things a judge asks of torch inside a worker: values, flags, modules, one step of SGD.

Everything here runs beside a submission that may have changed torch under it, so nothing here is
believed: the judge compares the tensors that come back with its own. What can be is taken from
torch's C types before a submission is loaded, and modules are walked by hand, so that a class that
lies about its flags or its parameters has to lie at a deeper place. Leaves out: any verdict.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

BASE = torch._C.TensorBase
# Any: the descriptors themselves, which the type stubs know as the values they give
REQUIRES_GRAD: Any = BASE.requires_grad
GRAD: Any = BASE.grad
IS_LEAF: Any = BASE.is_leaf
COPY, SUB, ADD, DETACH, CLONE, TO = (
    BASE.copy_,
    BASE.sub_,
    BASE.add_,
    BASE.detach,
    BASE.clone,
    BASE.to,
)
GRAD_MODE, GET_GRAD_MODE = torch._C._set_grad_enabled, torch.is_grad_enabled
IS_INFERENCE, INFERENCE = BASE.is_inference, torch.inference_mode
MRO = type.__dict__["__mro__"]
NEW = object.__new__
deepcopy = copy.deepcopy
M = TypeVar("M", bound=nn.Module)


def _in_place(change: Callable[..., Any], target: Tensor, *args: Any, **named: Any) -> None:
    if IS_INFERENCE(target):  # what was made in that mode is written to in it alone
        with INFERENCE():
            change(target, *args, **named)
        return
    was = GET_GRAD_MODE()
    GRAD_MODE(False)
    try:
        change(target, *args, **named)
    finally:
        GRAD_MODE(was)


def put(target: Tensor, value: Tensor) -> None:
    """Copy values into a parameter, in its own dtype."""
    _in_place(COPY, target, TO(value, target.dtype))


def add(target: Tensor, amount: float) -> None:
    _in_place(ADD, target, amount)


def assign(owner: Any, name: str, value: Any) -> None:
    setattr(owner, name, value)


def same(a: object, b: object) -> bool:
    return a is b


def kind(thing: object) -> str:
    return type(thing).__name__


def fields(rows: Iterable[object], names: Sequence[str]) -> list[list[Any]]:
    """The attributes with these names of each row, in order."""
    return [[getattr(row, name) for name in names] for row in rows]


def subclass(of: type[nn.Module], name: str) -> type[nn.Module]:
    """Somebody's own kind of module."""
    return type(name, (of,), {})


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """An nn.Linear with these values."""
    made = _like(LINEAR)
    inside = made.__dict__
    inside["out_features"], inside["in_features"] = weight.shape
    own = {"weight": weight, "bias": bias}.items()
    values = {name: None if v is None else nn.Parameter(CLONE(v)) for name, v in own}
    inside["_parameters"].update(values)
    return made


# What new modules are copied from; made here, before any submission is loaded.
LINEAR, EMBEDDING, NORM = nn.Linear(1, 1), nn.Embedding(3, 4), nn.LayerNorm(4)
EMPTY = nn.ModuleDict()


def _like(model: M) -> M:
    """A module of the same kind and settings with containers of its own, but for hooks empty.

    Not by its __init__, which draws values first and sets each field through a __setattr__ that
    looks everywhere: that takes ten times as long.
    """
    made = NEW(type(model))
    inside: dict[str, Any] = made.__dict__
    for name, value in model.__dict__.items():
        inside[name] = value.copy() if isinstance(value, dict | set) else value
    return made


def _again(model: M) -> M:
    """The same module with parameters of its own."""
    made = _like(model)
    own = made.__dict__["_parameters"]
    for name, param in own.items():
        own[name] = nn.Parameter(CLONE(DETACH(param)))
    return made


def net(names: Sequence[str], pairs: Sequence[tuple[Tensor, Tensor | None]]) -> Net:
    """A Net of linears with these values, beside an embedding and a norm."""
    return Net(names, [linear(weight, bias) for weight, bias in pairs], True)


def merged(state: dict[str, Tensor], more: dict[str, Tensor], less: Sequence[str] = ()) -> Any:
    """A copy of a state with some entries replaced or added, and some gone."""
    return {name: value for name, value in {**state, **more}.items() if name not in less}


def fill(layer: Any, a: Tensor, b: Tensor) -> None:
    """Give an adapter its values."""
    put(layer.lora_A, a)
    put(layer.lora_B, b)


def sizes(model: nn.Module, names: Sequence[str]) -> list[list[list[int]]]:
    """[shape of A, shape of B] of the adapters with these names."""
    layers = [model.get_submodule(name) for name in names]
    return [[shape(layer.lora_A), shape(layer.lora_B)] for layer in layers]  # type: ignore[arg-type]


def fill_in(model: nn.Module, pairs: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Give adapters their values by name."""
    for name, pair in pairs.items():
        fill(model.get_submodule(name), *pair)


class Net(nn.Module):
    """Calls its parts one after the other, tanh between; `beside`: an embedding and a norm, too.

    A part's name may be dotted; the same part may come twice, under two names.
    """

    def __init__(
        self, names: Sequence[str], parts: Sequence[nn.Module], beside: bool = False
    ) -> None:
        super().__init__()
        own = self.__dict__["_modules"]
        if beside:
            own["tok_emb"], own["norm"] = _again(EMBEDDING), _again(NORM)
        self.order = list(names)
        for name, part in zip(names, parts, strict=True):
            at = own
            *outer, last = name.split(".")
            for step in outer:
                if step not in at:
                    at[step] = _like(EMPTY)
                at = at[step].__dict__["_modules"]
            at[last] = part

    def forward(self, x: Tensor) -> Tensor:
        for index, name in enumerate(self.order):
            x = self.get_submodule(name)(x if index == 0 else x.tanh())
        return x


def _walk(model: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Every module by its dotted name, one that has two names twice."""
    yield name, model
    for child, module in model.__dict__["_modules"].items():
        if module is not None:
            yield from _walk(module, f"{name}.{child}" if name else child)


def _owned(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter by its dotted name, one that has two names twice."""
    for name, module in _walk(model):
        for key, param in module.__dict__["_parameters"].items():
            if param is not None:
                yield f"{name}.{key}" if name else key, param


def params(model: nn.Module) -> list[list[Any]]:
    """[name, shape, dtype, device, requires_grad, is a Parameter, first name of the same one]."""
    first: dict[int, str] = {}
    rows = []
    for name, param in _owned(model):
        first.setdefault(id(param), name)
        is_one = nn.Parameter in MRO.__get__(type(param))
        row = [name, list(param.shape), str(param.dtype), str(param.device)]
        rows.append([*row, REQUIRES_GRAD.__get__(param), is_one, first[id(param)]])
    return rows


def modules(model: nn.Module) -> list[list[Any]]:
    """[name, class, training, first name of the same one] of every module, duplicates too."""
    first: dict[int, str] = {}
    rows = []
    for name, module in _walk(model):
        first.setdefault(id(module), name)
        rows.append([name, type(module).__name__, module.training, first[id(module)]])
    return rows


def values(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter's value by name, duplicates too."""
    return {name: CLONE(DETACH(param)) for name, param in _owned(model)}


def instances(model: nn.Module, cls: type[nn.Module]) -> list[str]:
    """Names of the modules of a class, duplicates too."""
    return sorted(name for name, module in _walk(model) if cls in MRO.__get__(type(module)))


def members(model: nn.Module) -> list[object]:
    """The modules and parameters themselves, to be compared by identity later."""
    return [*(module for _, module in _walk(model)), *(param for _, param in _owned(model))]


def unmoved(before: list[object], model: nn.Module) -> bool:
    """Whether the model consists of the very same modules and parameters."""
    now = members(model)
    return len(before) == len(now) and all(a is b for a, b in zip(before, now, strict=True))


def rest(model: nn.Module, kept: nn.Module) -> list[str]:
    """Names of model's parameters that are not kept's."""
    own = {id(param) for _, param in _owned(kept)}
    return sorted(name for name, param in _owned(model) if id(param) not in own)


def shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)


def flag(tensor: Tensor) -> bool:
    """requires_grad, as torch itself has it."""
    return bool(REQUIRES_GRAD.__get__(tensor))


def slope(tensor: Tensor) -> Tensor | None:
    """The gradient, as torch itself has it."""
    found: Tensor | None = GRAD.__get__(tensor)
    return found


def is_leaf(tensor: Tensor) -> bool:
    return bool(IS_LEAF.__get__(tensor))


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
    step([param for _, param in _owned(model) if REQUIRES_GRAD.__get__(param)], lr)


def step(trained: Sequence[Tensor], lr: float) -> None:
    """p - lr · dp for each of them once; the gradients are gone afterwards."""
    for param in {id(param): param for param in trained}.values():
        slope_there = GRAD.__get__(param)
        if slope_there is not None:
            _in_place(SUB, param, slope_there, alpha=lr)
            GRAD.__set__(param, None)


def seed(number: int) -> None:
    """Seed the global generator; torch.manual_seed also notes where it was called, at a price."""
    torch.default_generator.manual_seed(number)
