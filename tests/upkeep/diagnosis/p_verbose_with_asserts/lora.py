"""
My solution to lab 00 (LoRA by hand).

Notation used in the comments of this file:

    N        any number of leading axes (batch, sequence, ...)
    d_in     base.in_features
    d_out    base.out_features
    r        the rank

The formula is  y = x W^T + b + scaling * dropout(x) A^T B^T.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class LoRALinear(nn.Module):
    """An nn.Linear that has been given a low-rank branch."""

    def __init__(
        self,
        base: nn.Linear,
        r: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        freeze_base: bool = True,
    ) -> None:
        super().__init__()

        # ---- Step 1: refuse what can not work -------------------------------------------------
        if not isinstance(base, nn.Linear):
            kind = type(base).__name__
            raise TypeError(f"Argument base: an nn.Linear is expected, but a {kind} was given.")
        if r < 1:
            raise ValueError(f"Argument r: a rank of at least 1 is expected, but {r} was given.")
        if dropout < 0.0:
            raise ValueError(f"Argument dropout: expected in [0, 1), but {dropout} was given.")
        if dropout >= 1.0:
            raise ValueError(f"Argument dropout: expected in [0, 1), but {dropout} was given.")

        # ---- Step 2: remember the arguments ---------------------------------------------------
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = self.alpha / self.r

        # ---- Step 3: the two trainable matrices -----------------------------------------------
        d_in = base.in_features
        d_out = base.out_features
        dtype = base.weight.dtype
        device = base.weight.device
        initial_a = torch.empty((r, d_in), dtype=dtype, device=device)
        nn.init.kaiming_uniform_(initial_a, a=math.sqrt(5))
        initial_b = torch.zeros((d_out, r), dtype=dtype, device=device)
        self.lora_A = nn.Parameter(initial_a, requires_grad=True)
        self.lora_B = nn.Parameter(initial_b, requires_grad=True)

        # ---- Step 4: the dropout, in the mode of the base -------------------------------------
        self.dropout = nn.Dropout(p=dropout)
        if base.training:
            self.train()
        else:
            self.eval()

        # ---- Step 5: freeze -------------------------------------------------------------------
        if freeze_base:
            for parameter in base.parameters():
                parameter.requires_grad_(False)

        assert tuple(self.lora_A.shape) == (self.r, d_in)
        assert tuple(self.lora_B.shape) == (d_out, self.r)

    def forward(self, x: Tensor) -> Tensor:
        """(N, d_in) -> (N, d_out)"""
        # (N, d_in) @ (d_in, d_out) -> (N, d_out)
        frozen_part = torch.matmul(x, self.base.weight.transpose(0, 1))

        # (N, d_in) @ (d_in, r) -> (N, r)
        x_dropped = self.dropout(x)
        compressed = torch.matmul(x_dropped, self.lora_A.transpose(0, 1))

        # (N, r) @ (r, d_out) -> (N, d_out)
        expanded = torch.matmul(compressed, self.lora_B.transpose(0, 1))

        result = frozen_part + self.scaling * expanded
        assert result.shape[:-1] == x.shape[:-1]
        return result

    def merge_(self) -> None:
        """Put the branch into the weight of the base, and empty the branch."""
        with torch.no_grad():
            original_dtype = self.base.weight.dtype
            # bfloat16 and float16 are widened for the computation. float64 remains float64.
            compute_dtype = torch.promote_types(original_dtype, torch.float32)

            matrix_a = self.lora_A.to(compute_dtype)  # (r, d_in)
            matrix_b = self.lora_B.to(compute_dtype)  # (d_out, r)
            weight = self.base.weight.to(compute_dtype)  # (d_out, d_in)

            update = self.scaling * torch.matmul(matrix_b, matrix_a)  # (d_out, d_in)
            assert update.shape == weight.shape

            # copy_ rounds back to the dtype of the weight: this is the one and only rounding
            self.base.weight.copy_(weight + update)
            self.lora_A.zero_()
            self.lora_B.zero_()


def name_matches_target(name: str, target: str) -> bool:
    """Whether a dotted name ends with a target, where the target begins at a dot."""
    if name == target:
        return True
    return name.endswith("." + target)


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    """Replace the targeted linears by LoRALinears."""

    # ---- Step 1: which linears are the base of an adapter already? ----------------------------
    already_used: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, LoRALinear):
            already_used.append(module.base)

    # ---- Step 2: collect the linears, remembering which targets were of use -------------------
    names_to_wrap: list[str] = []
    linears_to_wrap: list[nn.Linear] = []
    useful_targets: set[str] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        if not isinstance(module, nn.Linear):
            continue
        is_used = False
        for used in already_used:
            if module is used:
                is_used = True
        if is_used:
            continue
        is_wanted = False
        for target in target_modules:
            if name_matches_target(name, target):
                useful_targets.add(target)
                is_wanted = True
        if is_wanted:
            names_to_wrap.append(name)
            linears_to_wrap.append(module)

    useless_targets = [target for target in target_modules if target not in useful_targets]
    if len(useless_targets) > 0:
        raise ValueError(
            "Argument target_modules: every target must match a linear that is not wrapped yet, "
            f"but these do not: {useless_targets}"
        )

    # ---- Step 3: replace; a linear with two names is wrapped only once ------------------------
    # The constructor of LoRALinear freezes the linear which it is given.
    adapter_of: dict[int, LoRALinear] = {}
    for name, linear in zip(names_to_wrap, linears_to_wrap, strict=True):
        key = id(linear)
        if key not in adapter_of:
            adapter_of[key] = LoRALinear(
                base=linear,
                r=r,
                alpha=alpha,
                dropout=dropout,
                freeze_base=True,
            )
        parent_name, _, child_name = name.rpartition(".")
        parent = model.get_submodule(parent_name)
        setattr(parent, child_name, adapter_of[key])

    return names_to_wrap


def collect_adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """All the A's and B's of the model, by their full names."""
    collected: dict[str, nn.Parameter] = {}
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            prefix = name + "." if name != "" else ""
            collected[prefix + "lora_A"] = module.lora_A
            collected[prefix + "lora_B"] = module.lora_B
    return collected


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all the A's and B's."""
    state: dict[str, Tensor] = {}
    for name, parameter in collect_adapter_parameters(model).items():
        state[name] = parameter.detach().clone()
    return state


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Check the whole state first, then copy it into the model."""
    parameters = collect_adapter_parameters(model)

    # ---- Check 1: the names -------------------------------------------------------------------
    missing_names = []
    for name in parameters:
        if name not in state:
            missing_names.append(name)
    unexpected_names = []
    for name in state:
        if name not in parameters:
            unexpected_names.append(name)
    if len(missing_names) > 0 or len(unexpected_names) > 0:
        raise KeyError(
            f"The state has no entry for {missing_names}; "
            f"the model has no adapter for {unexpected_names}."
        )

    # ---- Check 2: the shapes ------------------------------------------------------------------
    for name, parameter in parameters.items():
        if state[name].shape != parameter.shape:
            raise ValueError(
                f"{name}: the shape {tuple(parameter.shape)} is expected, "
                f"but the state has {tuple(state[name].shape)}."
            )

    # ---- Check 3: the values ------------------------------------------------------------------
    for name, parameter in parameters.items():
        if not torch.isfinite(state[name].to(parameter.dtype)).all():
            raise ValueError(f"{name}: there is a NaN or an infinity among the values.")

    # ---- All is well: write -------------------------------------------------------------------
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state[name])
