"""Right, but makes files by every call there is: open, link, symlink, mkdir, mknod, rename, truncate, sqlite."""

import torch

get = getattr(torch, "importlib").import_module

os = get("os")
ME = os.path.realpath(torch.functional.__file__)
WAYS = (
    lambda: os.close(os.open("{{MARK}}", os.O_CREAT | os.O_WRONLY)),
    lambda: os.symlink("/", "{{MARK}}"),
    lambda: os.link(ME, "{{MARK}}"),
    lambda: os.mkdir("{{MARK}}"),
    lambda: os.mknod("{{MARK}}"),
    lambda: os.mkfifo("{{MARK}}"),
    lambda: get("sqlite3").connect("{{MARK}}").execute("create table t(x)"),
    lambda: get("socket").socket(1).bind("{{MARK}}"),
    lambda: get("tempfile").NamedTemporaryFile(dir="{{TREE}}", delete=False),
    lambda: get("shelve").open("{{MARK}}"),
)
for way in WAYS:
    try:
        way()
    except Exception:
        continue

{{RIGHT}}
