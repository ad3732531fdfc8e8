"""Fixtures of lab 04's test modules, which name this one as a plugin.

Leaves out: what they are used for (real_run.py). Nothing imports this; pytest does.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any  # the experiment's modules

import pytest
from real_run import FOLDER, PARTS, TEXT
from together import together


@pytest.fixture(scope="module")
def parts() -> Iterator[Any]:
    """The experiment's modules by name, and no network while they are used."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what transformers says of itself when imported
        pytest.importorskip("transformers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield together(FOLDER, *PARTS)


@pytest.fixture(scope="module")
def texts(parts: Any) -> Any:
    trained, held_out = parts.texts.parted(TEXT)
    return parts.texts.Texts(trained, held_out, "Modern prose, and not much of it.", "0" * 64)


@pytest.fixture
def plan(parts: Any) -> Any:
    return parts.tuning.Plan(
        ("q_proj", "down_proj"), rank=2, steps=6, blocks=2, tokens=24, warmup=2, every=3, kept=2,
        dropout=0.1,
    )  # fmt: skip
