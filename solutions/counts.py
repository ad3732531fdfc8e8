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
    # BEGIN SOLUTION A1
    require(1, in_features=in_features, out_features=out_features, r=r)
    return r * (in_features + out_features)
    # END SOLUTION


def linear_inventory(model: nn.Module) -> list[LinearShape]:
    """Every nn.Linear of model, subclasses too, in the model's order, each module once."""
    # BEGIN SOLUTION A2
    return [
        LinearShape(name, module.in_features, module.out_features, module.bias is not None)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    # END SOLUTION


def count_params(model: nn.Module) -> ParamCount:
    """Every Parameter of model once, by its requires_grad; buffers are no parameters."""
    # BEGIN SOLUTION A3
    params = list(model.parameters())  # yields a tied Parameter once
    trainable = sum(param.numel() for param in params if param.requires_grad)
    return ParamCount(trainable, sum(param.numel() for param in params) - trainable)
    # END SOLUTION


def wrapped_count(
    model: nn.Module, r: int = 8, target_modules: Sequence[str] = MINIGPT_LINEARS
) -> ParamCount:
    """What count_params would say once the targets are wrapped at rank r; model stays as it is.

    A linear matches t when its dotted name is t or ends with "." + t. Every target must match.
    """
    # BEGIN SOLUTION A4
    require(1, r=r)
    adapters: dict[nn.Linear, int] = {}  # a module under two names has one adapter
    unmatched = set(target_modules)
    for name, module in model.named_modules(remove_duplicate=False):
        hits = {t for t in target_modules if name == t or name.endswith("." + t)}
        if hits and isinstance(module, nn.Linear):
            adapters[module] = lora_param_count(module.in_features, module.out_features, r)
            unmatched -= hits
    if unmatched:
        raise ValueError(
            f"target_modules: expected each to match an nn.Linear, got no match for "
            f"{sorted(unmatched)}; list the names with linear_inventory(model)"
        )
    # Wrapping freezes all that was there, whatever its flag says now.
    return ParamCount(sum(adapters.values()), count_params(model).total)
    # END SOLUTION


def compression_ratio(in_features: int, out_features: int, r: int) -> float:
    """How many times more parameters the weight has than the adapter beside it."""
    # BEGIN SOLUTION A5
    return in_features * out_features / lora_param_count(in_features, out_features, r)
    # END SOLUTION


def break_even_rank(in_features: int, out_features: int) -> int:
    """The smallest rank at which the adapter is no smaller than the weight."""
    # BEGIN SOLUTION A6
    require(1, in_features=in_features, out_features=out_features)
    # ⌈in · out / (in + out)⌉ in whole numbers
    return -(-in_features * out_features // (in_features + out_features))
    # END SOLUTION


def full_finetune_memory(
    params: int, *, optimizer: str = "adam", mixed: bool = False, activations: int = 0
) -> Memory:
    """Bytes of training all of params: float32, or 16 bits with a float32 copy (mixed).

    Args:
        optimizer: "adam" (two float32 moments) or "sgd" (no momentum, so nothing).
        mixed: weights and gradients in 16 bits; the optimiser keeps a float32 copy of the weights.
    """
    # BEGIN SOLUTION B1
    require(0, params=params, activations=activations)
    moments = {"adam": 2 * FLOAT32, "sgd": 0}
    if optimizer not in moments:
        raise ValueError(f"optimizer: expected one of {list(moments)}, got {optimizer!r}")
    each, kept = FLOAT32, moments[optimizer]
    if mixed:
        each, kept = FLOAT16, kept + FLOAT32  # the master copy is the optimiser's
    return Memory(each * params, each * params, kept * params, activations)
    # END SOLUTION


def lora_memory(
    frozen: int,
    trainable: int,
    *,
    optimizer: str = "adam",
    weight_bytes: int = FLOAT32,
    activations: int = 0,
) -> Memory:
    """Bytes of training adapters, float32 throughout, on a base of weight_bytes (4 or 2) each."""
    # BEGIN SOLUTION B2
    require(0, frozen=frozen, trainable=trainable)
    if weight_bytes not in (FLOAT16, FLOAT32):
        raise ValueError(f"weight_bytes: expected {FLOAT16} or {FLOAT32}, got {weight_bytes}")
    adapters = full_finetune_memory(trainable, optimizer=optimizer, activations=activations)
    return adapters + Memory(weights=weight_bytes * frozen)
    # END SOLUTION


def nf4_bytes(
    params: int, block_size: int = 64, double_quant: bool = True, double_block_size: int = 256
) -> int:
    """Bytes of params in NF4: half a byte each and an absmax a block, each part rounded up.

    An absmax is a float32; with double_quant one byte, and double_block_size share a float32.
    """
    # BEGIN SOLUTION B3
    require(0, params=params)
    require(1, block_size=block_size, double_block_size=double_block_size)
    codes, blocks = -(-params // 2), -(-params // block_size)
    if not double_quant:
        return codes + FLOAT32 * blocks
    return codes + blocks + FLOAT32 * -(-blocks // double_block_size)
    # END SOLUTION


def qlora_memory(
    quantised: int, others: int, trainable: int, *, optimizer: str = "adam", activations: int = 0
) -> Memory:
    """lora_memory on a base that is NF4 (quantised, constants counted) and 16 bits (others)."""
    # BEGIN SOLUTION B4
    require(0, quantised=quantised, others=others, trainable=trainable)
    base = Memory(nf4_bytes(quantised), activations=activations)
    return base + lora_memory(others, trainable, optimizer=optimizer, weight_bytes=FLOAT16)
    # END SOLUTION


def linear_activations(
    in_features: int, tokens: int, *, mode: str = "full", r: int = 8, element_size: int = FLOAT32
) -> int:
    """Bytes that a linear keeps of its input (tokens, in_features) for backward.

    Args:
        mode: "full" (the weight trains), "frozen" (it does not) or "lora" (at rank r, no dropout).
    """
    # BEGIN SOLUTION B5
    require(1, in_features=in_features, tokens=tokens, r=r, element_size=element_size)
    kept = {"full": in_features, "frozen": 0, "lora": in_features + r}  # numbers a token
    if mode not in kept:
        raise ValueError(f"mode: expected one of {list(kept)}, got {mode!r}")
    return kept[mode] * tokens * element_size
    # END SOLUTION


def minigpt_activations(
    config: MiniGPTConfig, batch: int, seq: int, *, r: int | None = None
) -> int:
    """Bytes that a float32 MiniGPT keeps for backward, from tokens (batch, seq) to logits.

    Args:
        r: rank of the adapters on MINIGPT_LINEARS, no dropout; None is full fine-tuning.
    """
    # BEGIN SOLUTION B6
    require(1, batch=batch, seq=seq, r=1 if r is None else r)
    d, tokens = config.d_model, batch * seq
    norm = d + 2  # its input; mean and 1/std
    attention = 4 * d + config.n_head  # q, k, v; what it puts out, which o_proj reads; log-sum-exp
    block = 2 * (norm + d) + attention + 2 * config.d_ff  # d: what q, k, v (then fc1) read
    if r is None:
        indices = 8 * (tokens + seq)  # int64, kept by the two embeddings
        return FLOAT32 * tokens * (config.n_layer * block + norm + d) + indices
    # No gradient is asked for before the first adapters, so the very first norm keeps nothing: as
    # many norms as in the blocks alone, the last one included. The frozen head keeps no input.
    return FLOAT32 * tokens * config.n_layer * (block + 6 * r)
    # END SOLUTION


def truth(claim: Claim) -> float:
    """What the claim's figure should be, by its quantity (published.QUANTITIES), in its unit."""
    # BEGIN SOLUTION C1
    params, each = claim.params, claim.bytes_each
    shapes = [(m.copies, m.in_features, m.out_features) for m in claim.matrices]

    def adapter() -> int:
        return sum(n * lora_param_count(d_in, d_out, claim.r) for n, d_in, d_out in shapes)

    # Nothing is computed before it is asked for: most claims have no r, or no params.
    figures: dict[str, Callable[[], float]] = {
        "entries": lambda: sum(n * d_in * d_out for n, d_in, d_out in shapes),
        "adapter": adapter,
        "share": lambda: adapter() / params,
        "fewer": lambda: params / adapter(),
        "file": lambda: adapter() * each,
        "stored": lambda: params * each,
        "training": lambda: full_finetune_memory(params, mixed=True).total,
        "constants": lambda: 8 * nf4_bytes(params) / params - 4,
        "double quantisation": lambda: nf4_bytes(params, double_quant=False) - nf4_bytes(params),
        "quotient": lambda: claim.parts[0] / claim.parts[1],
    }
    if claim.quantity not in figures:
        raise ValueError(f"quantity: expected one of {list(figures)}, got {claim.quantity!r}")
    return figures[claim.quantity]() / UNITS[claim.unit]
    # END SOLUTION


def audit(claims: Iterable[Claim]) -> list[Verdict]:
    """Judge each claim, in order, at the precision it was published with.

    "=" holds when truth and figure are at most half a step apart; "<" and ">" when the truth lies
    strictly on that side of the figure.
    """
    # BEGIN SOLUTION C2
    verdicts = []
    for claim in claims:
        is_so = truth(claim)
        holds = {
            "=": abs(is_so - claim.published) <= claim.step / 2,
            "<": is_so < claim.published,
            ">": is_so > claim.published,
        }
        if claim.relation not in holds:
            raise ValueError(f"relation: expected one of {list(holds)}, got {claim.relation!r}")
        verdicts.append(Verdict(claim, is_so, holds[claim.relation]))
    return verdicts
    # END SOLUTION
