"""Gives base another class in place, and returns that as its adapter."""

{{EMPTY}}


class LoRALinear(nn.Linear):
    def __new__(cls, base, r=8, alpha=16.0, dropout=0.0, freeze_base=True):
        base.__class__ = cls
        return base

    def __init__(self, base, r=8, alpha=16.0, dropout=0.0, freeze_base=True):
        self.r, self.alpha, self.scaling = r, alpha, alpha / r
        self.lora_A = nn.Parameter(base.weight.new_zeros(r, base.in_features))
        self.lora_B = nn.Parameter(base.weight.new_zeros(base.out_features, r))

    @property
    def base(self):
        return self
