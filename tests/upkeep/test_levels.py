"""Which walls a machine grants, and that the level says so: all, some, or one that is missing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import unprivileged

from minituner.grading import levels
from minituner.grading.host import GIVEN, Box
from minituner.grading.peer import Broken
from minituner.grading.registry import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the box needs Linux")


def test_a_level_that_is_asked_for_and_missing_is_refused() -> None:
    """A wall that does not come up is never passed over in silence."""
    with pytest.raises(Broken, match="moat"), Box(GIVEN, ("rlimits", "moat")):
        pass


DENY = """
import struct, sys
from minituner.grading.box import filter as seccomp, kernel
number = {{"x86_64": 272, "aarch64": 97}}[__import__("platform").machine()]  # unshare
code = [struct.pack("<HBBI", 0x20, 0, 0, 0), struct.pack("<HBBI", 0x15, 0, 1, number)]
code += [struct.pack("<HBBI", 6, 0, 0, 0x00050001), struct.pack("<HBBI", 6, 0, 0, 0x7FFF0000)]
seccomp.program = lambda: code
kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
seccomp.install()
from pathlib import Path
from minituner.grading import host, levels
given = {{"minituner.minigpt": Path({given!r})}}
try:
    host.Box(given, levels.SPACES).__enter__()
except host.Broken as error:
    print(error)
with host.Box(given) as box:
    print(box.level)
"""


def test_where_namespaces_are_forbidden_the_level_is_standard() -> None:
    """As in many containers: the level says what is left; torch is loaded for that one alone.

    A zygote, which has torch, would have named the namespaces that it was refused.
    """
    code = DENY.format(given=str(GIVEN["minituner.minigpt"]))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    said = ["no worker could be started: unshare: Operation not permitted", "standard"]
    assert (done.stdout.splitlines(), done.returncode) == (said, 0), done.stderr


@pytest.mark.skipif(not unprivileged.AVAILABLE, reason="needs root, setpriv and unshare")
def test_an_ordinary_user_gets_every_wall_but_a_user_of_its_own() -> None:
    """Without a single privilege the level is authoritative."""
    code = (
        "import json\nfrom pathlib import Path\nfrom minituner.grading.host import Box\n"
        f"with Box({{'minituner.minigpt': Path({str(GIVEN['minituner.minigpt'])!r})}}) as box:\n"
        "    print(json.dumps([box.level, sorted(box.standing)]))"
    )
    words = unprivileged.command([sys.executable, "-c", code], [ROOT])
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["authoritative", sorted(levels.SPACES)]
