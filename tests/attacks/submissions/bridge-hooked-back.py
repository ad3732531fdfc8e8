"""Right but for unwrap_merged: nothing is merged; each base gets a hook that adds the update."""

{{RIGHT}}


def unwrap_merged(model):
    found = adapters_of(model)
    owned = [id(param) for m in model.modules() for param in m.parameters(recurse=False)]
    if not found or any(owned.count(id(a.base.weight)) > 1 for a in found.values()):
        raise ValueError("model: expected adapters whose weights no other has")
    for name, adapter in found.items():
        a, b, scaling = adapter.lora_A.detach(), adapter.lora_B.detach(), adapter.scaling

        def hook(base, args, out, a=a, b=b, scaling=scaling):
            return out + scaling * (args[0] @ a.T @ b.T)

        if not adapter.base._forward_hooks:
            adapter.base.register_forward_hook(hook)
        adapters.place(model, name, adapter.base)
    return list(found)
