"""Right but for forward's answer. A tensor on the meta device, which has no bytes."""

{{RIGHT}}


def forward(self, x):
    return torch.empty(*x.shape[:-1], self.base.out_features, device="meta")


setattr(LoRALinear, "forward", forward)
