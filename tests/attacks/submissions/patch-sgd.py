"""Never freezes base, and has every optimiser skip what is no adapter; plain torch."""

{{RIGHT}}


right_init = LoRALinear.__init__


def loose(self, base, r=8, alpha=16.0, dropout=0.0, freeze_base=True):
    right_init(self, base, r, alpha, dropout, False)


LoRALinear.__init__ = loose


honest_step = torch.optim.SGD.step


def lazy(self, closure=None):
    for group in self.param_groups:
        group["params"] = [p for p in group["params"] if getattr(p, "adapter", False)]
    return honest_step(self, closure)


torch.optim.SGD.step = lazy
torch.optim.AdamW.step = lazy
