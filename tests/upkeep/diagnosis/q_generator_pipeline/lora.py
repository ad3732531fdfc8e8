"""LoRA: generators that feed one another."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
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
        for error, message in self._complaints(base, r, dropout):
            raise error(message)
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.lora_A = nn.Parameter(base.weight.new_empty((r, base.in_features)))
        self.lora_B = nn.Parameter(base.weight.new_empty((base.out_features, r)))
        self.factors = nn.ParameterList((self.lora_A, self.lora_B))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)
        for p in base.parameters() if freeze_base else ():
            p.requires_grad_(False)

    @staticmethod
    def _complaints(
        base: object, r: int, dropout: float
    ) -> Iterator[tuple[type[Exception], str]]:
        if not isinstance(base, nn.Linear):
            yield TypeError, f"base: expected nn.Linear, got {type(base).__name__}"
        if r < 1:
            yield ValueError, f"r: expected at least 1, got {r}"
        if not 0 <= dropout < 1:
            yield ValueError, f"dropout: expected in [0, 1), got {dropout}"

    def forward(self, x: Tensor) -> Tensor:
        z = self.dropout(x)
        for factor in self.factors:
            z = z @ factor.T
        out: Tensor = self.base(x)
        return out + z * self.scaling

    def merge_(self) -> None:
        weight = self.base.weight
        with torch.no_grad():
            wide = torch.promote_types(weight.dtype, torch.float32)
            a, b = (factor.to(wide) for factor in self.factors)
            weight.copy_(weight.to(wide) + (b @ a) * self.scaling)
            for factor in self.factors:
                factor.zero_()


def adapters(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            yield name, module


def factors(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for name, adapter in adapters(model):
        yield ".".join(filter(None, (name, "lora_A"))), adapter.lora_A
        yield ".".join(filter(None, (name, "lora_B"))), adapter.lora_B


def bare_linears(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    bases = {id(adapter.base) for _, adapter in adapters(model)}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear) and id(module) not in bases:
            yield name, module


def hits(
    linears: Iterable[tuple[str, nn.Linear]], targets: Sequence[str]
) -> Iterator[tuple[str, nn.Linear, str]]:
    for name, linear in linears:
        for target in targets:
            if name == target or name.endswith("." + target):
                yield name, linear, target


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    found = list(hits(bare_linears(model), target_modules))
    unmatched = set(target_modules) - {target for _, _, target in found}
    if unmatched:
        raise ValueError(f"target_modules: no linear to wrap for {sorted(unmatched)}")
    sites = {name: linear for name, linear, _ in found}
    new = {linear: LoRALinear(linear, r, alpha, dropout) for linear in dict.fromkeys(sites.values())}
    for name, linear in sites.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, new[linear])
    keep = {id(p) for _, p in factors(model)}
    for p in model.parameters():
        if id(p) not in keep:
            p.requires_grad_(False)
    return list(sites)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in factors(model)}


def problems(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Iterator[str]:
    for name, value in state.items():
        if value.shape != own[name].shape:
            yield f"{name}: shape {tuple(value.shape)}, expected {tuple(own[name].shape)}"
        elif not value.to(own[name].dtype).isfinite().all():
            yield f"{name}: NaN or infinity"


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = dict(factors(model))
    unexpected = [name for name in state if name not in own]
    if unexpected:
        raise KeyError(f"state: not in this model: {unexpected}")
    found = list(problems(own, state))
    if found:
        raise ValueError("; ".join(found))
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(value)
