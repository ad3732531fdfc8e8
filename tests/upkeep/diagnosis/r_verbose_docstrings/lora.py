"""Low-Rank Adaptation (LoRA) for linear layers.

Overview
--------
A pretrained linear layer computes ``y = W x + b``. Fine-tuning changes W by some
matrix dW. LoRA assumes that dW has a low rank r and writes it as ``(alpha / r) B A``:

* ``A`` has r rows and ``in_features`` columns. It reads the input.
* ``B`` has ``out_features`` rows and r columns. It writes the output.

Only A and B are trained. The rest of the network stays frozen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class LoRALinear(nn.Module):
    """A linear layer with a trainable low-rank branch.

    Parameters
    ----------
    base : nn.Linear
        The pretrained layer. It is stored, not copied.
    r : int
        The rank of the branch.
    alpha : float
        The numerator of the scale.
    dropout : float
        The probability that an entry of the input of the branch is dropped.
    freeze_base : bool
        Whether the weight and the bias of ``base`` stop training.

    Attributes
    ----------
    scaling : float
        ``alpha / r``.
    lora_A : nn.Parameter
        Shape ``(r, in_features)``.
    lora_B : nn.Parameter
        Shape ``(out_features, r)``.
    """

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
        """Check the arguments, build the branch and freeze the base."""
        super().__init__()
        if not isinstance(base, nn.Linear):
            raise TypeError(
                "base: the layer to adapt has to be an instance of nn.Linear, "
                f"but got an instance of {type(base).__name__}."
            )
        if r < 1:
            raise ValueError(f"r: the rank has to be at least 1, but got {r}.")
        if dropout < 0.0 or dropout >= 1.0:
            raise ValueError(
                f"dropout: the probability has to be in the range [0, 1), but got {dropout}."
            )

        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r

        dtype, device = base.weight.dtype, base.weight.device
        matrix_a = torch.empty((r, base.in_features), dtype=dtype, device=device)
        matrix_b = torch.empty((base.out_features, r), dtype=dtype, device=device)
        self.lora_A = nn.Parameter(matrix_a)
        self.lora_B = nn.Parameter(matrix_b)
        self.reset_parameters()

        self.dropout = nn.Dropout(p=dropout)
        self.train(mode=base.training)

        if freeze_base:
            self.freeze_base_parameters()

    def reset_parameters(self) -> None:
        """Draw A at random and set B to zero, so that the branch starts as zero."""
        nn.init.kaiming_uniform_(self.lora_A)
        nn.init.zeros_(self.lora_B)

    def freeze_base_parameters(self) -> None:
        """Switch off the gradients of the weight and, if there is one, of the bias."""
        self.base.weight.requires_grad_(False)
        if self.base.bias is not None:
            self.base.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output of the base plus the scaled output of the branch.

        Parameters
        ----------
        x : Tensor
            Shape ``(..., in_features)``.

        Returns
        -------
        Tensor
            Shape ``(..., out_features)``.
        """
        base_output: Tensor = self.base(x)
        dropped: Tensor = self.dropout(x)
        branch_output = F.linear(F.linear(dropped, self.lora_A), self.lora_B)
        return base_output + self.scaling * branch_output

    def merge_(self) -> None:
        """Add the update to the weight of the base and reset both factors to zero."""
        weight = self.base.weight
        compute_dtype = torch.promote_types(weight.dtype, torch.float32)
        with torch.no_grad():
            product = torch.matmul(self.lora_B.to(compute_dtype), self.lora_A.to(compute_dtype))
            merged = weight.to(compute_dtype) + self.scaling * product
            weight.copy_(merged)
            self.lora_A.zero_()
            self.lora_B.zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    """Replace the targeted linear layers of ``model`` by adapters, in place.

    Returns
    -------
    list[str]
        The dotted names of the layers that were replaced.

    Raises
    ------
    ValueError
        If a target does not match any linear layer. The model is not changed then.
    """
    # Step 1: the linear layers that live inside an adapter must be left alone.
    protected_ids = {id(module.base) for module in model.modules() if isinstance(module, LoRALinear)}

    # Step 2: collect the layers to replace, in the order of the model.
    layers_to_wrap: dict[str, nn.Linear] = {}
    matched_targets: set[str] = set()
    for module_name, module in model.named_modules(remove_duplicate=False):
        if not isinstance(module, nn.Linear):
            continue
        if id(module) in protected_ids:
            continue
        for target in target_modules:
            if module_name == target or module_name.endswith("." + target):
                layers_to_wrap[module_name] = module
                matched_targets.add(target)

    # Step 3: complain about targets without any layer.
    unmatched_targets = sorted(set(target_modules) - matched_targets)
    if unmatched_targets:
        raise ValueError(
            "target_modules: every target has to match a linear layer that is not wrapped yet, "
            f"but these do not: {unmatched_targets}."
        )

    # Step 4: replace the layers. A shared layer gets a single adapter.
    adapter_of: dict[int, LoRALinear] = {}
    for module_name, linear in layers_to_wrap.items():
        if id(linear) not in adapter_of:
            adapter_of[id(linear)] = LoRALinear(linear, r=r, alpha=alpha, dropout=dropout)
        parent_name, _, attribute = module_name.rpartition(".")
        setattr(model.get_submodule(parent_name), attribute, adapter_of[id(linear)])

    # Step 5: freeze everything that is not part of an adapter.
    adapter_parameter_ids: set[int] = set()
    for module in model.modules():
        if isinstance(module, LoRALinear):
            adapter_parameter_ids.update({id(module.lora_A), id(module.lora_B)})
    for parameter in model.parameters():
        if id(parameter) not in adapter_parameter_ids:
            parameter.requires_grad_(False)

    return list(layers_to_wrap.keys())


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of all adapter matrices by their full dotted names."""
    result: dict[str, Tensor] = {}
    for parameter_name, parameter in model.named_parameters():
        last_part = parameter_name.rsplit(".", maxsplit=1)[-1]
        if last_part == "lora_A" or last_part == "lora_B":
            result[parameter_name] = parameter.detach().clone()
    return result


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy the values of ``state`` into the adapters of ``model``.

    Raises
    ------
    KeyError
        If names are missing or unexpected.
    ValueError
        If a shape is wrong or a value is not finite.
    """
    expected = lora_state_dict(model)
    missing_names = sorted(expected.keys() - state.keys())
    unexpected_names = sorted(state.keys() - expected.keys())
    if missing_names or unexpected_names:
        raise KeyError(
            f"state: these names are missing: {missing_names}; "
            f"these names are unexpected: {unexpected_names}."
        )
    for entry_name, value in state.items():
        if value.shape != expected[entry_name].shape:
            raise ValueError(
                f"{entry_name}: the shape has to be {tuple(expected[entry_name].shape)}, "
                f"but got {tuple(value.shape)}."
            )
        if not torch.isfinite(value).all().item():
            raise ValueError(f"{entry_name}: all values have to be finite.")
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for entry_name, value in state.items():
            parameters[entry_name].copy_(value)
