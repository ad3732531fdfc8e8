"""GeneratorExit from the constructor."""

{{EMPTY}}


Odd = GeneratorExit


def raising(self, *args, **more):
    raise Odd("odd")


LoRALinear.__init__ = raising
