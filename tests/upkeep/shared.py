"""Fixtures of several test modules, which name this one as a plugin: pytest_plugins = ["shared"].

Leaves out: what they give (sessions.py). Nothing imports this; pytest does.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sessions import Sessions

from minituner.grading.host import Box


@pytest.fixture(scope="session")
def sessions() -> Iterator[Sessions]:
    """Those of this run."""
    with Sessions() as opened:
        yield opened


@pytest.fixture
def box(sessions: Sessions) -> Box:
    """The one box."""
    return sessions.box
