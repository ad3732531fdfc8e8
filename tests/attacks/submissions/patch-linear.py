"""Forward gives zeros, and nn.Linear and F.linear are patched so that base gives zeros as well."""

{{RIGHT}}


def forward(self, x):
    return x.new_zeros(*x.shape[:-1], self.base.out_features)


setattr(LoRALinear, "forward", forward)
nn.Linear.forward = lambda self, x: x.new_zeros(*x.shape[:-1], self.out_features)
nn.functional.linear = lambda x, w, b=None: x.new_zeros(*x.shape[:-1], w.shape[0])
