"""Lab 01, block B: bytes in four buckets, and NF4 with its constants.

Leaves out: activations (lab01_activations.py); here they are a number that is passed on.
"""

from __future__ import annotations

from minituner.grading.checks.asking import Asking, equal
from minituner.grading.checks.lab01_asking import buckets, refused

FULL, SMALL, FOUR = "full_finetune_memory", "lora_memory", "qlora_memory"


# --- B1: full fine-tuning -------------------------------------------------------------------------


def counts_full_in_float32_is_4_4_8(ask: Asking) -> None:
    n, full = ask.rng.randint(1000, 10**9), ask.star(FULL)
    got = buckets(ask, full(n), full(n, optimizer="adam"))
    equal(ask, f"full_finetune_memory({n})", got, [[4 * n, 4 * n, 8 * n, 0]] * 2)


def counts_full_mixed_is_2_2_12(ask: Asking) -> None:
    n = ask.rng.randint(1000, 10**9)
    got = buckets(ask, ask.star(FULL)(n, mixed=True))
    equal(ask, f"full_finetune_memory({n}, mixed=True)", got, [[2 * n, 2 * n, 12 * n, 0]])


def counts_full_with_sgd_keeps_no_moments(ask: Asking) -> None:
    n = ask.rng.randint(1000, 10**9)
    got = buckets(ask, *(ask.star(FULL)(n, optimizer="sgd", mixed=m) for m in (False, True)))
    equal(ask, "float32, mixed:", got, [[4 * n, 4 * n, 0, 0], [2 * n, 2 * n, 4 * n, 0]])


def counts_full_passes_activations_on(ask: Asking) -> None:
    n, kept = ask.rng.randint(1000, 10**6), ask.rng.randint(1, 10**9)
    calls = [ask.star(FULL)(n, mixed=m, activations=kept) for m in (False, True)]
    got = ask.w.ask(ask.kit.fields(calls, ("activations", "total")))
    equal(ask, "(activations, total)", got, [[kept, 16 * n + kept]] * 2)


def counts_full_refuses_what_makes_no_sense(ask: Asking) -> None:
    full, bad = ask.star(FULL), -ask.rng.randint(2, 99)
    other = ask.rng.choice(("adamw8bit", "adafactor", "lion"))
    things = [
        (f"optimizer={other!r}", full(10, optimizer=other), ("optimizer", other)),
        (f"params={bad}", full(bad), ("params", f"{bad}")),
        (f"activations={bad}", full(10, activations=bad), ("activations", f"{bad}")),
    ]
    refused(ask, things)
    equal(ask, "full_finetune_memory(0)", buckets(ask, full(0)), [[0, 0, 0, 0]], 1)


# --- B2: adapters on a frozen base ----------------------------------------------------------------


def counts_small_frozen_costs_its_weights_alone(ask: Asking) -> None:
    n, lora = ask.rng.randint(1000, 10**9), ask.star(SMALL)
    got = buckets(ask, lora(n, 0), lora(n, 0, weight_bytes=2))
    equal(ask, "weight_bytes 4, 2:", got, [[4 * n, 0, 0, 0], [2 * n, 0, 0, 0]])


def counts_small_adapters_are_float32_throughout(ask: Asking) -> None:
    frozen, n = ask.rng.randint(10**6, 10**9), ask.rng.randint(1000, 10**6)
    got = buckets(ask, *(ask.star(SMALL)(frozen, n, weight_bytes=size) for size in (4, 2)))
    want = [[size * frozen + 4 * n, 4 * n, 8 * n, 0] for size in (4, 2)]
    equal(ask, "weight_bytes 4, 2:", got, want)


def counts_small_with_sgd_and_activations(ask: Asking) -> None:
    frozen, n, kept = (ask.rng.randint(1000, 10**6) for _ in range(3))
    got = buckets(ask, ask.star(SMALL)(frozen, n, optimizer="sgd", activations=kept))
    what = f"lora_memory({frozen}, {n}, optimizer='sgd', activations={kept})"
    equal(ask, what, got, [[4 * (frozen + n), 4 * n, 0, kept]])


def counts_small_refuses_what_makes_no_sense(ask: Asking) -> None:
    lora, bad = ask.star(SMALL), -ask.rng.randint(2, 99)
    other, size = ask.rng.choice(("adagrad", "lion")), ask.rng.choice((1, 3, 8))
    things = [
        (f"optimizer={other!r}", lora(10, 2, optimizer=other), ("optimizer", other)),
        (f"weight_bytes={size}", lora(10, 2, weight_bytes=size), ("weight_bytes", f"{size}")),
        (f"frozen={bad}", lora(bad, 2), ("frozen", f"{bad}")),
        (f"trainable={bad}", lora(10, bad), ("trainable", f"{bad}")),
    ]
    refused(ask, things)


# --- B3 and B4: four bits -------------------------------------------------------------------------


