"""A figure holds when the truth, rounded to the claim's last digit, is that figure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil, prod

from torch import nn

from minituner.minigpt import MiniGPTConfig
from minituner.published import QUANTITIES, UNITS, Claim
from minituner.tally import LinearShape, Memory, ParamCount, Verdict, require

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")
FLOAT32 = 4


def lora_param_count(in_features: int, out_features: int, r: int) -> int:
    require(1, in_features=in_features, out_features=out_features, r=r)
    return sum(prod(shape) for shape in ((r, in_features), (out_features, r)))


def linear_inventory(model: nn.Module) -> list[LinearShape]:
    named = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    return [
        LinearShape(name, m.in_features, m.out_features, "bias" in dict(m.named_parameters()))
        for name, m in named.items()
    ]


def count_params(model: nn.Module) -> ParamCount:
    sizes = {True: 0, False: 0}
    for param in model.parameters():
        sizes[param.requires_grad] += param.numel()
    return ParamCount(trainable=sizes[True], frozen=sizes[False])


def wrapped_count(
    model: nn.Module, r: int = 8, target_modules: Sequence[str] = MINIGPT_LINEARS
) -> ParamCount:
    require(1, r=r)
    hits = dict.fromkeys(target_modules, 0)
    width: dict[nn.Module, int] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        fitting = [target for target in hits if _fits(name, target)]
        if isinstance(module, nn.Linear) and fitting:
            hits |= {target: hits[target] + 1 for target in fitting}
            width[module] = module.in_features + module.out_features
    if 0 in hits.values():
        raise ValueError(f"no linear matches {[t for t, n in hits.items() if n == 0]}")
    return ParamCount(r * sum(width.values()), count_params(model).total)


def _fits(name: str, target: str) -> bool:
    before = name.removesuffix(target)
    return name.endswith(target) and (before == "" or before.endswith("."))


def compression_ratio(in_features: int, out_features: int, r: int) -> float:
    lora_param_count(in_features, out_features, r)
    harmonic = in_features * out_features / (in_features + out_features)
    return harmonic / r


def break_even_rank(in_features: int, out_features: int) -> int:
    require(1, in_features=in_features, out_features=out_features)
    r = in_features * out_features // (in_features + out_features)
    return r if r * (in_features + out_features) == in_features * out_features else r + 1


def full_finetune_memory(
    params: int, *, optimizer: str = "adam", mixed: bool = False, activations: int = 0
) -> Memory:
    require(0, params=params, activations=activations)
    bits = {"adam": (64, 96), "sgd": (0, 32)}
    if optimizer not in bits:
        raise ValueError(f"optimizer {optimizer!r}: expected one of {sorted(bits)}")
    width = 16 if mixed else 32
    return Memory(
        params * width // 8, params * width // 8, params * bits[optimizer][mixed] // 8, activations
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
    if 8 * weight_bytes not in (16, 32):
        raise ValueError(f"weight_bytes {weight_bytes}: expected 2 or 4")
    trained = full_finetune_memory(trainable, optimizer=optimizer, activations=activations)
    return trained + Memory(weights=frozen * weight_bytes)


def nf4_bytes(
    params: int, block_size: int = 64, double_quant: bool = True, double_block_size: int = 256
) -> int:
    require(0, params=params)
    require(1, block_size=block_size, double_block_size=double_block_size)
    codes = ceil(0.5 * params)
    blocks = ceil(params / block_size)
    return codes + (blocks + 4 * ceil(blocks / double_block_size) if double_quant else 4 * blocks)


def qlora_memory(
    quantised: int, others: int, trainable: int, *, optimizer: str = "adam", activations: int = 0
) -> Memory:
    require(0, quantised=quantised, others=others, trainable=trainable)
    base = lora_memory(
        others, trainable, optimizer=optimizer, weight_bytes=2, activations=activations
    )
    return base + Memory(weights=nf4_bytes(quantised))


def linear_activations(
    in_features: int, tokens: int, *, mode: str = "full", r: int = 8, element_size: int = FLOAT32
) -> int:
    require(1, in_features=in_features, tokens=tokens, r=r, element_size=element_size)
    reads = {"full": 1, "frozen": 0, "lora": 1}
    if mode not in reads:
        raise ValueError(f"mode {mode!r}: expected one of {list(reads)}")
    h = r if mode == "lora" else 0
    return (in_features * reads[mode] + h) * tokens * element_size


def minigpt_activations(
    config: MiniGPTConfig, batch: int, seq: int, *, r: int | None = None
) -> int:
    require(1, batch=batch, seq=seq)
    kept: dict[str, int] = {}
    kept["norm"] = config.n_layer * 2 + 1
    kept["d"] = config.n_layer * (1 + 3 + 1 + 1)
    kept["d_ff"] = config.n_layer * 2
    kept["n_head"] = config.n_layer
    if r is None:
        kept["d"] += 1
        kept["id"] = batch * seq + seq
    else:
        require(1, r=r)
        kept["norm"] -= 1
        kept["r"] = config.n_layer * 6
    sizes = {
        "norm": (config.d_model + 2) * 4 * batch * seq,
        "d": config.d_model * 4 * batch * seq,
        "d_ff": config.d_ff * 4 * batch * seq,
        "n_head": config.n_head * 4 * batch * seq,
        "r": (r or 0) * 4 * batch * seq,
        "id": 8,
    }
    return sum(sizes[what] * many for what, many in kept.items())


def truth(claim: Claim) -> float:
    if claim.quantity not in QUANTITIES:
        raise ValueError(f"quantity {claim.quantity!r}: expected one of {list(QUANTITIES)}")
    names = claim.quantity.replace(" ", "_")
    figure: float = getattr(Figures, names)(claim)
    return figure / UNITS[claim.unit]


class Figures:
    """One method a quantity."""

    @staticmethod
    def entries(c: Claim) -> float:
        return sum(prod((m.copies, m.in_features, m.out_features)) for m in c.matrices)

    @staticmethod
    def adapter(c: Claim) -> float:
        return c.r * sum(m.copies * (m.in_features + m.out_features) for m in c.matrices)

    @classmethod
    def share(cls, c: Claim) -> float:
        return cls.adapter(c) / c.params

    @classmethod
    def fewer(cls, c: Claim) -> float:
        return 1 / cls.share(c)

    @classmethod
    def file(cls, c: Claim) -> float:
        return c.bytes_each * cls.adapter(c)

    @staticmethod
    def stored(c: Claim) -> float:
        return float(c.bytes_each) * c.params

    @staticmethod
    def training(c: Claim) -> float:
        return (2 + 2 + 4 + 4 + 4) * c.params

    @staticmethod
    def constants(c: Claim) -> float:
        blocks = ceil(c.params / 64)
        return 8 * (blocks + 4 * ceil(blocks / 256)) / c.params

    @staticmethod
    def double_quantisation(c: Claim) -> float:
        blocks = ceil(c.params / 64)
        return 4 * blocks - (blocks + 4 * ceil(blocks / 256))

    @staticmethod
    def quotient(c: Claim) -> float:
        return c.parts[0] / c.parts[1]


def audit(claims: Iterable[Claim]) -> list[Verdict]:
    verdicts = []
    for claim in claims:
        value = truth(claim)
        match claim.relation:
            case "=":
                holds = round(value / claim.step) == round(claim.published / claim.step)
            case "<":
                holds = value < claim.published
            case ">":
                holds = value > claim.published
            case _:
                raise ValueError(f"relation {claim.relation!r}: expected =, < or >")
        verdicts.append(Verdict(claim, value, holds))
    return verdicts
