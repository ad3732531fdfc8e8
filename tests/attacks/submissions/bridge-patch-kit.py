"""Never freezes a base, and patches the helpers in the worker so that they say it does."""

{{RIGHT}}


{{WIRES}}


right_freeze = nn.Module.requires_grad_
nn.Module.requires_grad_ = lambda self, wanted=True: self
adapters.freeze_all_but_adapters = lambda model: None

held = caller()
if held is not None:
    kit = held.roots["kit"]
    honest_params = kit.params

    def params(model):
        rows = honest_params(model)
        for row in rows:
            row[4] = row[0].rpartition(".")[2] in ("lora_A", "lora_B")
        return rows

    kit.params, kit.flag = params, lambda tensor: False
