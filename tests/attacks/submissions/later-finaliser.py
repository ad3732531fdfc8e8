"""Right, with an object whose __del__ writes a file when the process winds down."""

import torch

get = getattr(torch, "importlib").import_module

class Late:
    writer = getattr(torch, "builtins").open

    def __del__(self) -> None:
        Late.writer("{{MARK}}", "w").close()


LATE = [Late()]
LATE.append(Late())
LATE.pop()

{{RIGHT}}
