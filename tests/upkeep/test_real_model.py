"""Lab 04's fine-tuning on tiny random models: texts and blocks, resuming, the folder, the tables.

Leaves out: the script itself, and the weights that somebody trained (test_real_script.py).
"""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any  # the experiment's modules and what JSON holds

import pytest
import torch
from real_models import ADAPT, BRIDGE, LORA
from real_run import TEXT, losses, scene, tuned
from torch import Tensor, nn

from minituner.adapters import adapters_of
from minituner.recipe import IGNORE

pytest_plugins = ["real_parts"]
pytestmark = pytest.mark.filterwarnings("ignore")  # deprecations inside transformers and PEFT

# --- texts and blocks -----------------------------------------------------------------------------


def test_each_token_but_the_first_is_predicted_once(parts: Any) -> None:
    """Blocks overlap in the one token that is an input only; the last one is shorter."""
    blocks = parts.tuning.blocks_of(list(range(11)), 4)
    assert blocks == [([0], [1, 2, 3, 4]), ([4], [5, 6, 7, 8]), ([8], [9, 10])]
    assert parts.tuning.blocks_of(list(range(9)), 4)[-1] == ([4], [5, 6, 7, 8])


def test_padding_is_no_target_and_changes_no_loss(parts: Any) -> None:
    """A short block beside a long one has the loss that it has alone, whatever the padding is."""
    loaded = parts.loading.load("tiny")
    model = parts.tuning.Logits(loaded.model)
    short, long = ([1], [2, 3, 4]), ([5], [6, 7, 8, 9, 10])
    ((_, targets),) = parts.tuning.batches_of(ADAPT, [short, long], 2, 0, "cpu")
    assert targets[0].tolist() == [2, 3, 4, IGNORE, IGNORE]
    alone = [parts.tuning.batches_of(ADAPT, [one], 1, 0, "cpu") for one in (short, long)]
    apart = [ADAPT.evaluate(model, batches) for batches in alone]
    for pad in (0, 77):
        both = ADAPT.evaluate(model, parts.tuning.batches_of(ADAPT, [short, long], 2, pad, "cpu"))
        assert both == pytest.approx((3 * apart[0] + 5 * apart[1]) / 8, abs=1e-6)


def test_the_held_out_text_is_the_end_cut_at_a_paragraph(parts: Any) -> None:
    """Nine tenths and the rest, nothing lost; a text too short for two parts is refused."""
    trained, held_out = parts.texts.parted(TEXT)
    assert trained + held_out == TEXT and trained.endswith("\n\n")
    assert 0.9 <= len(trained) / len(TEXT) < 0.93
    assert parts.texts.parted("abcdefghij" * 3) == ("abcdefghij" * 2 + "abcdefg", "hij")
    with pytest.raises(ValueError, match="text"):
        parts.texts.parted("a")


def test_the_control_text_is_modern_and_ours(parts: Any) -> None:
    """Plain ASCII prose of a few kilobytes, without a thou in it."""
    text = parts.texts.CONTROL.read_text(encoding="ascii")
    assert 3000 < len(text) < 6000
    assert not {"thou", "thee", "thy", "hath"} & set(text.lower().split())


# --- the loop -------------------------------------------------------------------------------------


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
def test_a_run_goes_on_after_a_stop_to_the_same_losses(
    parts: Any, texts: Any, plan: Any, half: bool, tmp_path: Path
) -> None:
    """Stopped at step 3 and begun anew: losses and adapters bit by bit those of one go."""
    plan = replace(plan, half=half)
    whole, adapters = tuned(parts, texts, plan, tmp_path / "whole.pt")
    first, _ = tuned(parts, texts, plan, tmp_path / "cut.pt", until=3)
    assert len(first.losses) == 3
    again, other = tuned(parts, texts, plan, tmp_path / "cut.pt")
    assert losses(again) == losses(whole)
    assert [step for step, _ in again.held_out] == [0, 3, 6]
    assert all(torch.equal(adapters[name], value) for name, value in other.items())
    assert any(value.any() for name, value in other.items() if name.endswith("lora_B"))


