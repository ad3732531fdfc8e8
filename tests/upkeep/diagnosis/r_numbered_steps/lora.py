"""LoRA for nn.Linear. The comments carry the numbers of the tasks, A1 to D3."""

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
        # A1.1 refuse what cannot work
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base: expected nn.Linear, got {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r: expected >= 1, got {r}")
        if dropout < 0.0 or dropout >= 1.0:
            raise ValueError(f"dropout: expected in [0, 1), got {dropout}")
        # A1.2 store the fields
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        # A2 two matrices like base.weight
        self.lora_A = nn.Parameter(base.weight.new_empty((r, base.in_features)))
        self.lora_B = nn.Parameter(base.weight.new_empty((base.out_features, r)))
        # A3 A random (but the same in every run), B zero
        torch.manual_seed(0)
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)
        # A4.1 dropout of the branch
        self.dropout = nn.Dropout(dropout)
        # A4.2 base's mode
        self.train(base.training)
        # A6 only A and B train
        if freeze_base:
            base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        # A5.1 the base
        out: Tensor = self.base(x)
        # A5.2 the branch: drop, down to r, up to out
        dropped: Tensor = self.dropout(x)
        down = F.linear(dropped, self.lora_A)
        up = F.linear(down, self.lora_B)
        # A5.3 the sum
        return out + self.scaling * up

    def merge_(self) -> None:
        with torch.no_grad():
            # D1.1 compute wide
            weight = self.base.weight
            wide = torch.promote_types(weight.dtype, torch.float32)
            update = self.scaling * (self.lora_B.to(wide) @ self.lora_A.to(wide))
            # D1.2 write once
            weight.copy_(weight.to(wide) + update)
            # D1.3 both factors to zero
            self.lora_A.zero_()
            self.lora_B.zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    # B1.1 bases that are wrapped already
    old_bases = {m.base for m in model.modules() if isinstance(m, LoRALinear)}
    # B1.2 collect
    found: dict[str, nn.Linear] = {}
    matched: set[str] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        if not isinstance(module, nn.Linear) or module in old_bases:
            continue
        for target in target_modules:
            if name == target or name.endswith("." + target):
                found[name] = module
                matched.add(target)
    # B1.3 refuse
    unmatched = [t for t in target_modules if t not in matched]
    if unmatched:
        raise ValueError(f"target_modules: no match for {unmatched}")
    # B2 replace
    adapters: dict[nn.Linear, LoRALinear] = {}
    for name, linear in found.items():
        if linear not in adapters:
            adapters[linear] = LoRALinear(linear, r=r, alpha=alpha, dropout=dropout)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, adapters[linear])
    # B3.1 which parameters are adapters
    trainable: set[nn.Parameter] = set()
    for module in model.modules():
        if isinstance(module, LoRALinear):
            trainable |= {module.lora_A, module.lora_B}
    # B3.2 freeze the rest
    for param in model.parameters():
        if param not in trainable:
            param.requires_grad_(False)
    # B3.3 the names
    return list(found)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    # C1 copies by name
    return {
        name: param.detach().clone()
        for name, param in model.named_parameters()
        if name.rpartition(".")[2] in ("lora_A", "lora_B")
    }


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    # C2.1 names, both ways
    params = dict(model.named_parameters())
    own = {n: p for n, p in params.items() if n.rpartition(".")[2] in ("lora_A", "lora_B")}
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unexpected:
        raise KeyError(f"state: missing {missing}, unexpected {unexpected}")
    for name, param in own.items():
        value = state[name]
        # C2.2 shape and values
        if value.shape != param.shape:
            raise ValueError(f"{name}: expected {tuple(param.shape)}, got {tuple(value.shape)}")
        if not value.isfinite().all():
            raise ValueError(f"{name}: NaN or infinity")
        # C2.3 write
        with torch.no_grad():
            param.copy_(value)
