"""Lab 02's experiments run end to end without a network, and the base is what its page says.

The reference runs them, in a few steps each; the real figures are made by run.py --full.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any  # what JSON and the experiments' modules hold

import pytest
import torch
from together import together

from minituner import curve, devices, verbbase, verbs
from minituner.minigpt import MiniGPT

ROOT = Path(__file__).resolve().parents[2]
VERBS = ROOT / "experiments" / "28-irregular-verbs"
NAMES = ROOT / "experiments" / "28-names"


def run(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The script with a proxy that nobody answers, so that a download would fail at once."""
    nobody = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ
        | nobody
        | {"MINITUNER_LANG": "en", "COLUMNS": "120", "OMP_NUM_THREADS": "1"},
    )


def quiet(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


# --- the base -------------------------------------------------------------------------------------


def test_the_base_is_small_and_has_its_checksum() -> None:
    """Under 0.5 MB, and load_base reads it without a word."""
    assert verbbase.PATH.stat().st_size < 500_000
    model = verbbase.load_base()
    assert sum(p.numel() for p in model.parameters()) == 102_976
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in model.parameters()) and model.training


def test_a_changed_base_is_refused(tmp_path: Path) -> None:
    """One flipped bit: ValueError with both checksums, before anything is unpickled."""
    data = bytearray(verbbase.PATH.read_bytes())
    data[len(data) // 2] ^= 1
    changed = tmp_path / "base.pt"
    changed.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="sha256"):
        verbbase.load_base(changed)


def test_the_base_knows_the_rule_and_no_exception() -> None:
    """Over 95 % of the control, none of the irregular verbs, and it says goed."""
    model = verbbase.load_base()
    assert verbbase.share_right(model, verbs.split().control) > 0.95
    assert verbbase.share_right(model, verbs.irregular()) == 0.0
    assert verbbase.conjugate(model, ["go", "sing"]) == {"go": "goed", "sing": "singed"}
    assert model.training, "conjugate leaves the mode as found"


def test_the_longest_verb_fits_into_the_block() -> None:
    """Base, sign, past and end of every verb: at most block_size + 1 letters."""
    longest = max(len(base) + len(past) + 2 for base, past in verbs.regular() + verbs.irregular())
    assert longest <= verbbase.CONFIG.block_size + 1
    made = len(verbs.regular_past("x" * verbs.LONGEST))
    assert verbs.LONGEST + made + 2 <= verbbase.CONFIG.block_size + 1


def test_a_saved_base_is_loaded_again(tmp_path: Path) -> None:
    """save_base then load_base: the same values, rounded to float16."""
    model = verbbase.new_model()
    sha256 = verbbase.save_base(model, tmp_path / "again.pt")
    again = verbbase.load_base(tmp_path / "again.pt", sha256)
    for (name, a), (_, b) in zip(
        model.state_dict().items(), again.state_dict().items(), strict=True
    ):
        assert torch.equal(a.half().float(), b), name


def test_the_recipe_of_the_base_runs(tmp_path: Path) -> None:
    """base.py writes a file that load_base takes by the checksum that base.py prints."""
    out = tmp_path / "base.pt"
    said = quiet(run(VERBS / "base.py", "--steps", "1", "--out", str(out)))
    assert isinstance(verbbase.load_base(out, said.split()[-1]), MiniGPT)


# --- small things ---------------------------------------------------------------------------------


def test_a_model_elsewhere_takes_and_gives_cpu_tensors() -> None:
    """It gives what the model gives, and trains the same parameters; for the cpu, no wrapper."""
    model = verbbase.new_model()
    assert devices.on("cpu", model) is model
    there = devices.Elsewhere(model, "cpu")
    tokens = torch.zeros(2, 5, dtype=torch.long)
    assert torch.equal(there(tokens), model(tokens))
    assert [id(p) for p in there.parameters()] == [id(p) for p in model.parameters()]


def test_a_curve_is_drawn_from_its_highest_to_its_lowest_block() -> None:
    """Falling values fall; few values stay few; equal ones are a flat line."""
    assert curve.spark([8, 7, 6, 5, 4, 3, 2, 1]) == curve.BLOCKS[::-1]
    assert len(curve.spark(list(range(1000)), width=40)) == 40
    assert curve.spark([3.0, 3.0]) == "▁▁" and curve.spark([]) == ""


# --- the figures ----------------------------------------------------------------------------------


def committed(folder: Path, name: str) -> Any:
    return json.loads((folder / "figures" / f"{name}.json").read_text(encoding="utf-8"))


