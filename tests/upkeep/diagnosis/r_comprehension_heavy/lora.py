"""LoRA, one comprehension after the other."""

from __future__ import annotations

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
            raise TypeError(f"base: nn.Linear please, not {type(base).__name__}")
        complaints = [
            text
            for wrong, text in (
                (r < 1, f"r: at least 1 please, not {r}"),
                (not 0 <= dropout < 1, f"dropout: in [0, 1) please, not {dropout}"),
            )
            if wrong
        ]
        if complaints:
            raise ValueError("; ".join(complaints))
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        shapes = ((r, base.in_features), (base.out_features, r))
        self.lora_A, self.lora_B = (nn.Parameter(base.weight.new_zeros(s)) for s in shapes)
        nn.init.kaiming_uniform_(self.lora_A, a=5**0.5)
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)
        if freeze_base:
            base.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        return y + self.scaling * F.linear(F.linear(self.dropout(x), self.lora_A), self.lora_B)

    @torch.no_grad()
    def merge_(self) -> None:
        dtype = self.base.weight.dtype
        wide = torch.promote_types(dtype, torch.float32)
        W, A, B = (t.to(wide) for t in (self.base.weight, self.lora_A, self.lora_B))
        self.base.weight.copy_(W + B @ A)
        for p in (self.lora_A, self.lora_B):
            p.zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    bases = [id(m.base) for m in model.modules() if isinstance(m, LoRALinear)]
    linears = {
        name: m
        for name, m in model.named_modules(remove_duplicate=False)
        if isinstance(m, nn.Linear) and id(m) not in bases
    }
    hits = {
        t: [name for name in linears if name == t or name.endswith("." + t)]
        for t in target_modules
    }
    if not all(hits.values()):
        raise ValueError(f"target_modules: nothing for {[t for t, n in hits.items() if not n]}")
    found = {name: linears[name] for names in hits.values() for name in names}
    adapters = {
        linear: LoRALinear(linear, r=r, alpha=alpha, dropout=dropout)
        for linear in {id(m): m for m in found.values()}.values()
    }
    for parent, child, linear in [
        (name.rpartition(".")[0], name.rpartition(".")[2], m) for name, m in found.items()
    ]:
        setattr(model.get_submodule(parent), child, adapters[linear])
    factors = [
        id(p) for m in model.modules() if isinstance(m, LoRALinear) for p in (m.lora_A, m.lora_B)
    ]
    for param in [p for p in model.parameters() if id(p) not in factors]:
        param.requires_grad_(False)
    return [name for name in found]


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: p.detach().clone()
        for name, p in model.named_parameters()
        if any(name.split(".")[-1] == last for last in ("lora_A", "lora_B"))
    }


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = {
        name: p
        for name, p in model.named_parameters()
        if any(name.split(".")[-1] == last for last in ("lora_A", "lora_B"))
    }
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    if missing or unexpected:
        raise KeyError(f"state: missing {missing}, unexpected {unexpected}")
    wrong = [
        f"{name}: {tuple(p.shape)} please, not {tuple(state[name].shape)}"
        for name, p in own.items()
        if p.shape != state[name].shape
    ]
    wrong += [f"{name}: finite please" for name in own if not state[name].isfinite().all()]
    if wrong:
        raise ValueError("; ".join(wrong))
    with torch.no_grad():
        for name, p in own.items():
            p.copy_(state[name])
