"""My solution for lab 00, LoRA by hand.

I explain every step to myself, so this file is longer than it needs to be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

# The six linears of one transformer layer of the MiniGPT.
MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class LoRALinear(nn.Module):
    """One adapted linear layer.

    The layer computes base(x) and adds to it a correction of low rank. The correction is made of
    two thin matrices, A and B, and multiplied by the number called scaling.
    """

    def __init__(
        self,
        base: nn.Linear,
        r: int = 8,
        alpha: float | None = None,
        dropout: float = 0.0,
        freeze_base: bool = True,
    ) -> None:
        # nn.Module wants to be initialised before any attribute is set.
        super().__init__()

        # ---- step 1: refuse bad arguments -------------------------------------------------------
        # Only nn.Linear and its subclasses can be adapted.
        if not isinstance(base, nn.Linear):
            got = type(base).__name__
            raise TypeError(f"The argument base must be an nn.Linear, but I got {got}.")
        # The rank is the number of rows of A. It takes one row at the very least.
        if r < 1:
            raise ValueError(f"The argument r must be at least 1, but I got {r}.")
        # A dropout of one would erase the whole input of the branch.
        dropout_is_fine = dropout >= 0.0 and dropout < 1.0
        if not dropout_is_fine:
            raise ValueError(f"The argument dropout must be in [0, 1), but I got {dropout}.")

        # ---- step 2: remember them --------------------------------------------------------------
        self.base = base
        self.r = r
        # When nobody asks for an alpha, we take the rank.
        if alpha is None:
            alpha = float(r)
        self.alpha = alpha
        # A plain Python float, no buffer: it must not be rounded by .to(bfloat16).
        self.scaling = self.alpha / self.r

        # ---- step 3: the two matrices -----------------------------------------------------------
        # They live where the weight lives and have the same dtype.
        dtype = base.weight.dtype
        device = base.weight.device
        empty_a = torch.empty((r, base.in_features), dtype=dtype, device=device)
        empty_b = torch.empty((base.out_features, r), dtype=dtype, device=device)
        self.lora_A = nn.Parameter(empty_a)
        self.lora_B = nn.Parameter(empty_b)

        # ---- step 4: their first values ---------------------------------------------------------
        # A is random, B is zero. So the correction is zero in the beginning.
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)

        # ---- step 5: dropout and mode -----------------------------------------------------------
        self.dropout = nn.Dropout(p=dropout)
        # New modules start in train mode, so the mode of the base has to be taken over.
        if base.training:
            self.train()
        else:
            self.eval()

        # ---- step 6: freezing -------------------------------------------------------------------
        if freeze_base:
            for parameter in self.base.parameters():
                parameter.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        # The ordinary output of the frozen layer.
        base_output: Tensor = self.base(x)
        # The branch: first drop, then go down to r numbers, then up again.
        dropped: Tensor = self.dropout(x)
        down = nn.functional.linear(dropped, self.lora_A)
        up = nn.functional.linear(down, self.lora_B)
        # Both together.
        return base_output + self.scaling * up

    def merge_(self) -> None:
        # No gradient may be recorded while weights are rewritten.
        with torch.no_grad():
            weight = self.base.weight
            # Half precision is too coarse to add in, so work in float32 at least.
            work_dtype = torch.promote_types(weight.dtype, torch.float32)
            big_b = self.lora_B.to(work_dtype)
            big_a = self.lora_A.to(work_dtype)
            update = self.scaling * torch.matmul(big_b, big_a)
            new_weight = weight.to(work_dtype) + update
            # copy_ rounds once, back to the dtype of the weight.
            weight.copy_(new_weight)
            # What has been merged must not be counted again.
            self.lora_A.zero_()
            self.lora_B.zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    """Wrap, freeze the rest, and tell which layers were wrapped."""
    # First pass: which linears sit inside an adapter already? They must not be touched.
    taken: set[int] = set()
    for module in model.modules():
        if isinstance(module, LoRALinear):
            taken.add(id(module.base))

    # Second pass: collect what matches. Nothing is changed yet.
    to_wrap: list[tuple[str, nn.Linear]] = []
    matched_targets: set[str] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        if not isinstance(module, nn.Linear):
            continue
        if id(module) in taken:
            continue
        is_wanted = False
        for target in target_modules:
            if name == target or name.endswith("." + target):
                is_wanted = True
                matched_targets.add(target)
        if is_wanted:
            to_wrap.append((name, module))

    # Complain about targets that matched nothing.
    for target in target_modules:
        if target not in matched_targets:
            raise ValueError(
                f"The target {target!r} in target_modules matches no nn.Linear to be wrapped."
            )

    # Third pass: replace. A module with two names gets one adapter, put under both names.
    adapter_of: dict[int, LoRALinear] = {}
    for name, linear in to_wrap:
        if id(linear) not in adapter_of:
            adapter_of[id(linear)] = LoRALinear(linear, r=r, alpha=alpha, dropout=dropout)
        parent_name, _, child_name = name.rpartition(".")
        parent = model.get_submodule(parent_name)
        setattr(parent, child_name, adapter_of[id(linear)])

    # Last pass: only adapters may train.
    trainable: set[int] = set()
    for module in model.modules():
        if isinstance(module, LoRALinear):
            trainable.add(id(module.lora_A))
            trainable.add(id(module.lora_B))
    for parameter in model.parameters():
        if id(parameter) not in trainable:
            parameter.requires_grad_(False)

    return [name for name, _ in to_wrap]


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The values of every A and B, as copies."""
    state: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            # The model itself may be an adapter. Then its name is empty, and there is no dot.
            prefix = name + "." if name != "" else ""
            state[prefix + "lora_A"] = module.lora_A.detach().clone()
            state[prefix + "lora_B"] = module.lora_B.detach().clone()
    return state


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """The way back: check everything, then copy."""
    # What the model has, to compare with.
    own = lora_state_dict(model)

    # The names, in both directions.
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    if len(missing) > 0 or len(unexpected) > 0:
        raise KeyError(f"The state lacks {missing} and has unexpected {unexpected}.")

    # The shapes and the values.
    for name, old_value in own.items():
        new_value = state[name]
        if new_value.shape != old_value.shape:
            raise ValueError(
                f"{name} should have the shape {tuple(old_value.shape)}, "
                f"but it has {tuple(new_value.shape)}."
            )
        finite = torch.isfinite(new_value.to(old_value.dtype))
        if not bool(finite.all()):
            raise ValueError(f"{name} should be finite, but it has NaN or infinity.")

    # Everything is fine: write.
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name in own:
            parameters[name].copy_(state[name])
