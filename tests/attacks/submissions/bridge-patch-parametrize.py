"""A parametrization that does nothing; torch's own registering is patched to agree."""

{{RIGHT}}


from torch.nn.utils import parametrize


def forward(self, weight):
    return weight


LoRAParametrization.forward = forward
parametrize.is_parametrized = lambda *args: True
parametrize.register_parametrization = lambda layer, *args, **more: layer
parametrize.remove_parametrizations = lambda layer, *args, **more: layer
