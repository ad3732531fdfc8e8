"""The style of a code golfer who respects types."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil

from torch import nn

from minituner.minigpt import MiniGPTConfig
from minituner.published import QUANTITIES, UNITS, Claim
from minituner.tally import LinearShape, Memory, ParamCount, Verdict, require

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")
FLOAT32 = 4


def lora_param_count(in_features: int, out_features: int, r: int) -> int:
    require(1, in_features=in_features, out_features=out_features, r=r)
    return (in_features + out_features) * r


def linear_inventory(model: nn.Module) -> list[LinearShape]:
    linears = {m: n for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    return [
        LinearShape(n, m.weight.shape[1], m.weight.shape[0], m.bias is not None)
        for m, n in linears.items()
    ]


def count_params(model: nn.Module) -> ParamCount:
    n = [0, 0]
    for p in {*model.parameters()}:
        n[p.requires_grad] += p.numel()
    return ParamCount(n[1], n[0])


def wrapped_count(
    model: nn.Module, r: int = 8, target_modules: Sequence[str] = MINIGPT_LINEARS
) -> ParamCount:
    require(1, r=r)
    names = [n for n in model.named_modules(remove_duplicate=False) if isinstance(n[1], nn.Linear)]
    hits = {t: {m for n, m in names if f".{n}".endswith(f".{t}")} for t in target_modules}
    if lost := [t for t, found in hits.items() if not found]:
        raise ValueError(f"no linear for {lost}")
    chosen = set[nn.Module]().union(*hits.values())
    frozen = sum(p.numel() for p in model.parameters())
    return ParamCount(
        sum(r * sum(m.weight.shape) for m in chosen if isinstance(m, nn.Linear)), frozen
    )


def compression_ratio(in_features: int, out_features: int, r: int) -> float:
    require(1, in_features=in_features, out_features=out_features, r=r)
    return 1 / (r * (1 / in_features + 1 / out_features))


def break_even_rank(in_features: int, out_features: int) -> int:
    require(1, in_features=in_features, out_features=out_features)
    return ceil(in_features * out_features / (in_features + out_features))


def full_finetune_memory(
    params: int, *, optimizer: str = "adam", mixed: bool = False, activations: int = 0
) -> Memory:
    require(0, params=params, activations=activations)
    if optimizer not in ("adam", "sgd"):
        raise ValueError(f"{optimizer=}")
    w = 4 >> mixed
    return Memory(
        w * params, w * params, (8 * (optimizer == "adam") + 4 * mixed) * params, activations
    )


def lora_memory(
    frozen: int,
    trainable: int,
    *,
    optimizer: str = "adam",
    weight_bytes: int = FLOAT32,
    activations: int = 0,
) -> Memory:
    require(0, frozen=frozen, trainable=trainable)
    if weight_bytes not in {2, 4}:
        raise ValueError(f"{weight_bytes=}")
    trained = full_finetune_memory(trainable, optimizer=optimizer)
    return Memory(frozen * weight_bytes, activations=activations) + trained


def nf4_bytes(
    params: int, block_size: int = 64, double_quant: bool = True, double_block_size: int = 256
) -> int:
    require(0, params=params)
    require(1, block_size=block_size, double_block_size=double_block_size)
    blocks = ceil(params / block_size)
    constants = blocks + 4 * ceil(blocks / double_block_size) if double_quant else 4 * blocks
    return (params + 1) // 2 + constants


def qlora_memory(
    quantised: int, others: int, trainable: int, *, optimizer: str = "adam", activations: int = 0
) -> Memory:
    require(0, quantised=quantised, others=others, trainable=trainable)
    trained = full_finetune_memory(trainable, optimizer=optimizer, activations=activations)
    return trained + Memory(nf4_bytes(quantised) + 2 * others)


def linear_activations(
    in_features: int, tokens: int, *, mode: str = "full", r: int = 8, element_size: int = FLOAT32
) -> int:
    require(1, r=r)
    if mode not in (modes := ("frozen", "full", "lora")):
        raise ValueError(f"{mode=}, expected one of {modes}")
    return element_size * tokens * (0, in_features, in_features + r)[modes.index(mode)]


def minigpt_activations(
    config: MiniGPTConfig, batch: int, seq: int, *, r: int | None = None
) -> int:
    require(1, batch=batch, seq=seq, **({} if r is None else {"r": r}))
    layers, d, tokens = config.n_layer, config.d_model, batch * seq
    block = 8 * d + 2 * config.d_ff + config.n_head + 4
    if r is not None:
        return 4 * tokens * layers * (block + 6 * r)
    return 4 * tokens * (layers * block + 2 * d + 2) + 8 * seq * (batch + 1)


def truth(claim: Claim) -> float:
    if claim.quantity not in QUANTITIES:
        raise ValueError(f"{claim.quantity=}")
    n, ms = claim.params, claim.matrices
    weights = sum(m.copies * m.in_features * m.out_features for m in ms)
    adapter = claim.r * sum(m.copies * (m.in_features + m.out_features) for m in ms)
    figure: dict[str, float] = {
        "entries": weights,
        "adapter": adapter,
        "share": adapter / (n or 1),
        "fewer": n / (adapter or 1),
        "file": adapter * claim.bytes_each,
        "stored": n * claim.bytes_each,
        "training": 16 * n,
        "constants": 8 * nf4_bytes(n) / (n or 1) - 4,
        "double quantisation": nf4_bytes(n, double_quant=False) - nf4_bytes(n),
        "quotient": (claim.parts or (0, 0))[0] / (claim.parts or (1, 1))[1],
    }
    return figure[claim.quantity] / UNITS[claim.unit]


def audit(claims: Iterable[Claim]) -> list[Verdict]:
    def holds(c: Claim, t: float) -> bool:
        if c.relation not in ("=", "<", ">"):
            raise ValueError(f"{c.relation=}")
        off = t - c.published
        return (
            2 * abs(off) <= c.step
            if c.relation == "="
            else ("<" if off < 0 else ">" * (off > 0)) == c.relation
        )

    return [Verdict(c, truth(c), holds(c, truth(c))) for c in claims]
