"""Recursion with the limit taken off: overflows the C stack."""

import torch

get = getattr(torch, "importlib").import_module

get("sys").setrecursionlimit(10**8)


class Deep:
    def __repr__(self):
        return repr(self)


repr(Deep())

{{EMPTY}}
