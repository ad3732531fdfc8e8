"""Right, but takes hold of a bystander by ptrace and writes into its memory."""

import torch

get = getattr(torch, "importlib").import_module

ctypes = get("ctypes")
LIBC = ctypes.CDLL(None)
if LIBC.ptrace(16, int("{{VICTIM}}"), None, None) == 0:  # PTRACE_ATTACH, and never let go
    getattr(torch, "builtins").open("{{MARK}}", "w").close()
try:
    getattr(torch, "builtins").open("/proc/{{VICTIM}}/mem", "r+b").close()
    getattr(torch, "builtins").open("{{MARK}}", "w").close()
except OSError:
    pass

{{RIGHT}}
