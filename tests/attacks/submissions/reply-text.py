"""Right but for forward's answer. A string of 100 MB."""

{{RIGHT}}


TEXT = "x" * 100_000_000


def forward(self, x):
    return TEXT


setattr(LoRALinear, "forward", forward)
