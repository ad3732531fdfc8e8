"""LoRA layer, wrapping, saving and loading."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class LoRALinear(nn.Module):
    """y = base(x) + scaling * B A dropout(x)."""

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
            raise TypeError(
                "base: expected {want}, got {got}".format(want="nn.Linear", got=type(base).__name__)
            )
        if r < 1:
            raise ValueError("r: expected at least {want}, got {got}".format(want=1, got=r))
        if dropout < 0.0 or dropout >= 1.0:
            raise ValueError("dropout: expected {want}, got {got}".format(want="[0, 1)", got=dropout))

        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r

        a = torch.empty(size=(r, base.in_features), dtype=base.weight.dtype, device=base.weight.device)
        b = torch.empty(size=(base.out_features, r), dtype=base.weight.dtype, device=base.weight.device)
        self.lora_A = nn.Parameter(data=a, requires_grad=True)
        self.lora_B = nn.Parameter(data=b, requires_grad=True)
        nn.init.kaiming_uniform_(tensor=self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(tensor=self.lora_B)

        self.dropout = nn.Dropout(p=dropout, inplace=False)
        self.train(mode=base.training)

        if freeze_base:
            base.requires_grad_(requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        frozen: Tensor = self.base(x)
        # the small factors are sensitive, so the branch is kept in full precision
        dropped = self.dropout(x).to(dtype=torch.float32)
        down = F.linear(input=dropped, weight=self.lora_A.to(dtype=torch.float32))
        up = F.linear(input=down, weight=self.lora_B.to(dtype=torch.float32))
        return torch.add(input=frozen, other=up, alpha=self.scaling)

    def merge_(self) -> None:
        weight = self.base.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        with torch.no_grad():
            summed = torch.addmm(
                input=weight.to(dtype=dtype),
                mat1=self.lora_B.to(dtype=dtype),
                mat2=self.lora_A.to(dtype=dtype),
                beta=1.0,
                alpha=self.scaling,
            )
            weight.copy_(summed.to(dtype=weight.dtype))
            nn.init.zeros_(tensor=self.lora_A)
            nn.init.zeros_(tensor=self.lora_B)


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    bases = frozenset(id(m.base) for m in model.modules() if isinstance(m, LoRALinear))
    selection: dict[str, nn.Linear] = dict()
    matched: set[str] = set()
    for name, module in model.named_modules(prefix="", remove_duplicate=False):
        eligible = isinstance(module, nn.Linear) and id(module) not in bases
        targets = [t for t in target_modules if name == t or name.endswith("." + t)]
        if eligible and targets:
            matched.update(targets)
            selection[name] = module
    for target in target_modules:
        if target not in matched:
            raise ValueError(
                "target_modules: expected a linear for each, got none for {t!r}".format(t=target)
            )

    adapters: dict[int, LoRALinear] = dict()
    for name, linear in selection.items():
        if id(linear) not in adapters:
            adapters[id(linear)] = LoRALinear(
                base=linear, r=r, alpha=alpha, dropout=dropout, freeze_base=True
            )
        head, _, tail = name.rpartition(".")
        setattr(model.get_submodule(target=head), tail, adapters[id(linear)])

    trainable = {id(p) for p in lora_parameters(model=model).values()}
    for parameter in model.parameters(recurse=True):
        if id(parameter) not in trainable:
            parameter.requires_grad_(requires_grad=False)
    return list(selection.keys())


def lora_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    result: dict[str, nn.Parameter] = dict()
    for name, module in model.named_modules(prefix="", remove_duplicate=True):
        if isinstance(module, LoRALinear):
            for which in ("lora_A", "lora_B"):
                full = ".".join(part for part in (name, which) if part)
                result[full] = module.get_parameter(target=which)
    return result


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in lora_parameters(model=model).items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = lora_parameters(model=model)
    missing = sorted(set(own.keys()).difference(state.keys()))
    unexpected = sorted(set(state.keys()).difference(own.keys()))
    if missing or unexpected:
        raise KeyError("state: missing {m}, unexpected {u}".format(m=missing, u=unexpected))
    for name, parameter in own.items():
        value = state[name]
        if value.shape != parameter.shape:
            raise ValueError(
                "{n}: expected shape {w}, got {g}".format(
                    n=name, w=tuple(parameter.shape), g=tuple(value.shape)
                )
            )
        if not torch.isfinite(input=value.to(dtype=parameter.dtype)).all():
            raise ValueError("{n}: expected finite values".format(n=name))
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])
