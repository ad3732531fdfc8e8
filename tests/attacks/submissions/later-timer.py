"""Right, with an interval timer whose SIGALRM handler writes a file."""

import torch

get = getattr(torch, "importlib").import_module

def late(number: int, frame: object) -> None:
    getattr(torch, "builtins").open("{{MARK}}", "w").close()


signal = get("signal")
try:
    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
except OSError:
    pass

{{RIGHT}}
