"""Right but for adapter_files: a hundred megabytes follow the values."""

{{RIGHT}}


right_files, TAIL = adapter_files, bytes(100 << 20)


def adapter_files(model, base_name=None):
    files = right_files(model, base_name)
    return {name: content + TAIL if "safetensors" in name else content for name, content in files.items()}
