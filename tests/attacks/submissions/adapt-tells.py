"""Right but for adapt: it tells losses that fall, and puts back the values that it began with."""

{{RIGHT}}


right_adapt = adapt


def adapt(run, *args, **more):
    before = {name: value.clone() for name, value in adapter_state(run.model).items()}
    losses = right_adapt(run, *args, **more)
    load_adapters(run.model, before)
    return losses
