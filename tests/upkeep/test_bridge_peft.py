"""Lab 04 against what we did not write: PEFT and transformers, in float64.

The reference's lora.py and bridge.py on a MiniGPT, a GPT-2 and a LLaMA-shaped model, beside PEFT on
copies of them: outputs, gradients, merged weights, each other's folders, batches of many adapters.
Leaves out: weights that somebody trained; without the extra `real` it skips.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from real_models import BRIDGE, CASES, LORA, SEQ, VOCAB, Case, Hub, draw_tokens, gap, logits
from torch import nn

from minituner.adapters import adapters_of
from minituner.folders import read_folder
from minituner.gpt2 import GPT2, GPT2Config, hollow_gpt2
from minituner.settings import WEIGHTS, Settings, from_files, to_files
from minituner.shelf import shelf_for


@pytest.fixture(autouse=True, scope="module")
def offline() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("TRANSFORMERS_VERBOSITY", "error")
        yield


each = pytest.mark.parametrize("case", CASES, ids=str)


@pytest.fixture(scope="module")
def hub() -> Hub:
    """peft, with transformers as an attribute."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what these packages say of themselves when imported
        transformers = pytest.importorskip("transformers")
        peft = pytest.importorskip("peft")
    peft.transformers = transformers
    return peft


@pytest.fixture(autouse=True)
def hushed() -> Iterator[None]:
    """Deprecations inside transformers and PEFT are not ours; what we assert is recorded apart."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def poured(ours: nn.Module, theirs: Any) -> None:
    """Our factors into PEFT's layers of the same names."""
    with torch.no_grad():
        for name, adapter in adapters_of(ours).items():
            layer = theirs.base_model.model.get_submodule(name)
            layer.lora_A["default"].weight.copy_(adapter.lora_A)
            layer.lora_B["default"].weight.copy_(adapter.lora_B)


# --- the function ---------------------------------------------------------------------------------


@each
def test_output_gradients_and_merged_weights_are_pefts(case: Case, hub: Hub) -> None:
    """Logits and gradients to 1e-10, and merge_and_unload gives unwrap_merged's very weights."""
    base, tokens = case.base(hub), draw_tokens()
    ours, theirs = copy.deepcopy(base), case.peft(hub, copy.deepcopy(base))
    case.wrap(ours)
    poured(ours, theirs)
    assert gap(logits(ours, tokens), logits(theirs, tokens)) <= 1e-11

    weight = torch.randn(3, SEQ, VOCAB, dtype=torch.float64)
    for model in (ours, theirs):
        torch.autograd.backward((logits(model, tokens) * weight).sum())
    for name, adapter in adapters_of(ours).items():
        layer = theirs.base_model.model.get_submodule(name)
        for factor in ("lora_A", "lora_B"):
            mine, true = (
                getattr(adapter, factor).grad,
                getattr(layer, factor)["default"].weight.grad,
            )
            assert gap(mine, true) <= 1e-10 * max(1.0, true.abs().max().item()), (name, factor)
    trains = {name for name, param in ours.named_parameters() if param.requires_grad}
    assert trains == {f"{n}.lora_{part}" for n in adapters_of(ours) for part in "AB"}

    before = logits(ours, tokens).detach()
    BRIDGE.unwrap_merged(ours)
    merged = theirs.merge_and_unload()
    mine, true = ours.state_dict(), merged.state_dict()
    assert list(mine) == list(true) == list(base.state_dict())
    assert max(gap(mine[name], true[name]) for name in true) <= 1e-13
    assert [type(module) for module in ours.modules()] == [type(m) for m in base.modules()]
    assert gap(logits(ours, tokens), before) <= 1e-11


# --- the folder -----------------------------------------------------------------------------------


def opened(hub: Hub, base: nn.Module, folder: Path) -> tuple[Any, list[str]]:
    """PEFT's model from a folder, and what was said meanwhile, transformers' deprecations apart."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = hub.PeftModel.from_pretrained(base, str(folder)).eval()
    return model, [str(w.message) for w in said if "is deprecated" not in str(w.message)]


@each
def test_our_folder_opens_in_peft_without_a_word(case: Case, hub: Hub, tmp_path: Path) -> None:
    """No warning about keys, shapes, targets or fan_in_fan_out, and the same logits."""
    base, tokens = case.base(hub), draw_tokens()
    ours = copy.deepcopy(base)
    case.wrap(ours)
    BRIDGE.save_adapter(ours, tmp_path, "a/base")
    theirs, said = opened(hub, base, tmp_path)
    assert said == []
    assert gap(logits(ours, tokens), logits(theirs, tokens)) <= 1e-11


@each
def test_pefts_folder_opens_in_ours(case: Case, hub: Hub, tmp_path: Path) -> None:
    """load_adapter fills our layers, attach takes it beside a plain model: PEFT's logits, both."""
    base, tokens = case.base(hub), draw_tokens()
    theirs = case.peft(hub, copy.deepcopy(base))
    theirs.save_pretrained(str(tmp_path))
    ours = copy.deepcopy(base)
    case.wrap(ours)
    BRIDGE.load_adapter(ours, tmp_path)
    want = logits(theirs, tokens)
    assert gap(logits(ours, tokens), want) <= 1e-11
    shelf = shelf_for(base, BRIDGE.adapted)
    BRIDGE.attach(shelf, "theirs", read_folder(tmp_path))
    BRIDGE.switch(shelf, "theirs")
    assert gap(logits(base, tokens), want) <= 1e-11


