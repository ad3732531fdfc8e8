"""Exported from my notebook; the cells are still to be seen."""

# %% imports
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


# %% the layer
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
            raise TypeError(f"base: nn.Linear please, got {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r: at least 1 please, got {r}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout: something in [0, 1) please, got {dropout}")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        opts = base.weight.dtype, base.weight.device
        self.lora_A = nn.Parameter(torch.zeros(r, base.in_features, dtype=opts[0], device=opts[1]))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, r, dtype=opts[0], device=opts[1]))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.lora_dropout = nn.Dropout(dropout)
        self.train(base.training)
        if freeze_base:
            self.base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.base(x)
        lora_out = F.linear(F.linear(self.lora_dropout(x), self.lora_A), self.lora_B)
        result = result + self.scaling * lora_out
        return result

    def merge_(self) -> None:
        with torch.no_grad():
            W = self.base.weight
            hi = torch.promote_types(W.dtype, torch.float32)
            merged = W.to(hi) + self.scaling * (self.lora_B.to(hi) @ self.lora_A.to(hi))
            self.base.weight = nn.Parameter(merged.to(W.dtype))
            self.lora_A.zero_()
            self.lora_B.zero_()


# %% which layers
def find_linears(model: nn.Module) -> dict[str, nn.Linear]:
    done = set()
    for mod in model.modules():
        if isinstance(mod, LoRALinear):
            done.add(mod.base)
    out = {}
    for name, mod in model.named_modules(remove_duplicate=False):
        if isinstance(mod, nn.Linear) and mod not in done:
            out[name] = mod
    return out


def name_fits(name: str, target: str) -> bool:
    if name == target:
        return True
    return name.endswith("." + target)


# %% put them in
def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    linears = find_linears(model)
    wanted = []
    for target in target_modules:
        fitting = [name for name in linears if name_fits(name, target)]
        if not fitting:
            raise ValueError(f"target_modules: no linear left that fits {target}")
        for name in fitting:
            if name not in wanted:
                wanted.append(name)

    cache: dict[nn.Linear, LoRALinear] = {}
    for name in wanted:
        lin = linears[name]
        if lin not in cache:
            cache[lin] = LoRALinear(lin, r=r, alpha=alpha, dropout=dropout)
        parent = model
        *path, attr = name.split(".")
        for step in path:
            parent = parent.get_submodule(step)
        setattr(parent, attr, cache[lin])

    trainable = {id(p) for p in get_factors(model).values()}
    for p in model.parameters():
        if id(p) not in trainable:
            p.requires_grad = False
    return wanted


# %% save
def get_factors(model: nn.Module) -> dict[str, nn.Parameter]:
    d = {}
    for name, mod in model.named_modules():
        if isinstance(mod, LoRALinear):
            base_name = name + "." if name else ""
            d[base_name + "lora_A"] = mod.lora_A
            d[base_name + "lora_B"] = mod.lora_B
    return d


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    d = {}
    for name, p in get_factors(model).items():
        d[name] = p.detach().clone()
    return d


# %% load
def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    d = get_factors(model)
    missing = [n for n in d if n not in state]
    unexpected = [n for n in state if n not in d]
    if missing or unexpected:
        raise KeyError(f"state: missing={missing} unexpected={unexpected}")
    for n, p in d.items():
        if state[n].shape != p.shape:
            raise ValueError(f"{n}: shape {tuple(p.shape)} please, got {tuple(state[n].shape)}")
        if not state[n].to(p.dtype).isfinite().all():
            raise ValueError(f"{n}: finite values please, got NaN or infinity")
    with torch.no_grad():
        for n, p in d.items():
            p.copy_(state[n])
