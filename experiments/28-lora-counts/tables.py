"""The numbers of the lab's three figures, all from counts.py but for what torch allocates.

    shares       what trains, in percent: of one square weight over d, of three models over r
    stacks       bytes in four buckets: three models, six ways to train, Adam and SGD
    allocations  MiniGPT's predicted buckets beside what torch allocates, and the peak of a step

Source: lab/01-lora-counts.md. Leaves out: LLaMA-7B's own activations; a rule of thumb stands in for
them (Rajbhandari et al. 2019, arXiv:1910.02054 §3.2): 12 numbers a token, a layer, a unit of d.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any  # what the ★ module gives, and what JSON holds

from allocations import allocated

from minituner.minigpt import MiniGPT, MiniGPTConfig
from minituner.published import LLAMA_7B, LLAMA_7B_ALL, Matrix, gpt2

RANKS = (4, 8, 16)
MINI = MiniGPTConfig()
BATCH, SEQ = 16, 64  # of MiniGPT; the other two have one row of
GPT2_SEQ, LLAMA_SEQ = 1024, 2048  # tokens
GPT2_CONFIG = MiniGPTConfig(
    vocab_size=50_257, block_size=1024, n_layer=12, n_head=12, d_model=768, d_ff=3072
)
LLAMA_WIDTH, LLAMA_LAYERS = 4096, 32
RULE = 12  # numbers kept for each token, layer and unit of d
CASES = ((None, "adam"), (None, "sgd"), (4, "adam"), (8, "adam"), (16, "adam"), (8, "sgd"))


@dataclass(frozen=True)
class Big:
    """A model that is not built here: its sizes."""

    name: str
    params: int
    linears: tuple[Matrix, ...]  # the linears of its layers; no embedding, no head

    @property
    def entries(self) -> int:
        """How many numbers its linears' weights have."""
        return sum(m.copies * m.in_features * m.out_features for m in self.linears)


ALL_OF_GPT2 = gpt2(GPT2_CONFIG.d_model, GPT2_CONFIG.n_layer)
GPT2_SMALL = Big("GPT-2 small", Big("", 0, ALL_OF_GPT2).entries, ALL_OF_GPT2[2:6])
LLAMA = Big("LLaMA-7B", LLAMA_7B, LLAMA_7B_ALL)


@dataclass(frozen=True)
class Case:
    """One model as the four buckets see it; activations are float32 bytes, None is full."""

    name: str
    params: int
    quantised: int  # the entries of the linears that LoRA adapts
    tokens: int
    base: int  # bytes of a frozen number under LoRA
    trainable: dict[int, int]
    activations: dict[int | None, int]


def adapters(counts: ModuleType, model: Big, r: int) -> int:
    """Trainable parameters with an adapter on every linear of the layers."""
    sizes = [
        m.copies * counts.lora_param_count(m.in_features, m.out_features, r) for m in model.linears
    ]
    return sum(sizes)


def shares(counts: ModuleType) -> dict[str, Any]:
    """Percent that trains of one square weight, by r over d, and of a model, over r."""
    sides, ranks = [2**n for n in range(5, 15)], [2**n for n in range(8)]
    mini = MiniGPT(MINI)
    total = counts.count_params(mini).total
    models = {"MiniGPT": [100 * counts.wrapped_count(mini, r).trainable / total for r in ranks]}
    for big in (GPT2_SMALL, LLAMA):
        models[big.name] = [100 * adapters(counts, big, r) / big.params for r in ranks]
    weights = {
        str(r): [100 / counts.compression_ratio(d, d, r) for d in sides] for r in (1, 4, 16, 64)
    }
    return {"sides": sides, "ranks": ranks, "weights": weights, "models": models}


def cases(counts: ModuleType) -> list[Case]:
    mini = MiniGPT(MINI)
    shapes = counts.linear_inventory(mini.blocks)
    found = [
        Case(
            "MiniGPT",
            counts.count_params(mini).total,
            sum(s.in_features * s.out_features for s in shapes),
            BATCH * SEQ,
            4,
            {r: counts.wrapped_count(mini, r).trainable for r in RANKS},
            {r: counts.minigpt_activations(MINI, BATCH, SEQ, r=r) for r in (None, *RANKS)},
        )
    ]
    rule = RULE * LLAMA_WIDTH * LLAMA_LAYERS * LLAMA_SEQ * 4
    kept: dict[str, dict[int | None, int]] = {
        GPT2_SMALL.name: {r: gpt2_activations(counts, r) for r in (None, *RANKS)},
        LLAMA.name: dict.fromkeys((None, *RANKS), rule),
    }
    for big, tokens, base in ((GPT2_SMALL, GPT2_SEQ, 4), (LLAMA, LLAMA_SEQ, 2)):
        trainable = {r: adapters(counts, big, r) for r in RANKS}
        found.append(
            Case(big.name, big.params, big.entries, tokens, base, trainable, kept[big.name])
        )
    return found


def gpt2_activations(counts: ModuleType, r: int | None) -> int:
    """MiniGPT's closed form at GPT-2's sizes; q, k and v are one matrix there: one h, not three."""
    kept = int(counts.minigpt_activations(GPT2_CONFIG, 1, GPT2_SEQ, r=r))
    return kept if r is None else kept - 2 * 4 * r * GPT2_SEQ * GPT2_CONFIG.n_layer


def buckets(counts: ModuleType, case: Case, optimizer: str) -> dict[str, dict[str, int]]:
    """Way to train -> bytes by bucket. Where 16 bits compute, activations are half as large."""
    full, r = case.activations[None], RANKS[-1]
    found = {
        "full, float32": counts.full_finetune_memory(
            case.params, optimizer=optimizer, activations=full
        ),
        "full, mixed": counts.full_finetune_memory(
            case.params, optimizer=optimizer, mixed=True, activations=full // 2
        ),
    }
    for rank, trainable in case.trainable.items():
        found[f"LoRA r={rank}"] = counts.lora_memory(
            case.params,
            trainable,
            optimizer=optimizer,
            weight_bytes=case.base,
            activations=case.activations[rank] * case.base // 4,
        )
    found[f"QLoRA r={r}"] = counts.qlora_memory(
        case.quantised,
        case.params - case.quantised,
        case.trainable[r],
        optimizer=optimizer,
        activations=case.activations[r] // 2,
    )
    return {way: asdict(memory) for way, memory in found.items()}


def stacks(counts: ModuleType) -> list[dict[str, Any]]:
    """One entry a model: its sizes, and under adam and sgd the buckets of each way to train."""
    return [
        {
            "model": case.name,
            "params": case.params,
            "quantised": case.quantised,
            "trainable": {str(r): count for r, count in case.trainable.items()},
            "tokens": case.tokens,
            "base_bytes": case.base,
            **{optimizer: buckets(counts, case, optimizer) for optimizer in ("adam", "sgd")},
        }
        for case in cases(counts)
    ]


def allocations(counts: ModuleType) -> dict[str, Any]:
    """Predicted buckets of a MiniGPT in float32, and torch's, with the peak of a step."""
    mini, rows = cases(counts)[0], []
    for r, optimizer in CASES:
        way = "full, float32" if r is None else f"LoRA r={r}"
        row = {
            "way": way,
            "optimizer": optimizer,
            "predicted": buckets(counts, mini, optimizer)[way],
            "torch": allocated(MINI, r, optimizer, BATCH, SEQ),
        }
        print(f"{way:>14} {optimizer:>5}  {row['torch']}")
        rows.append(row)
    return {"batch": BATCH, "seq": SEQ, "rows": rows}
