"""The experimenter: what torch allocates is counted on tensors, what it keeps by its own hooks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minituner.minigpt import MiniGPT, MiniGPTConfig
from minituner.published import UNITS, Claim
from minituner.tally import LinearShape, Memory, ParamCount, Verdict, require

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")
FLOAT32 = 4
DTYPES = {8: torch.float64, 4: torch.float32, 2: torch.bfloat16}


class Adapted(nn.Module):
    """A frozen linear, A and B beside it."""

    def __init__(self, base: nn.Linear, r: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.A = nn.Parameter(base.weight.new_zeros(r, base.in_features))
        self.B = nn.Parameter(base.weight.new_zeros(base.out_features, r))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        return out + F.linear(F.linear(x, self.A), self.B)


def empty(*shape: int) -> Tensor:
    """A tensor without memory."""
    return torch.empty(*shape, device="meta")


def lora_param_count(in_features: int, out_features: int, r: int) -> int:
    require(1, in_features=in_features, out_features=out_features, r=r)
    with torch.device("meta"):
        factors = nn.Linear(in_features, r, bias=False), nn.Linear(r, out_features, bias=False)
    return sum(factor.weight.numel() for factor in factors)


def linear_inventory(model: nn.Module) -> list[LinearShape]:
    found = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            out_features, in_features = module.weight.shape
            found.append(LinearShape(name, in_features, out_features, module.bias is not None))
    return found


def count_params(model: nn.Module) -> ParamCount:
    flags = torch.tensor([p.requires_grad for p in model.parameters()], dtype=torch.bool)
    sizes = torch.tensor([p.numel() for p in model.parameters()], dtype=torch.int64)
    return ParamCount(int(sizes[flags].sum()), int(sizes[~flags].sum()))


def wrapped_count(
    model: nn.Module, r: int = 8, target_modules: Sequence[str] = MINIGPT_LINEARS
) -> ParamCount:
    require(1, r=r)
    linears = [
        (f".{name}", module)
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, nn.Linear)
    ]
    factors: dict[int, list[Tensor]] = {}
    for target in target_modules:
        mine = [linear for name, linear in linears if name.endswith(f".{target}")]
        if not mine:
            lost = [t for t in target_modules if not any(n.endswith(f".{t}") for n, _ in linears)]
            raise ValueError(f"target_modules: nothing to wrap for {lost}")
        for linear in mine:
            factors[id(linear)] = [empty(r, linear.in_features), empty(linear.out_features, r)]
    trainable = sum(factor.numel() for pair in factors.values() for factor in pair)
    return ParamCount(trainable, count_params(model).total)


def compression_ratio(in_features: int, out_features: int, r: int) -> float:
    return empty(out_features, in_features).numel() / lora_param_count(in_features, out_features, r)


def break_even_rank(in_features: int, out_features: int) -> int:
    require(1, in_features=in_features, out_features=out_features)
    return math.ceil(1 / (1 / in_features + 1 / out_features) - 1e-9)


def full_finetune_memory(
    params: int, *, optimizer: str = "adam", mixed: bool = False, activations: int = 0
) -> Memory:
    require(0, params=params, activations=activations)
    weight = empty(params).to(torch.bfloat16 if mixed else torch.float32)
    states = {"adam": [empty(params), empty(params)], "sgd": []}
    if optimizer not in states:
        raise ValueError(f"optimizer: expected adam or sgd, got {optimizer}")
    kept = [*states[optimizer], *([empty(params)] if mixed else [])]
    return Memory(
        weights=weight.nbytes,
        gradients=torch.empty_like(weight).nbytes,
        optimizer=sum(state.nbytes for state in kept),
        activations=activations,
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
    if weight_bytes not in (2, 4):
        raise ValueError(f"weight_bytes: expected 2 or 4, got {weight_bytes}")
    base = empty(frozen).to(DTYPES[weight_bytes])
    trained = full_finetune_memory(trainable, optimizer=optimizer, activations=activations)
    return trained + Memory(base.nbytes)


def nf4_bytes(
    params: int, block_size: int = 64, double_quant: bool = True, double_block_size: int = 256
) -> int:
    require(0, params=params)
    require(1, block_size=block_size, double_block_size=double_block_size)
    codes = empty(math.ceil(params / 2)).to(torch.uint8)
    absmax = empty(math.ceil(params / block_size))
    if not double_quant:
        return codes.nbytes + absmax.nbytes
    second = empty(math.ceil(absmax.numel() / double_block_size))
    return codes.nbytes + absmax.to(torch.int8).nbytes + second.nbytes


def qlora_memory(
    quantised: int, others: int, trainable: int, *, optimizer: str = "adam", activations: int = 0
) -> Memory:
    require(0, quantised=quantised, others=others, trainable=trainable)
    rest = lora_memory(others, trainable, optimizer=optimizer, weight_bytes=2)
    return Memory(nf4_bytes(quantised)) + rest + Memory(activations=activations)


def kept(run: Callable[[Tensor], Tensor], x: Tensor, own: Iterable[Tensor]) -> int:
    """Bytes that autograd keeps, each storage once, parameters left out."""
    known = {tensor.untyped_storage().data_ptr() for tensor in own}
    found: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            found[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = run(x)
    del out
    return sum(storage.nbytes() for storage in found.values())


def linear_activations(
    in_features: int, tokens: int, *, mode: str = "full", r: int = 8, element_size: int = FLOAT32
) -> int:
    require(1, r=r)
    if mode not in ("full", "frozen", "lora"):
        raise ValueError(f"mode: expected full, frozen or lora, got {mode}")
    dtype = DTYPES[element_size]
    module: nn.Module = nn.Linear(in_features, 5, dtype=dtype).requires_grad_(mode == "full")
    if mode == "lora":
        module = Adapted(nn.Linear(in_features, 5, dtype=dtype), r)
    x = torch.zeros(tokens, in_features, dtype=dtype, requires_grad=True)
    return kept(module, x, module.parameters())


def minigpt_activations(
    config: MiniGPTConfig, batch: int, seq: int, *, r: int | None = None
) -> int:
    require(1, batch=batch, seq=seq, r=1 if r is None else r)
    model = MiniGPT(config)
    if r is not None:
        model.requires_grad_(False)
        for block in model.blocks:
            for parent, names in (
                (block.get_submodule("attn"), ("q_proj", "k_proj", "v_proj", "o_proj")),
                (block.get_submodule("mlp"), ("fc1", "fc2")),
            ):
                for name in names:
                    linear = parent.get_submodule(name)
                    assert isinstance(linear, nn.Linear)
                    setattr(parent, name, Adapted(linear, r))
    return kept(model, torch.zeros(batch, seq, dtype=torch.int64), model.parameters())


def truth(claim: Claim) -> float:
    pairs = [(m.copies, empty(m.out_features, m.in_features)) for m in claim.matrices]

    def entries() -> float:
        return sum(n * weight.numel() for n, weight in pairs)

    def adapter() -> float:
        return sum(
            n * lora_param_count(weight.shape[1], weight.shape[0], claim.r) for n, weight in pairs
        )

    def constants() -> float:
        return 8 * nf4_bytes(claim.params) / claim.params - 4

    def saved() -> float:
        return nf4_bytes(claim.params, double_quant=False) - nf4_bytes(claim.params)

    ways: dict[str, Callable[[], float]] = {
        "entries": entries,
        "adapter": adapter,
        "share": lambda: adapter() / claim.params,
        "fewer": lambda: claim.params / adapter(),
        "file": lambda: adapter() * claim.bytes_each,
        "stored": lambda: claim.params * claim.bytes_each,
        "training": lambda: full_finetune_memory(claim.params, mixed=True).total,
        "constants": constants,
        "double quantisation": saved,
        "quotient": lambda: math.exp(math.log(claim.parts[0]) - math.log(claim.parts[1])),
    }
    way = ways.get(claim.quantity)
    if way is None:
        raise ValueError(f"quantity: no way to compute {claim.quantity}")
    return way() / UNITS[claim.unit]


def audit(claims: Iterable[Claim]) -> list[Verdict]:
    claims = list(claims)
    verdicts = []
    for claim, value in zip(claims, map(truth, claims), strict=True):
        if claim.relation == "=":
            holds = math.isclose(value, claim.published, rel_tol=0, abs_tol=claim.step / 2)
        elif claim.relation in ("<", ">"):
            low, high = (value, claim.published)[:: 1 if claim.relation == "<" else -1]
            holds = low < high
        else:
            raise ValueError(f"relation: expected =, < or >, got {claim.relation}")
        verdicts.append(Verdict(claim, value, holds))
    return verdicts
