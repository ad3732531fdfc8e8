"""Lab 00. Everything that the wrapper knows about one place in the model sits in a Site."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class LoRALinear(nn.Module):
    base: nn.Linear
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
        self._validate(base, r, dropout)

        self.base = base
        self.r, self.alpha = r, alpha
        self.scaling = alpha / math.sqrt(r)

        bound = 1.0 / math.sqrt(base.in_features)
        self.lora_A = nn.Parameter(base.weight.new_empty(r, base.in_features))
        nn.init.uniform_(
            self.lora_A, -bound, bound
        )  # what kaiming_uniform_(a=sqrt 5) boils down to
        self.lora_B = nn.Parameter(base.weight.new_zeros(base.out_features, r))

        self.drop = nn.Dropout(p=dropout)
        self.train(base.training)

        if freeze_base:
            for p in base.parameters():
                p.requires_grad = False

    @staticmethod
    def _validate(base: nn.Module, r: int, dropout: float) -> None:
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base should be an nn.Linear, but it is a {type(base).__name__}")
        if r <= 0:
            raise ValueError(f"r should be at least 1, but it is {r}")
        if dropout < 0.0 or dropout >= 1.0:
            raise ValueError(f"dropout should lie in [0, 1), but it is {dropout}")

    def forward(self, x: Tensor) -> Tensor:
        down = nn.functional.linear(self.drop(x), self.lora_A)
        up = nn.functional.linear(down, self.lora_B)
        result: Tensor = self.base(x)
        return result + up.mul(self.scaling)

    @torch.no_grad()
    def merge_(self) -> None:
        w = self.base.weight
        acc = torch.promote_types(w.dtype, torch.float32)
        delta = torch.matmul(self.lora_B.to(acc), self.lora_A.to(acc)).mul_(self.scaling)
        w.copy_(delta.add_(w.to(acc)))
        for factor in (self.lora_A, self.lora_B):
            factor.fill_(0.0)


@dataclass
class Site:
    """One linear, and every (parent, attribute) under which the model reaches it."""

    linear: nn.Linear
    names: list[str] = field(default_factory=list)
    slots: list[tuple[nn.Module, str]] = field(default_factory=list)

    def fill(self, layer: LoRALinear) -> None:
        for parent, attribute in self.slots:
            setattr(parent, attribute, layer)


def _matches(name: str, target: str) -> bool:
    return ("." + name).endswith("." + target)


def _sites(model: nn.Module, targets: Sequence[str]) -> tuple[list[Site], list[str]]:
    """The places to wrap, and the targets nobody answered to."""
    taken = {id(m.base) for m in model.modules() if isinstance(m, LoRALinear)}
    sites: dict[int, Site] = {}
    answered: set[str] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        if not isinstance(module, nn.Linear) or id(module) in taken:
            continue
        hits = [t for t in targets if _matches(name, t)]
        if not hits:
            continue
        answered.update(hits)
        site = sites.setdefault(id(module), Site(module))
        above, _, attribute = name.rpartition(".")
        site.names.append(name)
        site.slots.append((model.get_submodule(above), attribute))
    return list(sites.values()), [t for t in targets if t not in answered]


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    sites, silent = _sites(model, target_modules)
    if silent:
        raise ValueError(f"target_modules: no linear left to wrap for {', '.join(silent)}")

    for site in sites:
        site.fill(LoRALinear(site.linear, r, alpha, dropout))

    factors: set[int] = set()
    for module in model.modules():
        if isinstance(module, LoRALinear):
            factors |= {id(module.lora_A), id(module.lora_B)}
    for name, p in model.named_parameters():
        is_bias = name.rpartition(".")[2] == "bias"
        p.requires_grad_(id(p) in factors or is_bias)

    return [name for site in sites for name in site.names]


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            dot = f"{name}." if name else ""
            out[dot + "lora_A"] = module.lora_A.detach().clone()
            out[dot + "lora_B"] = module.lora_B.detach().clone()
    return out


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    here: dict[str, nn.Parameter] = {}
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            dot = f"{name}." if name else ""
            here[dot + "lora_A"], here[dot + "lora_B"] = module.lora_A, module.lora_B

    lacking = [k for k in here if k not in state]
    strange = [k for k in state if k not in here]
    if lacking or strange:
        raise KeyError(f"the state lacks {lacking} and has {strange}, which the model has not")
    for key, p in here.items():
        if state[key].shape != p.shape:
            raise ValueError(
                f"{key}: shape {tuple(state[key].shape)}, the model has {tuple(p.shape)}"
            )
        if not torch.isfinite(state[key].to(p.dtype)).all():
            raise ValueError(f"{key}: some values are NaN or infinite")
    with torch.no_grad():
        for key, p in here.items():
            p.copy_(state[key])
