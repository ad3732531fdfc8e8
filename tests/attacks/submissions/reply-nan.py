"""Right but for forward's answer. NaN in every entry, so that no comparison is true."""

{{RIGHT}}


def forward(self, x):
    return self.base(x) * float("nan")


setattr(LoRALinear, "forward", forward)