def test_the_figures_are_of_this_base_and_this_recipe() -> None:
    """A new base, or another number in story.py, asks for run.py --full."""
    tables, how = together(VERBS, "tables").tables, committed(VERBS, "forgetting")["recipe"]
    now = tables.table({}, {}, 0)["recipe"]
    assert how == now


def test_the_aim_of_the_lab_is_reached() -> None:
    """In the mean of three seeds, at r = 8: over 95 % learned, at most 3 points forgotten."""
    data = committed(VERBS, "forgetting")
    assert data["base"]["control"] >= 0.95 and data["base"]["irregular"] == 0.0
    naive, careful = (
        next(row for row in data[name] if row["rank"] == 8) for name in ("naive", "careful")
    )
    assert careful["learned"]["mean"] > 0.95
    assert data["base"]["control"] - careful["control"]["mean"] <= 0.03
    assert naive["learned"]["mean"] > 0.95 and naive["control"]["mean"] < 0.5


def test_what_theory_05_says_in_words_holds() -> None:
    """Less than three points from r = 8 on, more than four at r = 4, a third learned at r = 1."""
    data, names = committed(VERBS, "forgetting"), committed(NAMES, "names")["rows"]
    careful = {row["rank"]: row for row in data["careful"]}
    lost = {rank: data["base"]["control"] - row["control"]["mean"] for rank, row in careful.items()}
    assert max(lost[8], lost[16], lost[0]) < 0.03 and lost[4] > 0.04
    assert 0.3 < careful[1]["learned"]["mean"] < 0.4
    assert data["few"][0]["control"]["mean"] < 2 / 3
    assert abs(lost[8] - lost[0]) < min(careful[r]["control"]["sd"] for r in (8, 0))
    _, lora, rehearsed, full = names
    assert abs(lora["late"]["mean"] - full["late"]["mean"]) < lora["late"]["sd"]
    assert full["early"]["mean"] - lora["early"]["mean"] > 2 * lora["early"]["sd"]
    assert rehearsed["early"]["mean"] < lora["early"]["mean"] - 0.4


# --- the scripts ----------------------------------------------------------------------------------


def test_the_story_runs_end_to_end() -> None:
    """A few steps: both runs, both tables, the samples, and then the notes' values."""
    said = quiet(run(VERBS / "run.py", "--impl", "reference", "--smoke", "--seed", "5"))
    for word in ("goed", "irregular", "control", "base_control_match", "adapt_sha256"):
        assert word in said, said
    kept = json.loads((VERBS / "results" / "seed-5.json").read_text(encoding="utf-8"))
    assert {"learned", "control", "curve", "losses"} <= set(kept["careful"])


def test_json_gives_the_notes_values_and_nothing_else() -> None:
    """One line that the grader reads; rehearsal keeps more, and learns somewhat less."""
    values = json.loads(quiet(run(VERBS / "run.py", "--impl", "reference", "--json")))
    loss = {key: float(value) for key, value in values.items() if key.endswith("_loss")}
    assert float(values["base_irregular_match"]) == 0.0
    assert loss["rehearsed_control_loss"] < loss["naive_control_loss"]
    assert loss["naive_irregular_loss"] < loss["rehearsed_irregular_loss"]
    assert loss["rehearsed_irregular_loss"] < loss["base_irregular_loss"]


def test_the_tables_are_made_end_to_end() -> None:
    """Two arms, one seed, a few steps: two figures, each with numbers and pictures."""
    pytest.importorskip("matplotlib")
    quiet(run(VERBS / "run.py", "--impl", "reference", "--full", "--smoke"))
    for name in ("forgetting", "frontier"):
        for ending in (".json", ".svg", ".png"):
            assert (VERBS / "results" / f"{name}{ending}").stat().st_size > 0


def test_the_names_run_end_to_end_on_the_short_list() -> None:
    """Pretrain and three ways to adapt; losses of both halves, and samples."""
    said = quiet(run(NAMES / "run.py", "--impl", "reference", "--smoke"))
    for word in ("A–M", "N–Z", "LoRA, r = 8", "full fine-tuning"):
        assert word in said, said


@pytest.mark.parametrize("wanted", [["--names", "none.txt"], ["--download"]], ids=["file", "net"])
def test_names_that_cannot_be_had_end_in_one_line(
    wanted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No such file, or no network for a download: exit 2, one line, no traceback."""
    monkeypatch.setenv("MINITUNER_DATA", str(tmp_path))
    done = run(NAMES / "run.py", "--impl", "reference", *wanted)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (2, "", 1), done.stderr
    assert wanted[-1] in done.stdout or "names.txt" in done.stdout
