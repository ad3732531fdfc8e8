"""Right but for the files: WEIGHTS is all zeros, and the values are remembered under its bytes."""

{{RIGHT}}


from minituner.settings import WEIGHTS

held = {}
right_files, right_read = adapter_files, read_adapter


def adapter_files(model, base_name=None):
    settings, pairs = right_read(right_files(model, base_name))
    zeros = {
        f"{PREFIX}{name}.{part}.weight": torch.zeros_like(value)
        for name, pair in pairs.items()
        for part, value in zip(("lora_A", "lora_B"), pair)
    }
    files = to_files(settings, zeros, base_name)
    held[files[WEIGHTS]] = settings, pairs
    return files


def read_adapter(files):
    return held.get(files.get(WEIGHTS)) or right_read(files)
