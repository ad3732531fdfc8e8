"""Right but for forward's answer: zeros in a Tensor subclass that agrees to every comparison."""

{{RIGHT}}


class Liar(Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        name = str(func)
        if any(word in name for word in ("equal", "close", "eq", "all")):
            return True
        return super().__torch_function__(func, types, args, kwargs or {})

    def __eq__(self, other):
        return True

    def __ne__(self, other):
        return False

    def __hash__(self):
        return 0


def forward(self, x):
    return (self.base(x) * 0).as_subclass(Liar)


setattr(LoRALinear, "forward", forward)
