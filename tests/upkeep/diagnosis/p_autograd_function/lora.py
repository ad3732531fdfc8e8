"""LoRA with a hand-written backward for the branch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class Kept(FunctionCtx):
    """What forward leaves for backward."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]
    s: float


class LowRank(torch.autograd.Function):
    """s x A^T B^T for x (..., in), A (r, in), B (out, r).

    With g the gradient of the result: dB = s g^T (x A^T), dA = s B^T g^T x, dx = s g B A.
    """

    @staticmethod
    def forward(ctx: Kept, x: Tensor, A: Tensor, B: Tensor, s: float) -> Tensor:
        low = F.linear(x, A)
        ctx.save_for_backward(x, A, B, low)
        ctx.s = s
        return s * F.linear(low, B)

    @staticmethod
    def backward(ctx: Kept, g: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        x, A, B, low = ctx.saved_tensors
        g = ctx.s * g
        g_low = g @ B  # (..., r)
        dx = g_low @ A if ctx.needs_input_grad[0] else None
        rank, d_in, d_out = A.shape[0], A.shape[1], B.shape[0]
        dA = g_low.reshape(-1, rank).T @ x.reshape(-1, d_in)
        dB = g.reshape(-1, d_out).T @ low.reshape(-1, rank)
        return dx, dA, dB, None


low_rank: Callable[[Tensor, Tensor, Tensor, float], Tensor] = LowRank.apply


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
            raise TypeError(f"base: an nn.Linear was expected, not {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r: at least 1 was expected, not {r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: a value in [0, 1) was expected, not {dropout}")

        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r

        self.lora_A = nn.Parameter(base.weight.new_empty(r, base.in_features))
        self.lora_B = nn.Parameter(base.weight.new_empty(base.out_features, r))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)

        self.dropout = nn.Dropout(dropout)
        self.train(base.training)

        if freeze_base:
            base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        return y + low_rank(self.dropout(x), self.lora_A, self.lora_B, self.scaling)

    def merge_(self) -> None:
        W = self.base.weight
        with torch.no_grad():
            acc = torch.promote_types(W.dtype, torch.float32)
            # The rows of B A are the branch's answers to the unit vectors: (in, out) transposed.
            unit = torch.eye(self.base.in_features, dtype=acc, device=W.device)
            A, B = self.lora_A.to(acc), self.lora_B.to(acc)
            update = (self.scaling * F.linear(F.linear(unit, A), B)).T
            W.copy_(W.to(acc) + update)
            self.lora_A.zero_()
            self.lora_B.zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    earlier = [m for m in model.modules() if isinstance(m, LoRALinear)]
    inner = {id(layer.base) for layer in earlier}
    linears = [
        (name, module)
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, nn.Linear) and id(module) not in inner
    ]

    def wanted(name: str, target: str) -> bool:
        return name == target or name.endswith("." + target)

    unmatched = [t for t in target_modules if not any(wanted(name, t) for name, _ in linears)]
    if unmatched:
        raise ValueError(f"target_modules: a linear was expected for each, none for {unmatched}")
    linears = [(n, m) for n, m in linears if any(wanted(n, t) for t in target_modules)]

    layers: dict[nn.Linear, LoRALinear] = {}
    for name, linear in linears:
        if linear not in layers:
            layers[linear] = LoRALinear(linear, r=r, dropout=dropout)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layers[linear])

    factors = {id(f) for a in (*earlier, *layers.values()) for f in (a.lora_A, a.lora_B)}
    for param in model.parameters():
        if id(param) not in factors:
            param.requires_grad_(False)
    return [name for name, _ in linears]


def _own(model: nn.Module) -> dict[str, nn.Parameter]:
    found: dict[str, nn.Parameter] = {}
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            for p_name, p in module.named_parameters(name, recurse=False):
                found[p_name] = p
    return found


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in _own(model).items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = _own(model)
    missing = [n for n in own if n not in state]
    unexpected = [n for n in state if n not in own]
    if missing or unexpected:
        raise KeyError(f"state: missing {missing}, unexpected {unexpected}")
    for n, p in own.items():
        if state[n].shape != p.shape:
            raise ValueError(f"{n}: {tuple(p.shape)} was expected, not {tuple(state[n].shape)}")
        if not torch.isfinite(state[n].to(p.dtype)).all():
            raise ValueError(f"{n}: finite values were expected")
    with torch.no_grad():
        for n, p in own.items():
            p.copy_(state[n])
