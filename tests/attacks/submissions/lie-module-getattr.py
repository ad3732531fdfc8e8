"""Defines nothing, and makes up each name by a module-level __getattr__."""

def __getattr__(name):
    return lambda *args, **more: True
