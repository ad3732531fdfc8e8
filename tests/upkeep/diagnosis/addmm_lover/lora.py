"""LoRA: fused multiply-adds wherever I can."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class LoRALinear(nn.Module):
    """A linear layer plus alpha/r * B @ A."""

    base: nn.Linear
    lora_A: nn.Parameter
    lora_B: nn.Parameter

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
            raise TypeError("base: expected nn.Linear, got " + type(base).__name__)
        if r < 1:
            raise ValueError("r: expected at least 1, got " + str(r))
        if not (dropout >= 0.0 and dropout < 1.0):
            raise ValueError("dropout: expected [0, 1), got " + str(dropout))

        self.base, self.r, self.alpha = base, r, alpha
        self.scaling = alpha / r
        self.drop = nn.Dropout(dropout)

        W = base.weight
        out_features, in_features = W.shape
        self.lora_A = nn.Parameter(torch.empty(r, in_features, device=W.device, dtype=W.dtype))
        self.lora_B = nn.Parameter(torch.empty(out_features, r, device=W.device, dtype=W.dtype))
        with torch.no_grad():
            self.lora_A.uniform_(-1 / math.sqrt(in_features), 1 / math.sqrt(in_features))
            self.lora_B.zero_()

        if freeze_base:
            W.requires_grad_(False)
            if base.bias is not None:
                base.bias.requires_grad_(False)
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        xa = torch.mm(self.drop(x), self.lora_A.t())
        return torch.addmm(y, xa, self.lora_B.t(), beta=1, alpha=self.scaling)

    def merge_(self) -> None:
        W = self.base.weight.detach()  # shares memory with the Parameter
        A, B = self.lora_A.detach(), self.lora_B.detach()
        t = W.dtype
        if t in (torch.bfloat16, torch.float16):
            t = torch.float32
        W.copy_(torch.addmm(W.to(t), B.to(t), A.to(t), alpha=self.scaling))
        A.zero_()
        B.zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    modules = list(model.named_modules(remove_duplicate=False))
    bases = {id(m.base) for _, m in modules if isinstance(m, LoRALinear)}
    suffixes = {t: "." + t for t in target_modules}

    hits_of = dict.fromkeys(target_modules, 0)
    picked: list[tuple[str, nn.Linear]] = []
    for name, m in modules:
        if isinstance(m, nn.Linear) and id(m) not in bases:
            n = 0
            for t, suffix in suffixes.items():
                if name == t or name.endswith(suffix):
                    hits_of[t] += 1
                    n += 1
            if n:
                picked.append((name, m))
    empty = [t for t, n in hits_of.items() if n == 0]
    if empty:
        raise ValueError(f"target_modules: expected unwrapped linears, got none for {empty}")

    done: dict[int, LoRALinear] = {}
    for name, m in picked:
        if id(m) not in done:
            done[id(m)] = LoRALinear(m, r, alpha, dropout)
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, done[id(m)])

    ab = {id(p) for m in model.modules() if isinstance(m, LoRALinear) for p in (m.lora_A, m.lora_B)}
    for p in model.parameters():
        if id(p) not in ab:
            p.requires_grad_(False)
    return [name for name, _ in picked]


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    ab = {id(p) for m in model.modules() if isinstance(m, LoRALinear) for p in (m.lora_A, m.lora_B)}
    return {n: p.detach().clone() for n, p in model.named_parameters() if id(p) in ab}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    names = set(lora_state_dict(model))
    params = {n: p for n, p in model.named_parameters() if n in names}

    bad_names = names ^ set(state)
    if bad_names:
        raise KeyError(
            f"missing: {sorted(bad_names & names)}, unexpected: {sorted(bad_names - names)}"
        )
    for n, p in params.items():
        v = state[n]
        if tuple(v.shape) != tuple(p.shape):
            raise ValueError(f"{n}: expected shape {tuple(p.shape)}, got {tuple(v.shape)}")
        if not torch.isfinite(v.to(p.dtype)).all():
            raise ValueError(f"{n}: expected finite numbers, got NaN or infinity")

    for n, p in params.items():
        p.detach().copy_(state[n])
