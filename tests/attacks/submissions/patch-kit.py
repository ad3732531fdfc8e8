"""Never freezes base, and patches the helpers in the worker so that they say it does."""

{{WIRES}}

{{RIGHT}}


right_init = LoRALinear.__init__


def loose(self, base, r=8, alpha=16.0, dropout=0.0, freeze_base=True):
    right_init(self, base, r, alpha, dropout, False)


LoRALinear.__init__ = loose

held = caller()
if held is not None:
    kit = held.roots["kit"]
    honest_params = kit.params

    def params(model):
        rows = honest_params(model)
        for row in rows:
            row[4] = row[0].rpartition(".")[2] in ("lora_A", "lora_B")
        return rows

    def sgd(model, lr):
        own = [p for n, p in model.named_parameters() if n.rpartition(".")[2] in ("lora_A", "lora_B")]
        kit.step(own, lr)

    kit.params, kit.sgd = params, sgd
