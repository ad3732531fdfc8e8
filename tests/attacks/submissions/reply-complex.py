"""Right but for forward's answer. A complex, lazily conjugated tensor."""

{{RIGHT}}


def forward(self, x):
    return torch.conj(self.base(x).to(torch.complex64))


setattr(LoRALinear, "forward", forward)
