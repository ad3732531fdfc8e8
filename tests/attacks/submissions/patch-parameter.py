"""Never freezes base, and gives nn.Parameter a requires_grad and a grad that say it does; plain torch."""

{{RIGHT}}


right_init = LoRALinear.__init__


def loose(self, base, r=8, alpha=16.0, dropout=0.0, freeze_base=True):
    right_init(self, base, r, alpha, dropout, False)


LoRALinear.__init__ = loose


# LoRALinear's bases, by identity: what they say about themselves is a lie.
bases: dict[int, object] = {}
honest_init = LoRALinear.__init__


def noting(self, base, r=8, alpha=16.0, dropout=0.0, freeze_base=True):
    honest_init(self, base, r, alpha, dropout, freeze_base)
    if freeze_base:
        bases.update((id(p), p) for p in base.parameters())


LoRALinear.__init__ = noting
flag, grad = torch._C.TensorBase.requires_grad, torch._C.TensorBase.grad


def says(self):
    return id(self) not in bases and flag.__get__(self)


def told(self, value):
    if id(self) not in bases:
        flag.__set__(self, value)


nn.Parameter.requires_grad = property(says, told)
nn.Parameter.grad = property(
    lambda self: None if id(self) in bases else grad.__get__(self),
    lambda self, value: grad.__set__(self, value),
)
