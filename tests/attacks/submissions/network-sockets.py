"""Right, but speaks to a loopback port, by TCP and by UDP."""

import torch

get = getattr(torch, "importlib").import_module

socket = get("socket")
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    try:
        with socket.socket(socket.AF_INET, kind) as wire:
            wire.settimeout(1)
            wire.connect(("127.0.0.1", int("{{PORT}}")))
            wire.send(b"here")
    except OSError:
        continue

{{RIGHT}}
