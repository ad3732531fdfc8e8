"""The style of someone fond of match: cases instead of ifs, and children swapped until none is left."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class LoRALinear(nn.Module):
    base: nn.Linear
    r: int
    alpha: float
    scaling: float
    lora_A: nn.Parameter
    lora_B: nn.Parameter
    dropout: nn.Module

    def __init__(
        self,
        base: nn.Linear,
        r: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        freeze_base: bool = True,
    ) -> None:
        super().__init__()
        match base:
            case nn.Linear():
                self.base = base
            case _:
                raise TypeError(f"base: expected nn.Linear, got {type(base).__name__}")
        match r:
            case int() if r > 0:
                self.r = r
            case _:
                raise ValueError(f"r: expected a positive int, got {r}")
        match dropout:
            case 0:
                self.dropout = nn.Identity()
            case p if 0 < p < 1:
                self.dropout = nn.Dropout(p)
            case _:
                raise ValueError(f"dropout: expected [0, 1), got {dropout}")
        self.alpha = alpha
        self.scaling = alpha / r
        self.lora_A = nn.Parameter(base.weight.new_empty(r, base.in_features))
        self.lora_B = nn.Parameter(base.weight.new_zeros(base.out_features, r))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        match freeze_base, base.bias:
            case False, _:
                pass
            case True, None:
                base.weight.requires_grad_(False)
            case _:
                base.weight.requires_grad_(False)
                base.bias.requires_grad_(False)
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        return out + self.scaling * F.linear(F.linear(self.dropout(x), self.lora_A), self.lora_B)

    def merge_(self) -> None:
        match self.base.weight.dtype:
            case torch.float64:
                wide = torch.float64
            case _:
                wide = torch.float32
        with torch.no_grad():
            weight = self.base.weight
            weight.copy_(weight.to(wide) + self.scaling * (self.lora_B.to(wide) @ self.lora_A.to(wide)))
            for factor in (self.lora_A, self.lora_B):
                factor.zero_()


def _hits(name: str, targets: Sequence[str]) -> set[str]:
    return {t for t in targets if name == t or name.endswith("." + t)}


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    inside = {m.base for m in model.modules() if isinstance(m, LoRALinear)}
    wanted: dict[nn.Linear, list[str]] = {}
    missed = set(target_modules)
    for name, module in model.named_modules(remove_duplicate=False):
        match module:
            case nn.Linear() if module not in inside:
                if hits := _hits(name, target_modules):
                    missed -= hits
                    wanted.setdefault(module, []).append(name)
            case _:
                pass
    match sorted(missed):
        case []:
            pass
        case [one]:
            raise ValueError(f"target_modules: {one} matches no linear")
        case many:
            raise ValueError(f"target_modules: {', '.join(many)} match no linear")
    made = {linear: LoRALinear(linear, r, alpha, dropout) for linear in wanted}
    # named_children() shows a child that has two names in one parent once: so again until it is quiet.
    swapped = True
    while swapped:
        swapped = False
        for parent in list(model.modules()):
            for child_name, child in list(parent.named_children()):
                match parent, child:
                    case LoRALinear(), _:
                        pass
                    case _, nn.Linear() if child in made:
                        setattr(parent, child_name, made[child])
                        swapped = True
    for module in model.modules():
        match module:
            case LoRALinear():
                pass
            case _:
                for parameter in module.parameters(recurse=False):
                    parameter.requires_grad_(False)
    return [name for names in wanted.values() for name in names]


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        match name.split("."):
            case [*_, "lora_A" | "lora_B"]:
                state[name] = parameter.detach().clone()
    return state


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = lora_state_dict(model)
    match sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys()):
        case [], []:
            pass
        case missing, []:
            raise KeyError(f"missing: {', '.join(missing)}")
        case [], unexpected:
            raise KeyError(f"unexpected: {', '.join(unexpected)}")
        case missing, unexpected:
            raise KeyError(f"missing: {', '.join(missing)}; unexpected: {', '.join(unexpected)}")
    misfits = [name for name in own if state[name].shape != own[name].shape]
    broken = [name for name in own if not state[name].isfinite().all()]
    match misfits, broken:
        case [], []:
            pass
        case _:
            raise ValueError(f"wrong shape: {misfits}; not finite: {broken}")
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name in own:
            parameters[name].copy_(state[name])