@pytest.mark.parametrize("how", ["ctrl-c", "kill"])
def test_a_killed_run_loses_little_and_nothing_of_the_result(
    parts: Any, texts: Any, plan: Any, how: str, tmp_path: Path
) -> None:
    """Ctrl-C keeps every step, a kill those up to the last checkpoint; the end is the same."""
    whole, _ = tuned(parts, texts, plan, tmp_path / "whole.pt")
    place, here = tmp_path / "run" / "cut.pt", scene(parts, texts)

    def stop(done: int, *_: float) -> None:
        if done == 5:
            if how == "kill":  # what a kill leaves is the file as it is now
                shutil.copy(place, tmp_path / "left.pt")
            raise KeyboardInterrupt

    here.show = stop
    with pytest.raises(KeyboardInterrupt):
        parts.story.trained(here, here.loaded.model, plan, place)
    left = tmp_path / "left.pt" if how == "kill" else place
    state = torch.load(left, weights_only=True)
    assert state["run"]["step"] == len(state["course"]["losses"]) == (4 if how == "kill" else 5)
    assert losses(tuned(parts, texts, plan, left)[0]) == losses(whole)


@pytest.mark.parametrize("change", ["plan", "stamp"])
def test_a_checkpoint_of_another_run_is_not_gone_on_with(
    parts: Any, texts: Any, plan: Any, change: str, tmp_path: Path
) -> None:
    """Another seed, or another text, model or code: the run begins at its beginning."""
    place = tmp_path / "cut.pt"
    tuned(parts, texts, plan, place, until=2)
    if change == "plan":
        plan = replace(plan, seed=2)
    else:
        texts = replace(texts, trained=texts.trained.upper(), sha256="1" * 64)
    fresh, _ = tuned(parts, texts, plan, tmp_path / "fresh.pt")
    assert losses(tuned(parts, texts, plan, place)[0]) == losses(fresh)


def test_it_learns(parts: Any, texts: Any, plan: Any, tmp_path: Path) -> None:
    """Forty steps on a text that repeats itself: the held-out loss falls."""
    plan = replace(plan, targets=parts.loading.LLAMA_TARGETS, rank=8, steps=40, peak=2e-2, every=40)
    (_, before), (_, after) = tuned(parts, texts, plan, tmp_path / "run.pt")[0].held_out
    assert after < before - 0.1


# --- one run and its folder -----------------------------------------------------------------------


def test_the_story_leaves_an_adapter_and_the_model_as_it_was(
    parts: Any, texts: Any, plan: Any, tmp_path: Path
) -> None:
    """The report's sizes are the files'; the base is untouched; told again, nothing runs."""
    here = scene(parts, texts)
    model = here.loaded.model
    first = copy.deepcopy(model.state_dict())
    report = parts.story.tell(here, plan, tmp_path)
    assert {key: value.shape for key, value in model.state_dict().items()} == {
        key: value.shape for key, value in first.items()
    }
    assert all(torch.equal(value, first[key]) for key, value in model.state_dict().items())
    assert report["trainable"] == 2 * 2 * ((32 + 32) + (48 + 32))  # r, blocks, q_proj, down_proj
    folder = tmp_path / "adapter"
    assert report["adapter_bytes"] == sum(file.stat().st_size for file in folder.iterdir())
    assert report["model_bytes"] == 4 * report["parameters"]
    assert len(report["losses"]) == 6 and report["after"] != report["before"]

    fresh = parts.loading.load("tiny").model
    LORA.wrap_minigpt_with_lora(fresh, 2, 4.0, plan.targets, dropout=0.0)
    BRIDGE.load_adapter(fresh, folder)
    ids = torch.arange(12)[None]
    ours = fresh(ids).logits
    assert not torch.equal(ours, model(ids).logits)
    here.show = lambda *_: pytest.fail("told again, it trains again")
    assert parts.story.tell(here, plan, tmp_path)["losses"] == report["losses"]


