"""Answers everything with 40 MB of zeros, more than a frame holds."""

{{EMPTY}}


FLOOD = torch.zeros(1, 5 << 20, dtype=torch.float64)


def answer(*args, **more):
    return FLOOD
