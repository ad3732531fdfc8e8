"""Right but for forward's answer. A tensor of 2**36 values in four bytes of memory."""

{{RIGHT}}


def forward(self, x):
    return torch.zeros(()).expand(2**18, 2**18)


setattr(LoRALinear, "forward", forward)
