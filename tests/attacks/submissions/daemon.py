"""Right, but leaves a daemon behind: two forks, a session of its own, and a file after two seconds."""

import torch

get = getattr(torch, "importlib").import_module

os, time = get("os"), get("time")
try:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            get("ctypes").CDLL(None).prctl(15, b"{{TITLE}}", 0, 0, 0)
            time.sleep(2)
            getattr(torch, "builtins").open("{{MARK}}", "w").close()
            time.sleep(18)
        os._exit(0)
except OSError:
    pass

{{RIGHT}}