@pytest.mark.parametrize("setting", ["use_rslora", "use_dora", "rank_pattern", "modules_to_save"])
def test_what_is_not_plain_lora_is_refused(setting: str, hub: Hub, tmp_path: Path) -> None:
    """A folder that PEFT wrote for a relative of LoRA is a ValueError, not another function."""
    case = CASES[0]
    value = {"rank_pattern": {"q_proj": 3}, "modules_to_save": ["lm_head"]}.get(setting, True)
    named = {"r": case.r, "target_modules": case.targets, setting: value}
    model = hub.get_peft_model(case.base(hub), hub.LoraConfig(**named))
    model.save_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match=rf"^({setting}|files|\w+\.json)"):
        BRIDGE.read_adapter(read_folder(tmp_path))


def test_we_are_the_stricter(hub: Hub, tmp_path: Path) -> None:
    """A missing key is a warning in PEFT and NaN not even that; both are a ValueError here."""
    case = CASES[0]
    base = case.base(hub)
    ours = copy.deepcopy(base)
    case.wrap(ours)
    BRIDGE.save_adapter(ours, tmp_path)
    whole = safetensors.torch.load_file(tmp_path / WEIGHTS)
    first = next(
        key for key in whole if "v_proj" in key
    )  # NaN in q may vanish in torch's attention

    safetensors.torch.save_file({k: v for k, v in whole.items() if k != first}, tmp_path / WEIGHTS)
    _, said = opened(hub, copy.deepcopy(base), tmp_path)
    assert any("missing adapter keys" in one for one in said)
    with pytest.raises(ValueError, match="files: expected"):
        BRIDGE.load_adapter(ours, tmp_path)

    whole[first][0, 0] = torch.nan
    safetensors.torch.save_file(whole, tmp_path / WEIGHTS)
    theirs, said = opened(hub, copy.deepcopy(base), tmp_path)
    assert said == [] and logits(theirs, draw_tokens()).isnan().any()
    with pytest.raises(ValueError, match="expected finite"):
        BRIDGE.load_adapter(ours, tmp_path)


# --- several adapters, and the given GPT-2 --------------------------------------------------------


@pytest.mark.parametrize("case", [CASES[2], CASES[5]], ids=str)
def test_a_mixed_batch_is_pefts(case: Case, hub: Hub, tmp_path: Path) -> None:
    """Rows with adapters of their own give what PEFT's adapter_names give."""
    base, tokens = case.base(hub), draw_tokens(4)
    shelf = shelf_for(copy.deepcopy(base), BRIDGE.adapted)
    first = Case(case.kind, case.targets[:1], case.r + 1, case.alpha / 2)
    for name, one in (("poet", case), ("cook", first)):
        ours = copy.deepcopy(base)
        one.wrap(ours)
        BRIDGE.save_adapter(ours, tmp_path / name)
        BRIDGE.attach(shelf, name, read_folder(tmp_path / name))
    theirs = hub.PeftModel.from_pretrained(base, str(tmp_path / "poet"), adapter_name="poet")
    theirs.load_adapter(str(tmp_path / "cook"), adapter_name="cook")
    rows: list[str | None] = ["cook", None, "poet", "cook"]
    BRIDGE.switch(shelf, rows)
    named = [row or "__base__" for row in rows]
    want = logits(theirs.eval(), tokens, adapter_names=named)
    assert gap(logits(shelf.model, tokens), want) <= 1e-11


def test_the_given_gpt2_is_transformers(hub: Hub) -> None:
    """The same keys in the same order, and the same logits from the same weights."""
    theirs, tokens = CASES[2].base(hub), draw_tokens()
    ours = GPT2(GPT2Config(VOCAB, SEQ, n_embd=12, n_layer=2, n_head=3)).double()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    assert gap(logits(ours, tokens), logits(theirs, tokens)) <= 1e-12


def test_the_hollow_gpt2_has_gpt2s_shapes(hub: Hub) -> None:
    """Name by name the shapes of GPT-2 small, and 124,439,808 parameters."""
    with torch.device("meta"):
        theirs = hub.transformers.GPT2LMHeadModel(hub.transformers.GPT2Config())
    ours = hollow_gpt2()
    mine, true = (
        {name: tuple(param.shape) for name, param in model.named_parameters()}
        for model in (ours, theirs)
    )
    assert mine == true
    assert sum(param.numel() for param in ours.parameters()) == 124_439_808
    assert sum(param.untyped_storage().nbytes() for param in ours.parameters()) < 1000


def test_a_linear_named_c_attn_is_not_gpt2s(hub: Hub) -> None:
    """Each wrap refuses the other's layers: lora.py GPT-2's Conv1Ds, bridge.py LLaMA's linears."""
    with pytest.raises(ValueError, match="c_attn"):
        LORA.wrap_minigpt_with_lora(CASES[2].base(hub), target_modules=["c_attn"])
    with pytest.raises(ValueError, match="q_proj"):
        BRIDGE.wrap_gpt2_with_lora(CASES[5].base(hub), ["q_proj"])


def test_one_tensor_under_two_names_is_refused() -> None:
    """By their names, in order; what only has the same values, or nothing in it, is not."""
    settings = Settings(2, 3.0, ("x",))
    one = torch.ones(2, 3)
    with pytest.raises(ValueError, match=r"a copy for each name, got one for \['a', 'c'\]"):
        to_files(settings, {"c": one, "b": one.clone(), "a": one})
    empty = torch.empty(0)
    files = to_files(settings, {"z": one, "b": one.clone(), "e": empty, "f": empty})
    assert list(from_files(files)[1]) == ["b", "e", "f", "z"]  # as named, in every run
