"""Right but for save_adapter, which hands 3 GB to the folder, a thousand files beside the two."""

{{RIGHT}}


def save_adapter(model, folder, base_name=None):
    one = bytes(3 << 20)
    write_folder(folder, adapter_files(model, base_name) | {f"{i}.bin": one for i in range(1000)})
