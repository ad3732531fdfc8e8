"""Right, but safetensors itself writes a file where it can, and torch another."""

{{RIGHT}}


import safetensors.torch


def _written(folder: str) -> None:
    held = {"values": torch.zeros(3)}
    try:
        safetensors.torch.save_file(held, folder)
    except Exception:
        torch.save(held, folder)


try:
    _written("{{MARK}}")
except Exception:
    pass
