"""LoRA for nn.Linear, by hand: y = W x + b + (α/r) B A x, with W and b frozen.

Source: Hu et al. 2021, arXiv:2106.09685 §4.1. The contract is BLUEPRINT.md beside this file.
Leaves out: convolutions and embeddings, rsLoRA and DoRA, quantised bases.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class LoRALinear(nn.Module):
    """A frozen nn.Linear with a trainable low-rank branch beside it.

    Args:
        base: the layer to adapt; kept as it is, not copied.
        r: rank of the update, at least 1.
        alpha: numerator of the scale.
        dropout: probability in [0, 1) of dropping an entry of the branch's input while training.
        freeze_base: False leaves base's requires_grad flags as found.

    Raises:
        TypeError: base is not an nn.Linear.
        ValueError: r < 1, or dropout outside [0, 1).
    """

    base: nn.Linear
    r: int
    alpha: float
    scaling: float  # alpha / r, dimensionless; a plain float, so it never enters the state
    lora_A: nn.Parameter  # (r, in_features), base's dtype and device
    lora_B: nn.Parameter  # (out_features, r), base's dtype and device
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
        # BEGIN SOLUTION A1
        if not isinstance(base, nn.Linear):
            raise TypeError(
                f"base: expected nn.Linear, got {type(base).__name__}; wrap its linears"
            )
        if r < 1:
            raise ValueError(f"r: expected at least 1, got {r}; 8 is a usual choice")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout: expected a probability in [0, 1), got {dropout}")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        # END SOLUTION
        # BEGIN SOLUTION A2
        self.lora_A = nn.Parameter(base.weight.new_empty(r, base.in_features))
        self.lora_B = nn.Parameter(base.weight.new_empty(base.out_features, r))
        # END SOLUTION
        # BEGIN SOLUTION A3
        # a=√5 makes this U(-1/√in, 1/√in), nn.Linear's own default.
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)
        # END SOLUTION
        # BEGIN SOLUTION A4
        self.dropout = nn.Dropout(dropout)
        # A new module is born in train mode: wrapping an eval() model must not switch dropout on.
        self.train(base.training)
        # END SOLUTION
        # BEGIN SOLUTION A6
        if freeze_base:
            base.requires_grad_(False)  # weight, and bias where there is one
        # END SOLUTION

    def forward(self, x: Tensor) -> Tensor:
        """base(x) + scaling · B A dropout(x): (..., in_features) -> (..., out_features)."""
        # BEGIN SOLUTION A5
        out: Tensor = self.base(x)
        # Two thin products, never the (out, in) matrix B A: (..., in) -> (..., r) -> (..., out).
        update = F.linear(F.linear(self.dropout(x), self.lora_A), self.lora_B)
        return out + self.scaling * update
        # END SOLUTION

    def merge_(self) -> None:
        """Fold the update into base.weight, W + (α/r) B A, then zero A and B.

        A second call adds zero, so it changes nothing. Both gradients are zero afterwards: give A
        new values before training this adapter again.
        """
        # BEGIN SOLUTION D1
        weight = self.base.weight
        with torch.no_grad():
            # Rounded once: in bfloat16, rounding the update before adding it loses bits twice.
            wide = torch.promote_types(weight.dtype, torch.float32)
            update = self.scaling * (self.lora_B.to(wide) @ self.lora_A.to(wide))
            weight.copy_(weight.to(wide) + update)
            self.lora_A.zero_()
            self.lora_B.zero_()
        # END SOLUTION


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    """Replace the targeted linears of model by LoRALinear, in place; freeze everything else.

    Args:
        target_modules: a linear matches t when its dotted name is t or ends with "." + t.

    Returns:
        The dotted names that were wrapped.

    Raises:
        ValueError: a target matches no linear that is still to be wrapped; nothing is changed.
    """
    # BEGIN SOLUTION B1
    # A base inside an earlier adapter is no target: nothing is ever nested.
    adapted = {id(m.base) for m in model.modules() if isinstance(m, LoRALinear)}
    found: dict[str, nn.Linear] = {}
    unmatched = set(target_modules)
    # remove_duplicate=False: a module reached under two names has to be replaced under both.
    for name, module in model.named_modules(remove_duplicate=False):
        hits = {t for t in target_modules if name == t or name.endswith("." + t)}
        if hits and isinstance(module, nn.Linear) and id(module) not in adapted:
            found[name] = module
            unmatched -= hits
    if unmatched:
        raise ValueError(
            f"target_modules: expected each to match an nn.Linear not yet wrapped, "
            f"got no match for {sorted(unmatched)}; list the names with model.named_modules()"
        )
    # END SOLUTION
    # BEGIN SOLUTION B2
    wrapped: dict[nn.Linear, LoRALinear] = {}  # one adapter a module, however many names it has
    for name, linear in found.items():
        if linear not in wrapped:
            wrapped[linear] = LoRALinear(linear, r=r, alpha=alpha, dropout=dropout)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, wrapped[linear])
    # END SOLUTION
    # BEGIN SOLUTION B3
    # Freeze by what a parameter is, not by what it is called: a name may contain "lora".
    adapters = {
        id(p) for m in model.modules() if isinstance(m, LoRALinear) for p in (m.lora_A, m.lora_B)
    }
    for param in model.parameters():
        if id(param) not in adapters:
            param.requires_grad_(False)
    return list(found)
    # END SOLUTION


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Every adapter's A and B under its full dotted name, as detached copies."""
    # BEGIN SOLUTION C1
    return {
        name: param.detach().clone()
        for name, param in model.named_parameters()
        if name.rpartition(".")[2] in ("lora_A", "lora_B")
    }
    # END SOLUTION


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy saved adapters into the Parameters that model already has.

    Args:
        state: as lora_state_dict returns it, for a model wrapped the same way.

    Raises:
        KeyError: an entry is missing or unexpected; model is unchanged.
        ValueError: an entry has the wrong shape or is not finite; model is unchanged.
    """
    # BEGIN SOLUTION C2
    own = lora_state_dict(model)
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unexpected:
        raise KeyError(
            f"state: missing {missing}, unexpected {unexpected}; "
            "was the model wrapped with the same targets?"
        )
    for name, value in state.items():
        # copy_ broadcasts in silence, so shapes are compared here.
        if value.shape != own[name].shape:
            raise ValueError(
                f"{name}: expected shape {tuple(own[name].shape)}, got {tuple(value.shape)}; "
                "was r changed since the save?"
            )
        if not value.to(own[name].dtype).isfinite().all():
            raise ValueError(f"{name}: expected finite values, got NaN or infinity")
    params = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in state.items():
            params[name].copy_(value)
    # END SOLUTION
