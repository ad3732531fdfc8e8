from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

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
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base has to be nn.Linear: {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r has to be at least 1: {r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout has to be in [0, 1): {dropout}")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        w = base.weight
        k = 1 / math.sqrt(base.in_features)
        self.lora_A = nn.Parameter(w.new_empty(r, base.in_features).uniform_(-k, k))
        self.lora_B = nn.Parameter(w.new_zeros(base.out_features, r))
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)
        if freeze_base:
            base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.dropout(x) @ self.lora_A.mT @ self.lora_B.mT
        y: Tensor = self.base(x)
        return y + self.scaling * z

    def merge_(self) -> None:
        with torch.no_grad():
            w = self.base.weight
            hi = torch.promote_types(w.dtype, torch.float32)
            w.copy_(w.to(hi) + self.alpha * (self.lora_B.to(hi) @ self.lora_A.to(hi)))
            self.lora_A.zero_()
            self.lora_B.zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    done = {m.base for m in model.modules() if isinstance(m, LoRALinear)}
    todo: dict[str, nn.Linear] = {}
    for t in target_modules:
        n_before = 0
        for name, m in model.named_modules(remove_duplicate=False):
            if isinstance(m, nn.Linear) and m not in done and ("." + name).endswith("." + t):
                todo[name] = m
                n_before += 1
        if n_before == 0:
            raise ValueError(f"target_modules: {t} has no linear left")

    new = {m: LoRALinear(m, r, alpha, dropout) for m in list(dict.fromkeys(todo.values()))}
    for name, m in todo.items():
        at = name.rfind(".")
        setattr(model.get_submodule(name[: max(at, 0)]), name[at + 1 :], new[m])

    model_loras = [m for m in model.modules() if isinstance(m, LoRALinear)]
    ab = {id(p) for m in model_loras for p in (m.lora_A, m.lora_B)}
    for p in model.parameters():
        if id(p) not in ab:
            p.requires_grad_(False)
    return list(todo)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    out = {}
    for name, m in model.named_modules():
        if isinstance(m, LoRALinear):
            for k, p in m.named_parameters(name, recurse=False):
                out[k] = p.detach().clone()
    return out


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = {k: model.get_parameter(k) for k in lora_state_dict(model)}
    if set(own) != set(state):
        raise KeyError(f"missing {set(own) - set(state)}, unexpected {set(state) - set(own)}")
    for k, p in own.items():
        v = state[k]
        if v.shape != p.shape:
            raise ValueError(f"{k} has to be {tuple(p.shape)}: {tuple(v.shape)}")
        if not v.to(p.dtype).isfinite().all():
            raise ValueError(f"{k} has to be finite")
    with torch.no_grad():
        for k, p in own.items():
            p.copy_(state[k])
