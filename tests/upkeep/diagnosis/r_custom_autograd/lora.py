"""LoRA whose branch is an autograd.Function of its own, with the gradients written by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")

Product = Callable[[Tensor, Tensor, Tensor, float], Tensor]


class LowRankProduct(Function):
    """z = s · x Aᵀ Bᵀ for x (..., in), A (r, in), B (out, r)."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, A: Tensor, B: Tensor, s: float) -> Tensor:
        h = x.matmul(A.t())
        ctx.save_for_backward(x, A, B, h)
        setattr(ctx, "s", s)
        return s * h.matmul(B.t())

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        saved: tuple[Tensor, Tensor, Tensor, Tensor] = getattr(ctx, "saved_tensors")
        x, A, B, h = saved
        s: float = getattr(ctx, "s")
        (grad,) = grads
        n = math.prod(x.shape[:-1])
        gB = grad.matmul(B)  # (..., r)
        flat_x = x.reshape(n, x.shape[-1])
        flat_h = h.reshape(n, h.shape[-1])
        flat_g = grad.reshape(n, grad.shape[-1])
        dx = s * gB.matmul(A)
        dA = gB.reshape(n, gB.shape[-1]).t().matmul(flat_x)
        dB = s * flat_g.t().matmul(flat_h)
        return dx, dA, dB, None


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
            raise TypeError(f"base: expected nn.Linear, got {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r: expected a positive rank, got {r}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout: expected 0 <= dropout < 1, got {dropout}")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.lora_A = nn.Parameter(base.weight.new_empty(r, base.in_features))
        self.lora_B = nn.Parameter(base.weight.new_zeros(base.out_features, r))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)
        if freeze_base:
            base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        product: Product = LowRankProduct.apply
        return y + product(self.dropout(x), self.lora_A, self.lora_B, self.scaling)

    def merge_(self) -> None:
        with torch.no_grad():
            W = self.base.weight
            wide = torch.promote_types(W.dtype, torch.float32)
            delta = self.lora_B.to(wide).matmul(self.lora_A.to(wide))
            W.copy_(W.to(wide) + self.scaling * delta)
            self.lora_A.zero_()
            self.lora_B.zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    bases = {m.base for m in model.modules() if isinstance(m, LoRALinear)}
    found: dict[str, nn.Linear] = {}
    unmatched = set(target_modules)
    for name, m in model.named_modules(remove_duplicate=False):
        if isinstance(m, nn.Linear) and m not in bases:
            hits = {t for t in target_modules if name == t or name.endswith("." + t)}
            if hits:
                found[name] = m
                unmatched -= hits
    if unmatched:
        raise ValueError(f"target_modules: no nn.Linear to wrap for {sorted(unmatched)}")
    adapters: dict[nn.Linear, LoRALinear] = {}
    for name, linear in found.items():
        if linear not in adapters:
            adapters[linear] = LoRALinear(linear, r=r, alpha=alpha, dropout=dropout)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, adapters[linear])
    keep = {p for m in model.modules() if isinstance(m, LoRALinear) for p in (m.lora_A, m.lora_B)}
    for p in model.parameters():
        if p not in keep:
            p.requires_grad_(False)
    return list(found)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: p.detach().clone()
        for name, p in model.named_parameters()
        if name.rpartition(".")[2] in ("lora_A", "lora_B")
    }


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = lora_state_dict(model)
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unexpected:
        raise KeyError(f"state: missing {missing}, unexpected {unexpected}")
    for name, value in state.items():
        if value.shape != own[name].shape:
            raise ValueError(f"{name}: {tuple(value.shape)}, expected {tuple(own[name].shape)}")
        if not value.isfinite().all():
            raise ValueError(f"{name}: expected finite values")
    with torch.no_grad():
        for name, value in state.items():
            path, _, which = name.rpartition(".")
            setattr(model.get_submodule(path), which, nn.Parameter(value.clone()))
