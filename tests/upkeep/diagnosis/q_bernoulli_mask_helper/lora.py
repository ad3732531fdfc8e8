"""LoRA with a hand-made dropout: no nn.Dropout, no F.dropout, only a mask."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


def drop_entries(x: Tensor, p: float, active: bool) -> Tensor:
    """Switch each entry of x off with probability p."""
    if p == 0.0 or not active:
        return x
    keep_probability = torch.full_like(x, 1.0 - p)
    mask = torch.bernoulli(keep_probability)
    return x * mask


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
        problem = None
        if r < 1:
            problem = f"r: expected at least 1, got {r}"
        elif not 0.0 <= dropout < 1.0:
            problem = f"dropout: expected in [0, 1), got {dropout}"
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base: expected nn.Linear, got {type(base).__name__}")
        if problem is not None:
            raise ValueError(problem)

        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = float(alpha) / r
        self.drop_probability = dropout

        self.lora_A = nn.Parameter(torch.empty_like(base.weight[:1]).repeat(r, 1).detach())
        self.lora_B = nn.Parameter(torch.zeros_like(base.weight[:, :1]).repeat(1, r).detach())
        limit = math.sqrt(1.0 / base.in_features)
        with torch.no_grad():
            self.lora_A.uniform_(-limit, limit)

        if freeze_base:
            base.requires_grad_(False)
        self.training = base.training

    def forward(self, x: Tensor) -> Tensor:
        seen = drop_entries(x, self.drop_probability, self.training)
        update = F.linear(F.linear(seen, self.lora_A), self.lora_B)
        out: Tensor = self.base(x)
        return torch.add(out, update, alpha=self.scaling)

    def merge_(self) -> None:
        with torch.no_grad():
            dtype = self.base.weight.dtype
            work = torch.promote_types(dtype, torch.float32)
            update = torch.mm(self.lora_B.to(work), self.lora_A.to(work)).mul_(self.scaling)
            self.base.weight.copy_(update.add_(self.base.weight.to(work)).to(dtype))
            self.lora_A.zero_()
            self.lora_B.zero_()


def lora_layers(model: nn.Module) -> Iterable[tuple[str, LoRALinear]]:
    return [(n, m) for n, m in model.named_modules() if isinstance(m, LoRALinear)]


def named_targets(name: str, targets: Iterable[str]) -> set[str]:
    dotted = f".{name}"
    return {t for t in targets if dotted.endswith(f".{t}")}


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    wrapped_before = {id(layer.base) for _, layer in lora_layers(model)}
    pending = set(target_modules)
    places: dict[str, nn.Linear] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear) and id(module) not in wrapped_before:
            if targets := named_targets(name, target_modules):
                places[name] = module
                pending -= targets
    if pending:
        raise ValueError(f"target_modules: nothing left to wrap for {sorted(pending)}")

    adapters: dict[int, LoRALinear] = {}
    for name, linear in places.items():
        adapter = adapters.get(id(linear))
        if adapter is None:
            adapter = LoRALinear(linear, r=r, alpha=alpha, dropout=dropout)
            adapters[id(linear)] = adapter
        parent_name, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent_name), attribute, adapter)

    trains = set()
    for _, layer in lora_layers(model):
        trains.update((id(layer.lora_A), id(layer.lora_B)))
    for parameter in model.parameters():
        if id(parameter) not in trains:
            parameter.requires_grad_(False)
    return list(places)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    state = {}
    for name, layer in lora_layers(model):
        for which, factor in (("lora_A", layer.lora_A), ("lora_B", layer.lora_B)):
            key = f"{name}.{which}" if name else which
            state[key] = factor.detach().clone()
    return state


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = {}
    for name, layer in lora_layers(model):
        for which, factor in (("lora_A", layer.lora_A), ("lora_B", layer.lora_B)):
            own[f"{name}.{which}" if name else which] = factor

    missing, unexpected = set(own) - set(state), set(state) - set(own)
    if missing or unexpected:
        raise KeyError(f"missing: {sorted(missing)}; unexpected: {sorted(unexpected)}")
    wrong = [n for n in own if own[n].shape != state[n].shape]
    if wrong:
        pairs = [f"{n}: {tuple(own[n].shape)} != {tuple(state[n].shape)}" for n in wrong]
        raise ValueError("shapes differ: " + "; ".join(pairs))
    sick = [n for n in own if not state[n].to(own[n].dtype).isfinite().all()]
    if sick:
        raise ValueError(f"values that are not finite in {sick}")

    with torch.no_grad():
        for n, factor in own.items():
            factor.copy_(state[n])
