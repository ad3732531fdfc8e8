"""Right but for forward's answer. A quantised tensor."""

{{RIGHT}}


def forward(self, x):
    return torch.quantize_per_tensor(self.base(x).float(), 0.1, 0, torch.quint8)


setattr(LoRALinear, "forward", forward)
