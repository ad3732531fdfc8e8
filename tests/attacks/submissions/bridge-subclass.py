"""Right but for LoRAConv1D's answer: zeros in a Tensor subclass that agrees to every comparison."""

{{RIGHT}}


class Liar(Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if any(word in str(func) for word in ("equal", "close", "eq", "all")):
            return True
        return super().__torch_function__(func, types, args, kwargs or {})


def forward(self, x):
    return (self.base(x) * 0).as_subclass(Liar)


LoRAConv1D.forward = forward
