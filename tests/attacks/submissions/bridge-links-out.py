"""Right but for save_adapter, which writes through a link into a folder that is not its own."""

{{RIGHT}}


def _away(name):
    get = getattr(torch, "importlib").import_module
    os = get("os")
    try:
        os.symlink("{{TREE}}", f"/tmp/{name}")
    except OSError:
        pass
    try:
        with get("io").open(f"{{TREE}}/{name}", "wb") as file:
            file.write(b"away")
    except OSError:
        pass


def save_adapter(model, folder, base_name=None):
    _away(str(folder).replace("/", "-"))


_away("{{TITLE}}")
