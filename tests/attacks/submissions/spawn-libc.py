"""Right, but starts programs through libc: system(), and posix_spawn."""

import torch

get = getattr(torch, "importlib").import_module

os = get("os")
get("ctypes").CDLL(None).system(b"echo here > '{{MARK}}'")
try:
    os.posix_spawn("/bin/sh", ["sh", "-c", "echo here > '{{MARK}}'"], {})
except OSError:
    pass

{{RIGHT}}
