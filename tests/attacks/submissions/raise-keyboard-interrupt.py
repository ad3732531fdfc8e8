"""KeyboardInterrupt from the constructor."""

{{EMPTY}}


Odd = KeyboardInterrupt


def raising(self, *args, **more):
    raise Odd("odd")


LoRALinear.__init__ = raising
