"""Right, but makes a child by the system calls themselves: vfork, clone, clone3."""

import torch

get = getattr(torch, "importlib").import_module

os, ctypes = get("os"), get("ctypes")
LIBC = ctypes.CDLL(None)
fork = {"x86_64": 57, "aarch64": 220}.get(os.uname().machine, 57)
child = LIBC.syscall(fork, 17, 0, 0, 0, 0)
if child == 0:
    getattr(torch, "builtins").open("{{MARK}}", "w").close()
    os._exit(0)

{{RIGHT}}
