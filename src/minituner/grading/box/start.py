"""Where the box begins: python -I -m minituner.grading.box.start FD CONFIG, as zygote.py has it.

Before torch is loaded, which takes seconds: where the kernel refuses the namespaces it ends, by an
exit status, and the search for garbage is off. In here all stays that is loaded, and to search
through it would take an eighth of the start.
Leaves out: whatever else may fail, a worker's own user namespace as root among it; zygote.py says
that.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from importlib import import_module

from minituner.grading.box import kernel

REFUSED = 3  # the exit status


def may_have(layers: list[str]) -> bool:
    """Whether the kernel grants the namespaces among these layers, tried in a child.

    In the order in which they come: a user namespace first where it has to give the right to the
    others, last where root has that.
    """
    wanted = [name for name in kernel.CLONE if name in layers and name != "user"]
    user = ["user"] if "user" in layers else []
    steps = [wanted, user] if os.geteuid() == 0 else [[*user, *wanted]]
    child = os.fork()
    if child == 0:
        try:
            for names in filter(None, steps):
                kernel.unshare(*names)
        except OSError:
            os._exit(REFUSED)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


if __name__ == "__main__":
    if not may_have(json.loads(sys.argv[2])["layers"]):
        sys.exit(REFUSED)
    gc.disable()  # in the workers, too: none lives long enough to need it
    import_module("minituner.grading.box.zygote").main()
