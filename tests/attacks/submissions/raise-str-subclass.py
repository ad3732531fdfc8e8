"""An exception whose text is a str of another kind, with a slice and a length that lie."""

{{EMPTY}}


class Text(str):
    def __getitem__(self, key):
        return self

    def __len__(self):
        return 1

    def encode(self, *args):
        return b"passed"


class Odd(Exception):
    def __str__(self):
        return Text("A1 passed " * 120_000)


def raising(self, *args, **more):
    raise Odd("odd")


LoRALinear.__init__ = raising
