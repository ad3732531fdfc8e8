"""The style of someone who sees one matrix: without dropout the layer is F.linear with W + s·B A."""

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
            raise ValueError(f"r: expected at least 1, got {r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected in [0, 1), got {dropout}")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.lora_A = nn.Parameter(base.weight.new_empty(r, base.in_features))
        self.lora_B = nn.Parameter(base.weight.new_zeros(base.out_features, r))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.dropout = nn.Dropout(dropout)
        if freeze_base:
            base.requires_grad_(False)
        self.train(base.training)

    def dense(self) -> Tensor:
        """W + (α/r) B A in float32 or wider: what merge_ keeps."""
        wide = torch.promote_types(self.base.weight.dtype, torch.float32)
        delta = self.lora_B.to(wide) @ self.lora_A.to(wide)
        return self.base.weight.to(wide) + self.scaling * delta

    def forward(self, x: Tensor) -> Tensor:
        drops = self.training and self.dropout.p > 0
        small = self.base.weight.dtype in (torch.float16, torch.bfloat16)  # rounding W + ΔW loses ΔW
        if not drops and not small and type(self.base) is nn.Linear:
            return F.linear(x, self.dense(), self.base.bias)
        out: Tensor = self.base(x)
        return out + F.linear(self.dropout(x), self.scaling * (self.lora_B @ self.lora_A))

    @torch.no_grad()
    def merge_(self) -> None:
        self.base.weight.copy_(self.dense())
        self.lora_A.zero_()
        self.lora_B.zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    old = {m.base for m in model.modules() if isinstance(m, LoRALinear)}
    found: dict[str, nn.Linear] = {}
    matched: set[str] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        for target in target_modules:
            if name != target and not name.endswith("." + target):
                continue
            if isinstance(module, nn.Linear) and module not in old:
                found[name] = module
                matched.add(target)
    if set(target_modules) - matched:
        raise ValueError(f"target_modules: no match for {sorted(set(target_modules) - matched)}")
    new = {linear: LoRALinear(linear, r, alpha, dropout) for linear in dict.fromkeys(found.values())}
    for name, linear in found.items():
        *path, last = name.split(".")
        setattr(model.get_submodule(".".join(path)), last, new[linear])
    for name, p in model.named_parameters():
        if name.rpartition(".")[2] not in ("lora_A", "lora_B"):
            p.requires_grad_(False)
    return list(found)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: p.detach().clone()
        for name, p in model.named_parameters()
        if name.rpartition(".")[2] in ("lora_A", "lora_B")
    }


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    wanted = {
        name: p
        for name, p in model.named_parameters()
        if name.rpartition(".")[2] in ("lora_A", "lora_B")
    }
    wrong_names = [*(f"{n} is missing" for n in wanted if n not in state)]
    wrong_names += [f"{n} is unexpected" for n in state if n not in wanted]
    if wrong_names:
        raise KeyError(", ".join(wrong_names))
    wrong_values = [f"{n} has shape {tuple(v.shape)}" for n, v in state.items() if v.shape != wanted[n].shape]
    wrong_values += [f"{n} is not finite" for n, v in state.items() if not v.isfinite().all()]
    if wrong_values:
        raise ValueError(", ".join(wrong_values))
    with torch.no_grad():
        for n, v in state.items():
            wanted[n].copy_(v)
