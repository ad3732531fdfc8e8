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
            kind = type(base).__name__
            raise TypeError("base must be an nn.Linear, not " + kind)
        if r <= 0:
            raise ValueError("r must be at least 1, got " + str(r))
        if not (dropout >= 0 and dropout < 1):
            raise ValueError("dropout must lie in [0, 1), got " + str(dropout))
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        n_out, n_in = base.out_features, base.in_features
        self.lora_A = nn.Parameter(base.weight.new_zeros(r, n_in))
        self.lora_B = nn.Parameter(base.weight.new_zeros(n_out, r))
        self.lora_bias = nn.Parameter(base.weight.new_zeros(n_out))
        bound = 1 / math.sqrt(n_in)
        nn.init.uniform_(self.lora_A, -bound, bound)
        self.drop = nn.Dropout(dropout)
        self.drop.train(base.training)
        self.training = base.training
        if freeze_base:
            base.weight.requires_grad_(False)
            if base.bias is not None:
                base.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        lead = x.shape[:-1]
        rows = self.drop(x).reshape(math.prod(lead), self.base.in_features)
        low = torch.mm(rows, self.lora_A.t())
        high = torch.addmm(self.lora_bias, low, self.lora_B.t())
        return self.base(x) + self.scaling * high.reshape(*lead, self.base.out_features)

    def merge_(self) -> None:
        with torch.no_grad():
            weight = self.base.weight
            dtype = torch.promote_types(weight.dtype, torch.float32)
            merged = torch.addmm(
                weight.to(dtype),
                self.lora_B.to(dtype),
                self.lora_A.to(dtype),
                alpha=self.scaling,
            )
            weight.copy_(merged)
            self.lora_A.fill_(0)
            self.lora_B.fill_(0)


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    inside = [m.base for m in model.modules() if isinstance(m, LoRALinear)]
    used: set[str] = set()
    todo: list[tuple[str, nn.Linear]] = []
    for name, module in model.named_modules(remove_duplicate=False):
        if not isinstance(module, nn.Linear):
            continue
        if any(module is b for b in inside):
            continue
        mine = [t for t in target_modules if ("." + name).endswith("." + t)]
        if mine:
            used.update(mine)
            todo.append((name, module))
    left = [t for t in target_modules if t not in used]
    if left:
        raise ValueError("target_modules: nothing to wrap for " + ", ".join(left))

    done: dict[nn.Module, LoRALinear] = {}
    for name, module in todo:
        if module not in done:
            done[module] = LoRALinear(module, r=r, alpha=alpha, dropout=dropout)
        if "." in name:
            where, leaf = name.rsplit(".", 1)
            setattr(model.get_submodule(where), leaf, done[module])
        else:
            setattr(model, name, done[module])

    trainable: set[int] = set()
    for m in model.modules():
        if isinstance(m, LoRALinear):
            trainable.add(id(m.lora_A))
            trainable.add(id(m.lora_B))
            trainable.add(id(m.lora_bias))
    for p in model.parameters():
        if id(p) not in trainable:
            p.requires_grad_(False)
    return [name for name, _ in todo]


def _table(model: nn.Module) -> dict[str, nn.Parameter]:
    table: dict[str, nn.Parameter] = {}
    for name, m in model.named_modules(remove_duplicate=False):
        if isinstance(m, LoRALinear):
            where = name + "." if name else ""
            table[where + "lora_A"] = m.lora_A
            table[where + "lora_B"] = m.lora_B
    return table


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in _table(model).items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    table = _table(model)
    missing = [k for k in table if k not in state]
    extra = [k for k in state if k not in table]
    if missing or extra:
        raise KeyError(f"missing in the state: {missing}; not in the model: {extra}")
    for k, v in state.items():
        p = table[k]
        if tuple(v.shape) != tuple(p.shape):
            raise ValueError(f"{k}: shape {tuple(v.shape)} does not fit {tuple(p.shape)}")
        if not bool(torch.isfinite(v.to(p.dtype)).all()):
            raise ValueError(f"{k}: not all values are finite")
    with torch.no_grad():
        for k, v in state.items():
            table[k].copy_(v)
