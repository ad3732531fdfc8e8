"""Right, with a thread that writes a file half a second after the import."""

import torch

get = getattr(torch, "importlib").import_module

time = get("time")


def late() -> None:
    time.sleep(0.5)
    getattr(torch, "builtins").open("{{MARK}}", "w").close()


try:
    get("_thread").start_new_thread(late, ())
except RuntimeError:
    pass

{{RIGHT}}
