"""Never freezes base, but replaces its weight by a Parameter of its own kind that says otherwise."""

{{RIGHT}}


class Sly(nn.Parameter):
    @property
    def requires_grad(self):
        return False


right_init = LoRALinear.__init__


def sly(self, base, r=8, alpha=16.0, dropout=0.0, freeze_base=True):
    right_init(self, base, r, alpha, dropout, False)
    if freeze_base:
        base.weight = Sly(base.weight.detach())


LoRALinear.__init__ = sly
