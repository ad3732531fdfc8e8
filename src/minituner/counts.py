"""What LoRA costs: parameters, bytes, and whether a published figure is right.

Sources: Hu et al. 2021, arXiv:2106.09685 §4.2 (counts); Rajbhandari et al. 2019, arXiv:1910.02054
§3.1 (mixed precision); Dettmers et al. 2023, arXiv:2305.14314 §3 (NF4). The contract is
BLUEPRINT-01.md beside this file: an argument that makes no sense is a ValueError that names it.
Leaves out: buffers, fragmentation, workspaces, dropout's masks, the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from torch import nn

from minituner.minigpt import MiniGPTConfig
from minituner.published import UNITS, Claim
from minituner.tally import LinearShape, Memory, ParamCount, Verdict, require

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")
FLOAT32 = 4  # bytes of a number
FLOAT16 = 2  # float16 or bfloat16


def lora_param_count(in_features: int, out_features: int, r: int) -> int:
    """Parameters of one adapter: A (r, in_features) and B (out_features, r)."""
    raise NotImplementedError("A1: count the parameters of one adapter; see lab/01-lora-counts.md")


def linear_inventory(model: nn.Module) -> list[LinearShape]:
    """Every nn.Linear of model, subclasses too, in the model's order, each module once."""
    raise NotImplementedError("A2: list every linear of a model; see lab/01-lora-counts.md")


def count_params(model: nn.Module) -> ParamCount:
    """Every Parameter of model once, by its requires_grad; buffers are no parameters."""
    raise NotImplementedError(
        "A3: count a model's parameters, each once, by requires_grad; see lab/01-lora-counts.md"
    )


def wrapped_count(
    model: nn.Module, r: int = 8, target_modules: Sequence[str] = MINIGPT_LINEARS
) -> ParamCount:
    """What count_params would say once the targets are wrapped at rank r; model stays as it is.

    A linear matches t when its dotted name is t or ends with "." + t. Every target must match.
    """
    raise NotImplementedError(
        "A4: say what wrapping would train, without wrapping; see lab/01-lora-counts.md"
    )


def compression_ratio(in_features: int, out_features: int, r: int) -> float:
    """How many times more parameters the weight has than the adapter beside it."""
    raise NotImplementedError(
        "A5: how many times smaller the adapter is than the weight; see lab/01-lora-counts.md"
    )


def break_even_rank(in_features: int, out_features: int) -> int:
    """The smallest rank at which the adapter is no smaller than the weight."""
    raise NotImplementedError(
        "A6: the rank at which the adapter stops being smaller; see lab/01-lora-counts.md"
    )


def full_finetune_memory(
    params: int, *, optimizer: str = "adam", mixed: bool = False, activations: int = 0
) -> Memory:
    """Bytes of training all of params: float32, or 16 bits with a float32 copy (mixed).

    Args:
        optimizer: "adam" (two float32 moments) or "sgd" (no momentum, so nothing).
        mixed: weights and gradients in 16 bits; the optimiser keeps a float32 copy of the weights.
    """
    raise NotImplementedError(
        "B1: bytes of full fine-tuning, float32 and mixed; see lab/01-lora-counts.md"
    )


def lora_memory(
    frozen: int,
    trainable: int,
    *,
    optimizer: str = "adam",
    weight_bytes: int = FLOAT32,
    activations: int = 0,
) -> Memory:
    """Bytes of training adapters, float32 throughout, on a base of weight_bytes (4 or 2) each."""
    raise NotImplementedError("B2: bytes of LoRA on a frozen base; see lab/01-lora-counts.md")


def nf4_bytes(
    params: int, block_size: int = 64, double_quant: bool = True, double_block_size: int = 256
) -> int:
    """Bytes of params in NF4: half a byte each and an absmax a block, each part rounded up.

    An absmax is a float32; with double_quant one byte, and double_block_size share a float32.
    """
    raise NotImplementedError(
        "B3: bytes of NF4, with the constants of its blocks; see lab/01-lora-counts.md"
    )


def qlora_memory(
    quantised: int, others: int, trainable: int, *, optimizer: str = "adam", activations: int = 0
) -> Memory:
    """lora_memory on a base that is NF4 (quantised, constants counted) and 16 bits (others)."""
    raise NotImplementedError("B4: bytes of QLoRA; see lab/01-lora-counts.md")


def linear_activations(
    in_features: int, tokens: int, *, mode: str = "full", r: int = 8, element_size: int = FLOAT32
) -> int:
    """Bytes that a linear keeps of its input (tokens, in_features) for backward.

    Args:
        mode: "full" (the weight trains), "frozen" (it does not) or "lora" (at rank r, no dropout).
    """
    raise NotImplementedError("B5: what one linear keeps for backward; see lab/01-lora-counts.md")


def minigpt_activations(
    config: MiniGPTConfig, batch: int, seq: int, *, r: int | None = None
) -> int:
    """Bytes that a float32 MiniGPT keeps for backward, from tokens (batch, seq) to logits.

    Args:
        r: rank of the adapters on MINIGPT_LINEARS, no dropout; None is full fine-tuning.
    """
    raise NotImplementedError(
        "B6: what a whole MiniGPT keeps, in full and with LoRA; see lab/01-lora-counts.md"
    )


def truth(claim: Claim) -> float:
    """What the claim's figure should be, by its quantity (published.QUANTITIES), in its unit."""
    raise NotImplementedError(
        "C1: compute what a published figure should be; see lab/01-lora-counts.md"
    )


def audit(claims: Iterable[Claim]) -> list[Verdict]:
    """Judge each claim, in order, at the precision it was published with.

    "=" holds when truth and figure are at most half a step apart; "<" and ">" when the truth lies
    strictly on that side of the figure.
    """
    raise NotImplementedError(
        "C2: find the published figures that are wrong; see lab/01-lora-counts.md"
    )
