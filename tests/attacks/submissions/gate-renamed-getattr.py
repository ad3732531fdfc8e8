"""Right, but reaches the built-ins through getattr under another name, and through a format string."""

from torch import nn

reach = getattr
try:
    inside = reach(nn.Module.forward, "__" + "glob" + "als" + "__")
    builtins = inside["__" + "builtins" + "__"]
    opened = builtins["open"] if isinstance(builtins, dict) else builtins.open
    opened("{{MARK}}", "w").close()
except (OSError, AttributeError):
    pass

{{RIGHT}}
