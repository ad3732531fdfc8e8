"""The walls of the exam by name, and the levels they make up.

Source: box/sandbox.py puts them up. Leaves out: torch, so that `minituner --help` need not load it.
"""

from __future__ import annotations

from collections.abc import Sequence

BASIC = ("rlimits", "no_new_privs")
KERNEL = (*BASIC, "landlock", "seccomp")
SPACES = (*KERNEL, "user", "mount", "pid", "ipc", "net")
OWN_USER = (*SPACES, "uid")
LEVELS = {"practice": BASIC, "standard": KERNEL, "authoritative": SPACES}


def level(standing: Sequence[str]) -> str:
    """The strongest level all of whose layers stand; "none" where not even the first does."""
    reached = "none"
    for name, layers in LEVELS.items():
        if set(layers) <= set(standing):
            reached = name
    return reached


def at_least(reached: str, required: str) -> bool:
    order = ("none", *LEVELS)
    return order.index(reached) >= order.index(required)
