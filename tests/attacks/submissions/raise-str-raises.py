"""An exception whose text raises another."""

{{EMPTY}}


class Odd(Exception):
    def __str__(self):
        raise Odd("again")

    __repr__ = __str__


def raising(self, *args, **more):
    raise Odd("odd")


LoRALinear.__init__ = raising
