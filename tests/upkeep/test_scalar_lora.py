"""LoRA on scalars (experiments/28-scalar-lora) against torch, against MiniGPT and the reference.

Every gradient and every step of Adam to 1e-9 in float64; identity, freezing, sampling.
Leaves out: the engine's operations, test_scalar_engine.py; the job, test_scalar_job.py.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from harness import REFERENCE
from scalar import (
    ALPHA,
    BATCH,
    SIZES,
    TARGETS,
    R,
    S,
    Twin,
    mean_loss,
    same,
    scalar_grads,
    scalar_model,
    tensor,
)

from minituner.minigpt import MiniGPT, MiniGPTConfig
from minituner.standin import Fresh


@pytest.mark.parametrize("adapted", [False, True], ids=["base", "adapters"])
def test_gradients_equal_torchs(adapted: bool) -> None:
    """Loss and every gradient equal the twin's to 1e-9: all weights, then all factors."""
    model = scalar_model(adapted=adapted)
    twin = Twin(model)
    loss = mean_loss(model, BATCH)
    loss.backward()
    assert loss.data == pytest.approx(twin.loss(BATCH).item(), rel=1e-12)
    same(scalar_grads(model), twin.grads(BATCH))


def minigpt(model: Any) -> MiniGPT:
    """The given MiniGPT with the scalar model's base weights."""
    given = MiniGPT(MiniGPTConfig(**SIZES, tie_head=True)).double()
    with torch.no_grad():
        for name, weight in given.named_parameters():
            weight.copy_(tensor(model.weights[name]).view_as(weight))
    return given


def minigpt_loss(given: MiniGPT) -> torch.Tensor:
    rows = torch.cat([given(torch.tensor([tokens[:-1]]))[0] for tokens in BATCH])
    return F.cross_entropy(rows, torch.tensor([t for tokens in BATCH for t in tokens[1:]]))


def test_the_base_is_minigpt() -> None:
    """The same weights by the same names give MiniGPT's gradients to 1e-9."""
    model = scalar_model(adapted=False)
    given = minigpt(model)
    torch.autograd.backward(minigpt_loss(given))
    mean_loss(model, BATCH).backward()
    want = {name: p.grad for name, p in given.named_parameters() if p.grad is not None}
    same(scalar_grads(model), want)


def test_the_reference_has_these_gradients() -> None:
    """solutions/lora.py on MiniGPT gives both factors the scalar model's gradients to 1e-9."""
    loaded: dict[str, Any] = {}
    code = Fresh("reference", str(REFERENCE)).get_data(str(REFERENCE))
    exec(compile(code, str(REFERENCE), "exec"), loaded)
    model = scalar_model(adapted=True)
    given = minigpt(model)
    names = loaded["wrap_minigpt_with_lora"](given, R, ALPHA, TARGETS, dropout=0.0)
    assert sorted(names) == sorted(model.adapters)
    factors = {n: p for n, p in given.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, adapter in model.adapters.items():
            factors[f"{name}.lora_A"].copy_(tensor(adapter.A))
            factors[f"{name}.lora_B"].copy_(tensor(adapter.B))
    torch.autograd.backward(minigpt_loss(given))
    mean_loss(model, BATCH).backward()
    same(scalar_grads(model), {n: p.grad for n, p in factors.items() if p.grad is not None})


@pytest.mark.parametrize("adapted", [False, True], ids=["base", "adapters"])
def test_steps_equal_torchs_adam(adapted: bool) -> None:
    """Five steps at a falling rate: losses and every trained number equal torch.optim.Adam's."""
    model = scalar_model(adapted=adapted)
    twin = Twin(model)
    ours = S.train.Adam(model.trainable())
    theirs = torch.optim.Adam(list(twin.trained.values()))
    for step in range(5):
        rate = 0.02 * (1 - step / 5)
        theirs.param_groups[0]["lr"] = rate
        theirs.zero_grad()
        loss = twin.loss(BATCH)
        torch.autograd.backward(loss)
        theirs.step()
        assert S.train.train_step(model, ours, BATCH, rate) == pytest.approx(loss.item(), abs=1e-9)
    rows = dict(model.weights) if not adapted else {}
    for name, adapter in model.adapters.items():
        rows |= {f"{name}.lora_A": adapter.A, f"{name}.lora_B": adapter.B}
    same(
        {name: tensor(rows[name]) for name in rows},
        {n: t.detach() for n, t in twin.trained.items()},
    )


def test_fresh_adapters_change_nothing() -> None:
    """With B zero every logit is the base's, exactly; A has no gradient yet, and B has one."""
    model = scalar_model(adapted=False)
    before = [[v.data for v in row] for row in model.forward(BATCH[0])]
    adapted = S.lora.add_adapters(model, R, ALPHA, TARGETS, random.Random(1))
    assert [[v.data for v in row] for row in model.forward(BATCH[0])] == before
    mean_loss(model, BATCH).backward()
    assert len(adapted) == 3 * SIZES["n_layer"]
    for adapter in model.adapters.values():
        assert all(v.grad == 0.0 and v.data != 0.0 for row in adapter.A for v in row)
        assert any(v.grad != 0.0 for row in adapter.B for v in row)
        assert adapter.scaling == ALPHA / R


def test_frozen_weights_get_no_gradient_and_stay() -> None:
    """No weight of the base is in the graph, none gets a gradient, none moves in three steps."""
    model = scalar_model(adapted=True)
    base = model.base()
    before = [v.data for v in base]
    for value in base:
        value.grad = 123.0  # would show an addition as well as a reset
    graph = S.engine.topological(mean_loss(model, BATCH))
    reached = {parent for value in graph for parent in value.parents}
    assert not reached & set(base)
    assert set(model.factors()) <= reached
    S.train.train(
        model, BATCH, steps=3, batch=2, rate=0.1, rng=random.Random(2), report=lambda *_: None
    )
    assert [v.data for v in base] == before
    assert {v.grad for v in base} == {123.0}


def test_targets_match_at_a_dot() -> None:
    """Neither proj nor c1 is an end of a name at a dot, so both are errors; r = 0 is one, too."""
    for targets, r, says in ((("proj",), 1, "'proj'"), (("c1",), 1, "'c1'"), (("fc1",), 0, "r:")):
        model = scalar_model(adapted=False)
        with pytest.raises(ValueError, match=says):
            S.lora.add_adapters(model, r, 1.0, targets, random.Random(0))
        assert all(v.needs_grad for v in model.base())


def test_a_sample_follows_the_probabilities() -> None:
    """The first token of 2 000 samples at temperature 2 has the twin's softmax(logits / 2)."""
    small = {**SIZES, "n_layer": 1, "block_size": 1, "vocab_size": 5}
    model = S.model.GPT(S.model.Config(**small, init_std=1.0), random.Random(3))
    [row] = model.forward([4])
    want = (torch.tensor([v.data for v in row]) / 2).softmax(-1)
    rng = random.Random(4)
    drawn = [tuple(model.sample(4, 2.0, rng)) for _ in range(2000)]
    assert {len(one) for one in drawn} <= {0, 1}, "longer than the block, or the end is kept"
    counts = torch.tensor([sum(one == ((i,) if i < 4 else ()) for one in drawn) for i in range(5)])
    assert (counts / 2000 - want).abs().max() < 0.06  # five standard deviations at most
