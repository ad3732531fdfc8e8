from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt

import torch
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")

FACTORS = ("lora_A", "lora_B")


class LoRALinear(nn.Module):
    base: nn.Linear
    dropout: nn.Dropout
    lora_A: nn.Parameter
    lora_B: nn.Parameter

    def __init__(
        self,
        base: nn.Linear,
        r: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        freeze_base: bool = True,
    ) -> None:
        super().__init__()
        if isinstance(base, nn.Linear) is False:
            raise TypeError(f"base = {type(base).__name__}: this is no nn.Linear")
        if r < 1:
            raise ValueError(f"r = {r}: the rank is at least 1")
        if dropout < 0 or not dropout < 1:
            raise ValueError(f"dropout = {dropout}: only values in [0, 1) make sense")

        self.add_module("base", base)
        self.add_module("dropout", nn.Dropout(dropout))
        self.train(base.training)
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r

        shapes = {"lora_A": (r, base.in_features), "lora_B": (base.out_features, r)}
        for name in FACTORS:
            self.register_parameter(name, nn.Parameter(base.weight.data.new_empty(shapes[name])))
        nn.init.kaiming_uniform_(self.lora_A, a=sqrt(5))
        nn.init.constant_(self.lora_B, 0.0)

        if freeze_base:
            base.weight.requires_grad = False

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        low = nn.functional.linear(self.dropout(x), self.lora_A)
        return torch.add(out, nn.functional.linear(low, self.lora_B), alpha=self.scaling)

    def merge_(self) -> None:
        with torch.no_grad():
            w = self.base.weight
            kind = torch.promote_types(w.dtype, torch.float32)
            ba = self.lora_B.to(kind).mm(self.lora_A.to(kind))
            w.copy_(torch.add(w.to(kind), ba, alpha=self.scaling))
            for name in FACTORS:
                self.get_parameter(name).zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    modules = list(model.named_modules(remove_duplicate=False))
    inner = {id(m.base) for _, m in modules if isinstance(m, LoRALinear)}

    chosen = []
    for name, module in modules:
        if isinstance(module, nn.Linear) and id(module) not in inner:
            if name in target_modules or any(name.endswith("." + t) for t in target_modules):
                chosen.append((name, module))
    if not chosen:
        raise ValueError(f"no nn.Linear of this model is to be wrapped for {list(target_modules)}")

    adapters: dict[nn.Module, LoRALinear] = {}
    for name, module in chosen:
        adapter = adapters.get(module)
        if adapter is None:
            adapter = adapters[module] = LoRALinear(module, r, alpha, dropout)
        path = name.split(".")
        parent = model.get_submodule(".".join(path[:-1]))
        setattr(parent, path[-1], adapter)

    factors = {id(p) for _, p in _named_factors(model)}
    for p in model.parameters():
        if id(p) not in factors:
            p.requires_grad = False
    return [name for name, _ in chosen]


def _named_factors(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    pairs = []
    for path, module in model.named_modules():
        if isinstance(module, LoRALinear):
            for name in FACTORS:
                pairs.append((f"{path}.{name}".lstrip("."), module.get_parameter(name)))
    return pairs


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {name: torch.clone(p.detach()) for name, p in _named_factors(model)}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    pairs = _named_factors(model)
    known = {name for name, _ in pairs}
    problems = [f"{name} is missing" for name in sorted(known) if name not in state]
    problems += [f"{name} is unexpected" for name in sorted(state) if name not in known]
    if problems:
        raise KeyError("; ".join(problems))
    for name, p in pairs:
        value = state[name]
        if list(value.shape) != list(p.shape):
            problems.append(f"{name} has shape {list(value.shape)} instead of {list(p.shape)}")
        elif not torch.isfinite(value.to(p.dtype)).all():
            problems.append(f"{name} has values that are not finite")
    if problems:
        raise ValueError("; ".join(problems))
    with torch.no_grad():
        for name, p in pairs:
            p.copy_(state[name])
