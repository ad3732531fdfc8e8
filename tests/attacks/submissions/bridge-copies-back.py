"""Right but for unwrap_merged: it puts copies back, and get_submodule is patched to show the bases."""

{{RIGHT}}


copy = getattr(torch, "importlib").import_module("copy")
right_unwrap = unwrap_merged
right_get = nn.Module.get_submodule
shown = {}


def unwrap_merged(model):
    names = right_unwrap(model)
    for name in names:
        base = right_get(model, name)
        twin = copy.deepcopy(base)
        adapters.place(model, name, twin)
        shown[id(twin)] = twin, base
    return names


def get_submodule(self, target):
    found = right_get(self, target)
    return shown.get(id(found), (found, found))[1]


nn.Module.get_submodule = get_submodule
