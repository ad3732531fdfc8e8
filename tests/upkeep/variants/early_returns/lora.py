"""The style of someone who returns early: nothing to add, nothing to compute."""

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
    dropout: nn.Dropout

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
            raise TypeError(f"base: expected nn.Linear, got {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r: expected r >= 1, got {r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected [0, 1), got {dropout}")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.dropout = nn.Dropout(dropout)
        self.lora_A = nn.Parameter(base.weight.new_empty(r, base.in_features))
        self.lora_B = nn.Parameter(base.weight.new_zeros(base.out_features, r))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.train(base.training)
        if not freeze_base:
            return
        base.weight.requires_grad_(False)
        if base.bias is None:
            return
        base.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        if not torch.is_grad_enabled() and not self.lora_B.any():
            return out  # inference with a merged or a fresh adapter: the branch is zero
        return out + self.scaling * F.linear(F.linear(self.dropout(x), self.lora_A), self.lora_B)

    @torch.no_grad()
    def merge_(self) -> None:
        A, B, W = self.lora_A, self.lora_B, self.base.weight
        if not B.any():
            A.zero_()
            return
        if not A.any():
            B.zero_()
            return
        wide = torch.promote_types(W.dtype, torch.float32)
        W.copy_(W.to(wide) + self.scaling * (B.to(wide) @ A.to(wide)))
        A.zero_()
        B.zero_()


def _matches(name: str, targets: Sequence[str]) -> set[str]:
    return {t for t in targets if name == t or name.endswith("." + t)}


def _refuse_unmatched(targets: Sequence[str], names: Sequence[str]) -> None:
    unmatched = set(targets).difference(*(_matches(name, targets) for name in names))
    if not unmatched:
        return
    raise ValueError(f"target_modules: {', '.join(sorted(unmatched))} matched nothing")


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    skip = {m.base for m in model.modules() if isinstance(m, LoRALinear)}
    found: dict[str, nn.Linear] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if not isinstance(module, nn.Linear):
            continue
        if module in skip:
            continue
        if not _matches(name, target_modules):
            continue
        found[name] = module
    _refuse_unmatched(target_modules, list(found))

    adapters: dict[nn.Linear, LoRALinear] = {}
    for name, linear in found.items():
        if linear not in adapters:
            adapters[linear] = LoRALinear(linear, r, alpha, dropout)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, adapters[linear])
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[-1] in ("lora_A", "lora_B"):
            continue
        parameter.requires_grad_(False)
    return list(found)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[-1] not in ("lora_A", "lora_B"):
            continue
        state[name] = parameter.detach().clone()
    return state


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = lora_state_dict(model)
    missing = sorted(own.keys() - state.keys())
    unexpected = sorted(state.keys() - own.keys())
    if missing or unexpected:
        raise KeyError(f"missing entries {missing}, unexpected entries {unexpected}")
    wrong = {k: tuple(state[k].shape) for k in own if state[k].shape != own[k].shape}
    if wrong:
        raise ValueError(f"entries of the wrong shape: {wrong}")
    bad = [k for k in own if not state[k].isfinite().all()]
    if bad:
        raise ValueError(f"entries that are not finite: {bad}")
    if not own:
        return
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name in own:
            parameters[name].copy_(state[name])
