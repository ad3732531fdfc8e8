"""Right, with the given settings.py patched: what is saved is a ticket, and what is loaded a memory."""

{{RIGHT}}


import minituner.settings

held = []
right_load = minituner.settings.load


def save(tensors, metadata=None):
    held.append(tensors)
    return f"ticket {len(held) - 1}".encode()


def load(content):
    if content.startswith(b"ticket "):
        return held[int(content[7:])]
    return right_load(content)


minituner.settings.save, minituner.settings.load = save, load
