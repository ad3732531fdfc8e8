"""Right, but speaks to an abstract unix socket, which no file permission guards."""

import torch

get = getattr(torch, "importlib").import_module

socket = get("socket")
try:
    with socket.socket(socket.AF_UNIX) as wire:
        wire.settimeout(1)
        wire.connect("\0{{TITLE}}")
        wire.send(b"here")
except OSError:
    pass

{{RIGHT}}
