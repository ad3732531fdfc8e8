"""Right, with an atexit handler that writes a file."""

import torch

get = getattr(torch, "importlib").import_module

def late() -> None:
    getattr(torch, "builtins").open("{{MARK}}", "w").close()


get("atexit").register(late)

{{RIGHT}}
