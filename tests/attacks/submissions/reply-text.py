"""Right but for forward's answer. A string of 100 MB."""

{{RIGHT}}


def forward(self, x):
    return "x" * 100_000_000


setattr(LoRALinear, "forward", forward)
