"""Imports peft to have the work done."""

{{EMPTY}}


import peft

LoRALinear = peft.tuners.lora.Linear
