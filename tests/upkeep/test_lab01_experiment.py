"""Lab 01's experiment: what its tracers count, and that figures/*.json are up to date.

The tracers meet cases small enough to count by hand. Leaves out: the pictures; a person looks.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any  # what the experiment's modules and JSON hold

import pytest
import torch
from together import together
from torch import Tensor, nn

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "28-lora-counts"
N = 1000  # numbers of float32 in the tensors that are followed


@pytest.fixture(scope="module")
def allocations() -> Any:
    return together(FOLDER, "allocations").allocations


@pytest.fixture(scope="module")
def tables() -> Any:
    return together(FOLDER, "tables").tables


@pytest.fixture(scope="module")
def counts() -> Any:
    return together(ROOT / "solutions", "counts").counts


def committed(name: str) -> Any:
    return json.loads((FOLDER / "figures" / f"{name}.json").read_text(encoding="utf-8"))


# --- the tracers ----------------------------------------------------------------------------------


Peak = Callable[[Callable[[], object], list[Tensor]], int]


@pytest.fixture
def peak(allocations: Any) -> Peak:
    def follow(what: Callable[[], object], already: list[Tensor]) -> int:
        with allocations.Live(already) as live:
            what()
        return int(live.peak)

    return follow


def test_the_peak_is_the_most_that_lives_at_once(peak: Peak) -> None:
    """Three at once, though four are made; what was there before counts, a view adds nothing."""
    x = torch.zeros(N)

    def three() -> None:
        a = x + 1
        b = a + 1
        del a
        c = b.view(10, -1) + 1
        del b, c

    assert peak(three, [x]) == 3 * 4 * N


def test_the_peak_counts_what_an_operation_reads(peak: Peak) -> None:
    """A tensor that nobody announced counts as soon as an operation reads it."""
    x = torch.zeros(N)
    assert peak(lambda: x.sum(), []) == 4 * N + 4


def test_the_peak_includes_gradients_made_in_the_backward_pass(peak: Peak) -> None:
    """Forwards w, 2 w and their sum; backwards w, its gradient, and two scalars beside it."""
    w = torch.ones(N, requires_grad=True)
    low = peak(lambda: (w * 2).sum(), [w])
    high = peak(lambda: torch.autograd.backward((w * 2).sum()), [w])
    assert low == 2 * 4 * N + 4
    assert high == 2 * 4 * N + 2 * 4
    assert w.grad is not None and w.grad.untyped_storage().nbytes() == 4 * N


@pytest.mark.parametrize(("trains", "rows"), [(True, 3), (False, 0)])
def test_saved_bytes_of_one_linear(trains: bool, rows: int, allocations: Any) -> None:
    """A trainable weight keeps its input, a frozen one nothing; parameters are not counted."""
    layer = nn.Linear(5, 7).requires_grad_(trains)
    x = torch.zeros(3, 5, requires_grad=True) * 1  # not a leaf, as within a model
    assert allocations.saved_bytes(layer, x) == rows * 5 * 4


def test_a_shared_storage_counts_once(allocations: Any) -> None:
    """A tensor and a view of it are one storage."""
    x = torch.zeros(N)
    assert allocations.storage_bytes([x, x[:10], x.view(10, -1)]) == 4 * N


# --- the figures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["shares", "stacks"])
def test_committed_numbers_are_what_counts_gives(name: str, tables: Any, counts: Any) -> None:
    """figures/*.json are what the reference computes now."""
    assert committed(name) == getattr(tables, name)(counts)


def test_predicted_buckets_are_what_torch_allocates() -> None:
    """Byte for byte; Adam also counts its steps, 4 bytes for each tensor that trains."""
    data = committed("allocations")
    assert len(data["rows"]) == 6
    for row in data["rows"]:
        told, real = row["predicted"], dict(row["torch"])
        tensors = 52 if row["way"].startswith("full") else 2 * 6 * 4
        steps = 4 * tensors if row["optimizer"] == "adam" else 0
        assert real.pop("peak") > sum(told.values())
        assert real == {**told, "optimizer": told["optimizer"] + steps}, row["way"]


@pytest.mark.parametrize("nth", [0, 3])
def test_committed_allocations_are_what_torch_does(
    nth: int, allocations: Any, tables: Any, counts: Any
) -> None:
    """Full fine-tuning and LoRA at r = 8, with Adam: predicted and traced anew, the peak too."""
    row = committed("allocations")["rows"][nth]
    r, optimizer = tables.CASES[nth]
    real = allocations.allocated(tables.MINI, r, optimizer, tables.BATCH, tables.SEQ)
    assert row["torch"] == real
    assert (
        row["predicted"] == tables.buckets(counts, tables.cases(counts)[0], optimizer)[row["way"]]
    )


def test_adapters_on_q_and_v_alone_keep_what_the_theory_says(allocations: Any, tables: Any) -> None:
    """728 numbers a token and block: neither fc1 nor fc2 keeps its input (theory/03-memory)."""
    model = allocations.minigpt(tables.MINI, None).requires_grad_(False)
    for block in model.blocks:
        for name in ("q_proj", "v_proj"):
            setattr(block.attn, name, allocations.Adapter(getattr(block.attn, name), 8))
    tokens = torch.zeros(tables.BATCH, tables.SEQ, dtype=torch.long)
    assert allocations.saved_bytes(model, tokens) == 4 * 1024 * 4 * (1032 - 320 + 2 * 8)
