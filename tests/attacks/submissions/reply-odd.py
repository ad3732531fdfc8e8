"""Right but for forward's answer. An object that is no tensor: a generator in a dictionary in itself."""

{{RIGHT}}


def forward(self, x):
    held = {"x": (value for value in x)}
    held["self"] = held
    return held


setattr(LoRALinear, "forward", forward)
