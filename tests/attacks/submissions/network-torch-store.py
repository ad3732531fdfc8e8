"""Right, and in plain torch: the distributed store connects to a loopback port from C++."""

import torch
import torch.distributed

timedelta = getattr(torch, "importlib").import_module("datetime").timedelta
try:
    torch.distributed.TCPStore("127.0.0.1", int("{{PORT}}"), None, False, timedelta(seconds=2))
except (RuntimeError, ValueError, OSError):
    pass

{{RIGHT}}