def test_the_adapter_opens_in_peft(
    parts: Any, texts: Any, plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """opened.py finds the same logits in PEFT as in ours, not those of the base; and says which."""
    pytest.importorskip("peft")
    here = scene(parts, texts)
    parts.story.trained(here, here.loaded.model, replace(plan, peak=0.1), tmp_path / "run.pt")
    BRIDGE.save_adapter(here.loaded.model, tmp_path / "adapter", base_name="tiny")
    monkeypatch.setattr(parts.opened, "files", lambda impl: here.files)
    assert parts.opened.base_of(tmp_path / "adapter") == "tiny"
    gap, said = parts.opened.compared(tmp_path / "adapter", "tiny", "reference")
    assert gap < 1e-5 and said.startswith("ROMEO:")
    loads = SimpleNamespace(**vars(BRIDGE) | {"load_adapter": lambda model, folder: None})
    monkeypatch.setattr(
        parts.opened, "files", lambda impl: SimpleNamespace(**vars(here.files) | {"bridge": loads})
    )
    gap, _ = parts.opened.compared(tmp_path / "adapter", "tiny", "reference")
    assert gap > 1e-3, "the check sees an adapter that was not loaded"


def test_a_gpt2_is_tuned_through_the_bridge(
    parts: Any, texts: Any, plan: Any, tmp_path: Path
) -> None:
    """The same path with Conv1Ds: c_attn and attention's c_proj, and no other, are adapted."""
    hub: Any = pytest.importorskip("transformers")
    sizes = {"vocab_size": 256, "n_positions": 64, "n_embd": 12, "n_layer": 2, "n_head": 3}
    model = hub.GPT2LMHeadModel(hub.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
    loaded = parts.loading.Loaded("gpt2", model, parts.loading.Bytes())
    assert loaded.targets == parts.loading.GPT2_TARGETS
    here = scene(parts, texts, loaded)
    plan = replace(plan, targets=loaded.targets, steps=2)
    course = parts.story.trained(here, model, plan, tmp_path / "run.pt")
    assert len(course.losses) == 2
    assert {type(one).__name__ for one in adapters_of(model).values()} == {"LoRAConv1D"}
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trainable == 2 * 2 * ((12 + 36) + (12 + 12))
    parts.story.strip(model)
    assert not adapters_of(model)


# --- what is measured -----------------------------------------------------------------------------


class Even(nn.Module):
    """Logits that are the same everywhere."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, seq) -> (batch, seq, vocab_size)."""
        return self.logits.expand(*tokens.shape, -1)


def test_a_loss_is_the_mean_over_tokens_and_its_exp_the_perplexity(parts: Any) -> None:
    """A model that knows nothing of 256 ids has perplexity 256, on blocks of any length."""
    loaded = parts.loading.load("tiny")
    plan = parts.tuning.Plan((), tokens=5)
    batches = parts.judging.scored(ADAPT, loaded, "x" * 32, plan, "cpu", most=64)
    assert parts.judging.counted(batches) == 31
    loss = ADAPT.evaluate(Even(torch.zeros(256)), batches)
    assert parts.story.perplexity(loss) == pytest.approx(256, rel=1e-5)
    few = parts.judging.scored(ADAPT, loaded, "x" * 1001, plan, "cpu", most=8)
    assert parts.judging.counted(few) == 40


def test_samples_keep_to_top_p_and_to_the_seed(parts: Any) -> None:
    """With odds 0.6, 0.3, 0.1 and top-p 0.7 the third is never drawn, the others as 2 to 1."""
    logits = torch.tensor([0.1, 0.6, 0.3]).log()
    generator = torch.Generator().manual_seed(0)
    drawn = [parts.judging.chosen(logits, 1.0, 0.7, generator) for _ in range(600)]
    assert set(drawn) == {1, 2} and 340 < drawn.count(1) < 460
    cold = [parts.judging.chosen(logits, 0.01, 1.0, generator) for _ in range(20)]
    assert set(cold) == {1}
    loaded, odds = parts.loading.load("tiny"), Even(torch.zeros(256))
    one, two, other = (
        parts.judging.sampled(ADAPT, loaded, odds, "a", seed, length=9) for seed in (1, 1, 2)
    )
    assert one == two != other and one.startswith("a")


def test_places_are_compared_at_an_equal_budget(parts: Any) -> None:
    """SmolLM2's sizes: at most what r = 4 trains on all linears, and not a rank less than fits."""
    heads = {"q": 576, "k": 192, "v": 192, "o": 576}
    hidden, width, depth = 576, 1536, 30
    linears = {f"{name}_proj": nn.Linear(hidden, out, device="meta") for name, out in heads.items()}
    linears |= {
        "gate_proj": nn.Linear(hidden, width, device="meta"),
        "up_proj": nn.Linear(hidden, width, device="meta"),
        "down_proj": nn.Linear(width, hidden, device="meta"),
    }
    blocks = nn.ModuleList(copy.deepcopy(nn.ModuleDict(linears)) for _ in range(depth))
    loaded = parts.loading.Loaded("smollm2", blocks, None)
    full = depth * (4 * (hidden + hidden) - 2 * (hidden - 192) + 3 * (hidden + width))
    asked = parts.comparing.plans(loaded, parts.tuning.Plan(()), (1, 4))
    assert [plan.rank for _, plan in asked["ranks"]] == [1, 4]
    for label, plan in asked["places"]:
        one = parts.comparing.cost(loaded, plan.targets)
        assert 0 <= 4 * full - plan.rank * one < one, label
    assert {label: plan.rank for label, plan in asked["places"]} == {
        "q, v": 21, "attention": 10, "MLP": 6, "all": 4,
    }  # fmt: skip