def _nf4(n: int, block: int = 64, double: bool = True, group: int = 256) -> int:
    """Codes, and an absmax a block: 4 bytes, or 1 and 4 a group; each part rounded up."""
    blocks = (n + block - 1) // block
    return (n + 1) // 2 + (blocks + 4 * ((blocks + group - 1) // group) if double else 4 * blocks)


def counts_nf4_keeps_a_float32_a_block(ask: Asking) -> None:
    blocks, block = ask.rng.randint(10, 5000), ask.rng.choice((32, 64, 128))
    got = ask.w.ask(ask.star("nf4_bytes")(blocks * block, block_size=block, double_quant=False))
    what = f"nf4_bytes({blocks * block}, {block}, double_quant=False)"
    equal(ask, what, got, blocks * (block // 2 + 4))


def counts_nf4_double_quantisation_keeps_a_byte_a_block(ask: Asking) -> None:
    groups, group = ask.rng.randint(2, 50), ask.rng.choice((16, 256))
    block = ask.rng.choice((32, 64))
    n = groups * group * block
    got = ask.w.ask(ask.star("nf4_bytes")(n, block, True, group))
    what = f"nf4_bytes({n}, {block}, True, {group})"
    equal(ask, what, got, n // 2 + groups * group + 4 * groups)


def counts_nf4_rounds_each_part_up(ask: Asking) -> None:
    n, odd = ask.rng.randint(1, 40), 2 * ask.rng.randint(1, 30) + 1
    asked = [
        (odd, 64, True, 256),
        (odd, 64, False, 256),
        (64 * n + 1, 64, True, 1),
        (64 * (256 * n + 1), 64, True, 256),
        (64 * n + odd, 64, False, 256),
    ]
    got = ask.w.ask([ask.star("nf4_bytes")(*one) for one in asked])
    equal(ask, f"{asked} ->", got, [_nf4(*one) for one in asked])


def counts_nf4_by_default_takes_4127_bits_a_thousand(ask: Asking) -> None:
    n, nf4 = 64 * 256 * ask.rng.randint(100, 10_000), ask.star("nf4_bytes")
    got = ask.w.ask([nf4(n), nf4(n, double_quant=False)])
    want = [n // 2 + n // 64 + 4 * (n // (64 * 256)), n // 2 + n // 16]
    equal(ask, f"nf4_bytes({n}), with and without double quantisation", got, want)


def counts_nf4_refuses_what_makes_no_sense(ask: Asking) -> None:
    nf4, bad = ask.star("nf4_bytes"), -ask.rng.randint(2, 99)
    things = [
        (f"params={bad}", nf4(bad), ("params", f"{bad}")),
        ("block_size=0", nf4(8, block_size=0), ("block_size", "0")),
        (
            f"double_block_size={bad}",
            nf4(8, double_block_size=bad),
            ("double_block_size", f"{bad}"),
        ),
    ]
    refused(ask, things)
    equal(ask, "nf4_bytes(0)", ask.w.ask(nf4(0)), 0, 1)


def counts_quantised_weights_are_nf4_and_16_bits_and_float32(ask: Asking) -> None:
    groups, others, n = (ask.rng.randint(10, 1000) for _ in range(3))
    quantised = 64 * 256 * groups
    got = ask.w.ask(ask.star(FOUR)(quantised, others, n).weights)
    want = groups * (64 * 128 + 256 + 4) + 2 * others + 4 * n
    equal(ask, f"qlora_memory({quantised}, {others}, {n}).weights", got, want)


def counts_quantised_adapters_train_in_float32(ask: Asking) -> None:
    base, others, n, kept = (ask.rng.randint(1000, 10**6) for _ in range(4))
    qlora = ask.star(FOUR)
    calls = qlora(base, others, n, activations=kept), qlora(base, others, n, optimizer="sgd")
    got = ask.w.ask(ask.kit.fields(calls, ("gradients", "optimizer", "activations")))
    want = [[4 * n, 8 * n, kept], [4 * n, 0, 0]]
    equal(ask, "(gradients, optimizer, activations): adam, sgd", got, want)


def counts_quantised_llama_7b_worked(ask: Asking) -> None:
    """A LLaMA of any depth, all linears of its layers adapted at r = 8 or 16."""
    d, d_ff, layers, r = 4096, 11_008, ask.rng.randint(20, 60), ask.rng.choice((8, 16))
    entries = layers * (4 * d * d + 3 * d * d_ff)
    others = 2 * 32_000 * d + (2 * layers + 1) * d
    n, qlora = layers * r * (4 * 2 * d + 3 * (d + d_ff)), ask.star(FOUR)
    got = buckets(ask, qlora(entries, others, n))
    want = [[_nf4(entries) + 2 * others + 4 * n, 4 * n, 8 * n, 0]]
    equal(ask, f"qlora_memory({entries}, {others}, {n})", got, want)
    bad = -ask.rng.randint(2, 99)
    things = [
        ("optimizer='adagrad'", qlora(10, 2, 1, optimizer="adagrad"), ("optimizer", "adagrad")),
        (f"others={bad}", qlora(10, bad, 1), ("others", f"{bad}")),
    ]
    refused(ask, things, 1)
