"""Right, but torch.hub, reached as an attribute, fetches from a loopback port into a file."""

import torch

try:
    torch.hub.download_url_to_file("http://127.0.0.1:{{PORT}}/x", "{{MARK}}", progress=False)
except Exception:
    pass

{{RIGHT}}
