# A1..D3 in the order of the lab page. I kept the numbers so that I find my way back.

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

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
        super(LoRALinear, self).__init__()

        # A1
        if not isinstance(base, nn.Linear):
            raise TypeError("base: expected nn.Linear but got %s" % type(base).__name__)
        if r < 0:
            raise ValueError("r: expected at least 1 but got %d" % r)
        if dropout < 0 or dropout >= 1:
            raise ValueError("dropout: expected [0, 1) but got %s" % dropout)
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r

        # A2
        weight = base.weight
        A = torch.empty(r, base.in_features).to(weight)
        B = torch.empty(base.out_features, r).to(weight)

        # A3
        nn.init.kaiming_uniform_(A, a=math.sqrt(5))
        nn.init.zeros_(B)
        self.lora_A = nn.Parameter(A)
        self.lora_B = nn.Parameter(B)

        # A4 (the probability is all I need; see forward)
        self.dropout_p = dropout
        self.train(base.training)

        # A6
        if freeze_base:
            for p in base.parameters():
                p.requires_grad = False

    # A5
    def forward(self, x: Tensor) -> Tensor:
        h = F.dropout(x, p=self.dropout_p, training=self.training)
        h = F.linear(h, self.lora_A)
        h = F.linear(h, self.lora_B)
        out: Tensor = self.base(x)
        return out + h * self.scaling

    # D1
    def merge_(self) -> None:
        self.eval()
        with torch.no_grad():
            W = self.base.weight
            calc = torch.float64 if W.dtype == torch.float64 else torch.float32
            delta = torch.mm(self.lora_B.to(calc), self.lora_A.to(calc)) * self.scaling
            W.copy_((W.to(calc) + delta).to(W.dtype))
            # D3: zero factors make a second merge harmless
            self.lora_A.fill_(0)
            self.lora_B.fill_(0)


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    # B1
    not_again = []
    for m in model.modules():
        if isinstance(m, LoRALinear):
            not_again.append(id(m.base))

    found = []
    used = []
    for name, m in model.named_modules(remove_duplicate=False):
        if not isinstance(m, nn.Linear):
            continue
        if id(m) in not_again:
            continue
        take = False
        for t in target_modules:
            if name == t or name.endswith("." + t):
                used.append(t)
                take = True
        if take:
            found.append((name, m))
    for t in target_modules:
        if t not in used:
            raise ValueError("target_modules: nothing left to wrap for %r" % t)

    # B2
    layers: dict[int, LoRALinear] = {}
    for name, m in found:
        if id(m) not in layers:
            layers[id(m)] = LoRALinear(m, r, alpha, dropout)
        parts = name.split(".")
        parent = model
        for part in parts[:-1]:
            parent = parent.get_submodule(part)
        setattr(parent, parts[-1], layers[id(m)])

    # B3
    keep = []
    for m in model.modules():
        if isinstance(m, LoRALinear):
            keep.append(id(m.lora_A))
            keep.append(id(m.lora_B))
    for p in model.parameters():
        if id(p) not in keep:
            p.requires_grad = False
    return [name for name, _ in found]


# C1
def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    state = {}
    for name, m in model.named_modules():
        if isinstance(m, LoRALinear):
            start = name + "." if name else ""
            state[start + "lora_A"] = m.lora_A.detach().clone()
            state[start + "lora_B"] = m.lora_B.detach().clone()
    return state


# C2, C3
def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = lora_state_dict(model)
    missing = []
    unexpected = []
    for name in own:
        if name not in state:
            missing.append(name)
    for name in state:
        if name not in own:
            unexpected.append(name)
    if missing or unexpected:
        raise KeyError("missing %s unexpected %s" % (missing, unexpected))

    for name in own:
        want = tuple(own[name].shape)
        got = tuple(state[name].shape)
        if want != got:
            raise ValueError("%s: expected shape %s but got %s" % (name, want, got))
        if not torch.isfinite(state[name].to(own[name].dtype)).all():
            raise ValueError("%s: not finite" % name)

    with torch.no_grad():
        for name, m in model.named_modules():
            if isinstance(m, LoRALinear):
                start = name + "." if name else ""
                m.lora_A.copy_(state[start + "lora_A"])
                m.lora_B.copy_(state[start + "lora_B"])
