from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class LoRALinear(nn.Module):
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
            raise TypeError("base: expected nn.Linear, got %s" % type(base).__name__)
        if r < 1:
            raise ValueError("r: expected >= 1 (at least 1), got %d" % r)
        if dropout < 0 or dropout >= 1:
            raise ValueError("dropout: expected [0, 1), got %s" % dropout)

        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.lora_A = nn.Parameter(
            torch.empty((r, base.in_features), dtype=base.weight.dtype, device=base.weight.device)
        )
        self.lora_B = nn.Parameter(
            torch.empty((base.out_features, r), dtype=base.weight.dtype, device=base.weight.device)
        )
        self.reset_parameters()
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)

        if freeze_base:
            base.weight.requires_grad = False
            if base.bias is not None:
                base.bias.requires_grad = False

    def reset_parameters(self) -> None:
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)

    def forward(self, x: Tensor) -> Tensor:
        y = self.base(x)
        z = F.linear(self.dropout(x), self.lora_A)
        return torch.add(y, F.linear(z, self.lora_B), alpha=self.scaling)

    def merge_(self) -> None:
        with torch.no_grad():
            if self.base.weight.dtype == torch.float64:
                acc = torch.float64
            else:
                acc = torch.float32
            total = self.lora_B.to(acc).mm(self.lora_A.to(acc))
            total.mul_(self.scaling)
            total.add_(self.base.weight.to(acc))
            self.base.weight.copy_(total)
            self.lora_A.zero_()
            self.lora_B.zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    # linears that sit inside an adapter already
    busy = []
    for m in model.modules():
        if isinstance(m, LoRALinear):
            busy.append(id(m.base))

    # breadth first over the tree: (parent, attribute, full name)
    queue = [(model, attr, attr) for attr in model._modules]
    jobs = []
    seen_targets = set()
    while queue:
        parent, attr, name = queue.pop(0)
        child = parent._modules[attr]
        if child is None:
            continue
        if isinstance(child, nn.Linear) and id(child) not in busy:
            matched = False
            for t in target_modules:
                if name == t or name.endswith("." + t):
                    seen_targets.add(t)
                    matched = True
            if matched:
                jobs.append((parent, attr, name, child))
        for sub in child._modules:
            queue.append((child, sub, name + "." + sub))

    for t in target_modules:
        if t not in seen_targets:
            raise ValueError("target_modules: %r matches no linear that could be wrapped" % t)

    # freeze the whole model first, the new A and B are born trainable
    for p in model.parameters():
        p.requires_grad = False

    adapters = {}
    names = []
    while jobs:
        parent, attr, name, linear = jobs.pop(0)
        if id(linear) not in adapters:
            adapters[id(linear)] = LoRALinear(linear, r, alpha, dropout)
        setattr(parent, attr, adapters[id(linear)])
        names.append(name)
    return names


def _find_factors(model: nn.Module) -> dict[str, nn.Parameter]:
    stack = [("", model)]
    out = {}
    while stack:
        name, m = stack.pop()
        dot = name + "." if name else ""
        if isinstance(m, LoRALinear):
            out[dot + "lora_A"] = m.lora_A
            out[dot + "lora_B"] = m.lora_B
        for sub, child in m._modules.items():
            if child is not None:
                stack.append((dot + sub, child))
    return out


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    state = {}
    for name, p in _find_factors(model).items():
        state[name] = p.detach().clone()
    return state


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    factors = _find_factors(model)
    missing = []
    for name in factors:
        if name not in state:
            missing.append(name)
    unexpected = []
    for name in state:
        if name not in factors:
            unexpected.append(name)
    if len(missing) > 0 or len(unexpected) > 0:
        raise KeyError("missing: %s; unexpected: %s" % (missing, unexpected))
    for name in factors:
        have = tuple(factors[name].shape)
        got = tuple(state[name].shape)
        if have != got:
            raise ValueError("%s: expected shape %s, got %s" % (name, have, got))
        if not torch.isfinite(state[name].to(factors[name].dtype)).all():
            raise ValueError("%s: expected finite values" % name)
    with torch.no_grad():
        for name in factors:
            factors[name].copy_(state[name])
