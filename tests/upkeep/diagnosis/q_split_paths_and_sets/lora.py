from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class LoRALinear(nn.Module):
    """Linear layer plus low-rank update.

    base  : the layer we adapt
    lora_A: (r, in)
    lora_B: (out, r)
    """

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
            raise TypeError(f"base: need nn.Linear, got {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r: need at least 1, got {r}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout: need a value in [0, 1), got {dropout}")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.p = dropout
        opts = dict(dtype=base.weight.dtype, device=base.weight.device)
        self.lora_A = nn.Parameter(torch.zeros(r, base.in_features, **opts))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, r, **opts))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        if freeze_base:
            base.requires_grad_(False)
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        h = F.dropout(x, self.p, self.training)
        h = torch.matmul(h, self.lora_A.transpose(0, 1))
        h = torch.matmul(h, self.lora_B.transpose(0, 1))
        return self.base(x) + h * self.scaling

    def merge_(self) -> None:
        with torch.no_grad():
            old = self.base.weight
            wide = torch.promote_types(old.dtype, torch.float32)
            delta = torch.matmul(self.lora_B.to(wide), self.lora_A.to(wide)) * self.scaling
            new = (old.to(wide) + delta).to(old.dtype)
            old.copy_(new)
            self.lora_A.zero_()
            self.lora_B.zero_()


def _last(path: str) -> str:
    return path.split(".")[-1]


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    skip = {id(m.base) for m in model.modules() if isinstance(m, LoRALinear)}
    linears = {
        name: m
        for name, m in model.named_modules(remove_duplicate=False)
        if isinstance(m, nn.Linear) and id(m) not in skip
    }
    available = {_last(name) for name in linears}
    unmatched = [t for t in target_modules if _last(t) not in available]
    if unmatched:
        raise ValueError(f"target_modules: no unwrapped linear is called {unmatched}")

    wanted = {_last(t) for t in target_modules}
    picked = {name: m for name, m in linears.items() if _last(name) in wanted}
    one_each: dict[int, LoRALinear] = {}
    for name, m in picked.items():
        if id(m) not in one_each:
            one_each[id(m)] = LoRALinear(m, r=r, alpha=alpha, dropout=dropout)
        path = name.split(".")
        parent = model.get_submodule(".".join(path[:-1]))
        setattr(parent, path[-1], one_each[id(m)])

    learn = set()
    for m in model.modules():
        if isinstance(m, LoRALinear):
            learn |= {id(m.lora_A), id(m.lora_B)}
    for p in model.parameters():
        if id(p) not in learn:
            p.requires_grad_(False)
    return list(picked)


def _own(model: nn.Module) -> dict[str, nn.Parameter]:
    ids = set()
    for m in model.modules():
        if isinstance(m, LoRALinear):
            ids |= {id(m.lora_A), id(m.lora_B)}
    return {name: p for name, p in model.named_parameters() if id(p) in ids}


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in _own(model).items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = _own(model)
    have, got = set(own), set(state)
    if have ^ got:
        raise KeyError(f"missing {sorted(have - got)} and unexpected {sorted(got - have)}")
    for name in sorted(have):
        if own[name].shape != state[name].shape:
            raise ValueError(
                f"{name}: need shape {tuple(own[name].shape)}, got {tuple(state[name].shape)}"
            )
        if not torch.isfinite(state[name].to(own[name].dtype)).all():
            raise ValueError(f"{name}: need finite values, got NaN or infinity")
    with torch.no_grad():
        for name in have:
            own[name].copy_(state[name])
