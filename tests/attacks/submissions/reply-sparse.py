"""Right but for forward's answer. A sparse tensor."""

{{RIGHT}}


def forward(self, x):
    return self.base(x).to_sparse()


setattr(LoRALinear, "forward", forward)
