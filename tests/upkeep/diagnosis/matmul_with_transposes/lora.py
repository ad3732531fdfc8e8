"""Low-rank adapters written with plain @ and .T, the way the formula stands in the paper.

y = x Wᵀ + s · (x Aᵀ) Bᵀ
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class LoRALinear(nn.Module):
    """W stays, A and B learn."""

    def __init__(
        self,
        base: nn.Linear,
        r: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        freeze_base: bool = True,
    ) -> None:
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base: wanted nn.Linear, got {base.__class__.__name__}")
        if r <= 0:
            raise ValueError(f"r: wanted at least 1, got {r}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout: wanted a value in [0, 1), got {dropout}")
        super().__init__()
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling: float = alpha / r
        self.dropout = nn.Dropout(dropout)

        n_in, n_out = base.in_features, base.out_features
        bound = n_in**-0.5
        self.lora_A = nn.Parameter(base.weight.detach().new_empty(r, n_in).uniform_(-bound, bound))
        self.lora_B = nn.Parameter(base.weight.detach().new_zeros(n_out, r))

        if freeze_base:
            for p in base.parameters():
                p.requires_grad = False

        self.train(mode=base.training)

    def forward(self, x: Tensor) -> Tensor:
        W, A, B = self.base.weight, self.lora_A, self.lora_B
        z: Tensor = self.dropout(x)
        return x @ W.T + self.scaling * (z @ A.T @ B.T)

    def merge_(self) -> None:
        W = self.base.weight
        acc = torch.float64 if W.dtype == torch.float64 else torch.float32
        with torch.no_grad():
            BA = self.lora_B.to(acc) @ self.lora_A.to(acc)
            new = W.to(acc) + BA * self.scaling
            W.copy_(new.to(W.dtype))
            self.lora_A.fill_(0.0)
            self.lora_B.fill_(0.0)


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    """Put a LoRALinear around each target; everything else stops training."""
    already = set()
    for m in model.modules():
        if isinstance(m, LoRALinear):
            already.add(m.base)

    todo: dict[str, nn.Linear] = {}
    for target in target_modules:
        n_before = 0
        for name, m in model.named_modules(remove_duplicate=False):
            if isinstance(m, nn.Linear) and m not in already:
                if name == target or name.endswith(f".{target}"):
                    todo[name] = m
                    n_before += 1
        if n_before == 0:
            raise ValueError(f"target_modules: {target!r} matches no linear that is left to wrap")

    new_layers: dict[nn.Linear, LoRALinear] = {}
    for name, linear in todo.items():
        layer = new_layers.get(linear)
        if layer is None:
            layer = LoRALinear(linear, r=r, alpha=alpha, dropout=dropout)
            new_layers[linear] = layer
        if "." in name:
            where, last = name.rsplit(".", 1)
            setattr(model.get_submodule(where), last, layer)
        else:
            setattr(model, name, layer)

    keep: list[int] = []
    for m in model.modules():
        if isinstance(m, LoRALinear):
            keep += [id(m.lora_A), id(m.lora_B)]
    for p in model.parameters():
        if id(p) not in keep:
            p.requires_grad = False
    return list(todo)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The adapters alone."""
    result: dict[str, Tensor] = {}
    for name, m in model.named_modules():
        if isinstance(m, LoRALinear):
            for short, p in (("lora_A", m.lora_A), ("lora_B", m.lora_B)):
                result[f"{name}.{short}" if name else short] = p.detach().clone()
    return result


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Check first, write after."""
    want = lora_state_dict(model)
    if want.keys() != state.keys():
        missing = [k for k in want if k not in state]
        extra = [k for k in state if k not in want]
        raise KeyError(f"state: missing: {missing}; unexpected: {extra}")
    for k in want:
        if want[k].shape != state[k].shape:
            raise ValueError(f"{k}: shape {tuple(state[k].shape)}, wanted {tuple(want[k].shape)}")
        if not state[k].to(want[k].dtype).isfinite().all().item():
            raise ValueError(f"{k}: holds NaN or infinity, wanted finite values")
    for k in want:
        with torch.no_grad():
            model.get_parameter(k).copy_(state[k])
