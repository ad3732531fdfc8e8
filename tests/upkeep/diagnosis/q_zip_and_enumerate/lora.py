from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")
FACTORS = ("lora_A", "lora_B")


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
            raise TypeError(f"base: expected nn.Linear, got {type(base).__name__}")
        limits = (("r", r, r >= 1, "at least 1"), ("dropout", dropout, 0 <= dropout < 1, "[0, 1)"))
        for argument, got, fine, wanted in limits:
            if not fine:
                raise ValueError(f"{argument}: expected {wanted}, got {got}")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        shapes = ((r, base.in_features), (base.out_features, r))
        for name, shape in zip(FACTORS, shapes, strict=True):
            self.register_parameter(name, nn.Parameter(base.weight.new_zeros(shape)))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)
        if freeze_base:
            for p in base.parameters():
                p.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.dropout(x)
        for w in (self.lora_A, self.lora_B):
            h = F.linear(h, w)
        y: Tensor = self.base(x)
        return y + self.scaling * h

    @torch.no_grad()
    def merge_(self) -> None:
        w = self.base.weight
        wide = torch.promote_types(w.dtype, torch.float32)
        # sum of r outer products
        total = w.to(wide).clone()
        delta = torch.zeros_like(total)
        for column, row in zip(self.lora_B.to(wide).unbind(1), self.lora_A.to(wide), strict=True):
            delta += torch.outer(column, row)
        w.copy_(total + self.scaling * delta)
        for name in FACTORS:
            self.get_parameter(name).zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    bases = {id(m.base) for m in model.modules() if isinstance(m, LoRALinear)}
    counts = [0] * len(target_modules)
    names: list[str] = []
    linears: list[nn.Linear] = []
    for name, m in model.named_modules(remove_duplicate=False):
        if not isinstance(m, nn.Linear) or id(m) in bases:
            continue
        hits = [i for i, t in enumerate(target_modules) if name == t or name.endswith("." + t)]
        for i in hits:
            counts[i] += 1
        if hits:
            names.append(name)
            linears.append(m)
    unmatched = [t for t, n in zip(target_modules, counts, strict=True) if n == 0]
    if unmatched:
        raise ValueError(f"target_modules: nothing to wrap for {unmatched}")

    adapters: dict[int, LoRALinear] = {}
    for name, linear in zip(names, linears, strict=True):
        if id(linear) not in adapters:
            adapters[id(linear)] = LoRALinear(linear, r, alpha, dropout)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, adapters[id(linear)])

    # the pretrained model is only used from here on, it does not learn
    model.eval()
    keep = {id(p) for _, p in factor_list(model)}
    for p in model.parameters():
        if id(p) not in keep:
            p.requires_grad_(False)
    return names


def factor_list(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """(full name, factor), in the order of the modules."""
    out: list[tuple[str, nn.Parameter]] = []
    for name, m in model.named_modules():
        if isinstance(m, LoRALinear):
            for which in FACTORS:
                out.append((f"{name}.{which}" if name else which, m.get_parameter(which)))
    return out


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    names, factors = zip(*factor_list(model), strict=True) if factor_list(model) else ((), ())
    return dict(zip(names, (p.detach().clone() for p in factors), strict=True))


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    pairs = factor_list(model)
    names = [name for name, _ in pairs]
    missing = [name for name in names if name not in state]
    unexpected = [name for name in state if name not in names]
    if missing or unexpected:
        raise KeyError(f"state: missing {missing}, unexpected {unexpected}")
    for name, p in pairs:
        if tuple(p.shape) != tuple(state[name].shape):
            raise ValueError(f"{name}: expected {tuple(p.shape)}, got {tuple(state[name].shape)}")
        if not state[name].to(p.dtype).isfinite().all():
            raise ValueError(f"{name}: expected finite values, got NaN or infinity")
    with torch.no_grad():
        for (_, p), value in zip(pairs, state.values(), strict=True):
            p.copy_(value)
