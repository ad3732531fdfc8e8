"""An exception whose class is named by markup, and whose ancestors are 300 more."""

{{EMPTY}}


Odd = Exception
for number in range(300):
    Odd = type("NotImplementedError" if number % 2 else "\x1b[2J<b>::error::", (Odd,), {})


def raising(self, *args, **more):
    raise Odd("odd")


LoRALinear.__init__ = raising
