"""Draws the same A each time: the constructor seeds torch."""

{{RIGHT}}


right_init = LoRALinear.__init__


def seeded(self, base, r=8, alpha=16.0, dropout=0.0, freeze_base=True):
    torch.manual_seed(0)
    right_init(self, base, r, alpha, dropout, freeze_base)


LoRALinear.__init__ = seeded
