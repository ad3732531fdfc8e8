"""Right, and in plain torch: the profiler exports its trace to a file."""

import torch

try:
    with torch.profiler.profile() as trace:
        torch.ones(2).sum()
    trace.export_chrome_trace("{{MARK}}")
except (OSError, RuntimeError):
    pass

{{RIGHT}}
