"""LoRA by hand; the module tree is walked with a stack and a while loop."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class LoRALinear(nn.Module):
    """An nn.Linear with a low-rank update beside it."""

    def __init__(
        self,
        base: nn.Linear,
        r: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        freeze_base: bool = True,
    ) -> None:
        super().__init__()
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base = {type(base).__name__}: an nn.Linear was expected")
        if r < 1:
            raise ValueError(f"r = {r}: at least 1 was expected")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout = {dropout}: a number in [0, 1) was expected")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.dropout = nn.Dropout(dropout)
        self.lora_A = nn.Parameter(
            torch.empty((r, base.in_features), dtype=base.weight.dtype, device=base.weight.device)
        )
        self.lora_B = nn.Parameter(
            torch.empty((base.out_features, r), dtype=base.weight.dtype, device=base.weight.device)
        )
        limit = math.sqrt(1.0 / base.in_features)
        nn.init.uniform_(self.lora_A, a=-limit, b=limit)
        nn.init.zeros_(self.lora_B)
        if freeze_base:
            for _, param in base.named_parameters():
                param.requires_grad_(False)
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.base(x)
        narrow = torch.matmul(self.dropout(x), self.lora_A.t())
        result = result + torch.matmul(narrow, self.lora_B.t()) * self.scaling
        return result

    def merge_(self) -> None:
        with torch.no_grad():
            weight = self.base.weight
            dtype = weight.dtype if weight.dtype == torch.float64 else torch.float32
            update = torch.matmul(self.lora_B.to(dtype), self.lora_A.to(dtype)) * self.scaling
            weight.copy_(weight.to(dtype) + update)
            self.lora_A.zero_()
            self.lora_B.zero_()


def _adapters(model: nn.Module) -> list[tuple[str, LoRALinear]]:
    """Every adapter once, with the first of its names."""
    found: list[tuple[str, LoRALinear]] = []
    seen: set[int] = set()
    stack: list[tuple[str, nn.Module]] = [("", model)]
    while stack:
        path, module = stack.pop()
        if isinstance(module, LoRALinear):
            if id(module) not in seen:
                seen.add(id(module))
                found.append((path, module))
            continue
        children = [
            (f"{path}.{name}" if path else name, child)
            for name, child in module._modules.items()
            if child is not None
        ]
        stack.extend(reversed(children))
    return found


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    taken = [id(adapter.base) for _, adapter in _adapters(model)]
    places: list[tuple[str, nn.Module, str, nn.Linear]] = []
    hit_count = {target: 0 for target in target_modules}

    stack: list[tuple[str, nn.Module]] = [] if isinstance(model, LoRALinear) else [("", model)]
    while stack:
        path, parent = stack.pop()
        children: list[tuple[str, nn.Module]] = []
        for name, child in parent._modules.items():
            if child is None or isinstance(child, LoRALinear):
                continue  # what is inside an adapter is none of our business
            full = f"{path}.{name}" if path else name
            children.append((full, child))
            if not isinstance(child, nn.Linear) or id(child) in taken:
                continue
            hits = [t for t in hit_count if full == t or full.endswith(f".{t}")]
            for target in hits:
                hit_count[target] += 1
            if hits:
                places.append((full, parent, name, child))
        stack.extend(reversed(children))

    for target, count in hit_count.items():
        if count == 0:
            raise ValueError(f"target_modules: {target!r} matches no linear that could be wrapped")

    adapter_for: dict[int, LoRALinear] = {}
    for _, parent, name, linear in places:
        if id(linear) not in adapter_for:
            adapter_for[id(linear)] = LoRALinear(linear, r=r, alpha=alpha)
        setattr(parent, name, adapter_for[id(linear)])

    own: set[int] = set()
    for _, adapter in _adapters(model):
        own.add(id(adapter.lora_A))
        own.add(id(adapter.lora_B))
    for param in model.parameters():
        if id(param) not in own:
            param.requires_grad_(False)
    return [full for full, _, _, _ in places]


def _params(model: nn.Module) -> dict[str, nn.Parameter]:
    params: dict[str, nn.Parameter] = {}
    for path, adapter in _adapters(model):
        dot = "." if path else ""
        params[f"{path}{dot}lora_A"] = adapter.lora_A
        params[f"{path}{dot}lora_B"] = adapter.lora_B
    return params


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {name: param.detach().clone() for name, param in _params(model).items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    params = _params(model)
    missing: list[str] = []
    unexpected: list[str] = []
    for name in params:
        if name not in state:
            missing.append(name)
    for name in state:
        if name not in params:
            unexpected.append(name)
    if missing or unexpected:
        raise KeyError(f"state: missing = {missing}, unexpected = {unexpected}")

    for name, param in params.items():
        got, want = tuple(state[name].shape), tuple(param.shape)
        if got != want:
            raise ValueError(f"{name}: shape = {got}, {want} was expected")
        if not torch.isfinite(state[name].to(param.dtype)).all():
            raise ValueError(f"{name}: NaN or infinity, finite values were expected")

    for name, param in params.items():
        with torch.no_grad():
            param.copy_(state[name])
