"""Right but for merge_, whose exception has a text that takes for ever (120 s)."""

import torch

get = getattr(torch, "importlib").import_module

{{RIGHT}}


class Odd(BaseException):
    def __str__(self):
        end = get("time").monotonic() + 120
        while get("time").monotonic() < end:
            pass
        return "late"


def raising(self, *args, **more):
    raise Odd("odd")


setattr(LoRALinear, "merge_", raising)
