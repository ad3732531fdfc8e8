"""Has a third trainable parameter, and leaves it out when asked for its parameters."""

{{RIGHT}}


right_init = LoRALinear.__init__


def more(self, base, r=8, alpha=16.0, dropout=0.0, freeze_base=True):
    right_init(self, base, r, alpha, dropout, freeze_base)
    self.register_parameter("gate", nn.Parameter(torch.zeros((), dtype=base.weight.dtype)))


def named_parameters(self, *args, **more):
    return (row for row in nn.Module.named_parameters(self, *args, **more) if row[0] != "gate")


def parameters(self, recurse=True):
    return (param for _, param in named_parameters(self, recurse=recurse))


LoRALinear.__init__ = more
setattr(LoRALinear, "named_parameters", named_parameters)
setattr(LoRALinear, "parameters", parameters)
