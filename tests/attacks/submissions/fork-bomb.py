"""Right, but forks 30 children that stay 20 s, under a title of their own."""

import torch

get = getattr(torch, "importlib").import_module

os, time = get("os"), get("time")
try:
    for _ in range(30):
        if os.fork() == 0:
            get("ctypes").CDLL(None).prctl(15, b"{{TITLE}}", 0, 0, 0)
            time.sleep(20)
            os._exit(0)
except OSError:
    pass

{{RIGHT}}
