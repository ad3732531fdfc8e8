"""Fixtures of several test modules, which name this one as a plugin: pytest_plugins = ["shared"].

Leaves out: what they give (sessions.py). Nothing imports this; pytest does.
"""

from __future__ import annotations

import pytest
from sessions import Sessions, sessions_of

from minituner.grading.host import Box


@pytest.fixture
def sessions(pytestconfig: pytest.Config) -> Sessions:
    """Those of this run."""
    return sessions_of(pytestconfig)


@pytest.fixture
def box(sessions: Sessions) -> Box:
    """The one box."""
    return sessions.box()
