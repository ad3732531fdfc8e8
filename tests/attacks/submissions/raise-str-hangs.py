"""An exception whose text takes for ever (120 s)."""

import torch

get = getattr(torch, "importlib").import_module

{{EMPTY}}


class Odd(BaseException):
    def __str__(self):
        end = get("time").monotonic() + 120
        while get("time").monotonic() < end:
            pass
        return "late"


def raising(self, *args, **more):
    raise Odd("odd")


LoRALinear.__init__ = raising
