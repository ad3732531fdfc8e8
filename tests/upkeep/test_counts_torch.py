"""Lab 01's table of activations and its given shapes against torch itself.

The contract holds learners to the table of BLUEPRINT-01.md; here saved-tensor hooks say that the
table is what the pinned torch does. Leaves out: the loss, dropout, other devices.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from together import together
from torch import nn

from minituner.minigpt import MiniGPT, MiniGPTConfig
from minituner.published import CLAIMS, QUANTITIES, UNITS, gpt2, llama

ROOT = Path(__file__).resolve().parents[2]
SMALL = MiniGPTConfig(vocab_size=31, block_size=20, n_layer=3, n_head=3, d_model=12, d_ff=17)


SOLVED = together(ROOT / "solutions", "counts", "lora")
COUNTS, LORA = SOLVED.counts, SOLVED.lora


def kept(model: nn.Module, tokens: torch.Tensor) -> int:
    """Bytes that autograd keeps from tokens to logits, each storage once, parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = model(tokens)
    assert logits.requires_grad
    return sum(storage.nbytes() for pointer, storage in found.items() if pointer not in own)


@pytest.mark.parametrize("r", [None, 1, 8])
@pytest.mark.parametrize(("config", "batch", "seq"), [(MiniGPTConfig(), 3, 64), (SMALL, 5, 7)])
def test_the_table_of_activations_is_what_torch_keeps(
    config: MiniGPTConfig, batch: int, seq: int, r: int | None
) -> None:
    """minigpt_activations equals the saved-tensor hooks, in full and with lab 00's adapters."""
    model = MiniGPT(config)
    if r is not None:
        LORA.wrap_minigpt_with_lora(model, r=r, dropout=0.0)
    tokens = torch.randint(0, config.vocab_size, (batch, seq))
    assert COUNTS.minigpt_activations(config, batch, seq, r=r) == kept(model, tokens)


@pytest.mark.parametrize("r", [1, 8])
def test_wrapped_count_is_what_lab_00s_wrapper_gives(r: int) -> None:
    """The count without wrapping equals the count after it."""
    model = MiniGPT(SMALL)
    foretold = COUNTS.wrapped_count(model, r)
    LORA.wrap_minigpt_with_lora(model, r=r)
    now = COUNTS.count_params(model)
    assert (foretold.trainable, foretold.frozen) == (now.trainable, now.frozen)


def test_the_shapes_add_up_to_the_models() -> None:
    """gpt2() and llama() list every parameter: 124 439 808 and 6 738 415 616."""
    sums = [
        sum(m.copies * m.in_features * m.out_features for m in shapes)
        for shapes in (gpt2(768, 12), llama(4096, 32, 11_008))
    ]
    assert sums == [124_439_808, 6_738_415_616]


def test_every_claim_is_complete_and_every_quantity_used() -> None:
    """Known quantity, unit and relation, its own id, and no verdict that hangs on the last bit."""
    assert {claim.quantity for claim in CLAIMS} == QUANTITIES.keys()
    assert len({claim.id for claim in CLAIMS}) == len(CLAIMS)
    for verdict in COUNTS.audit(CLAIMS):
        claim = verdict.claim
        assert claim.unit in UNITS and claim.relation in ("=", "<", ">"), claim.id
        off = abs(verdict.truth - claim.published) / claim.step
        assert abs(off - 0.5) > 0.02 or claim.relation != "=", claim.id
