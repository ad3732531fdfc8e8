"""A model that computes on one device while its batches stay on the cpu.

    model = Elsewhere(model, "cuda")     takes cpu tokens, gives cpu logits

So a loop written for the cpu runs on a GPU unchanged; only the logits cross for each batch. Leaves
out: speed where logits are large, and more than one device.
"""

from __future__ import annotations

from torch import Tensor, nn


class Elsewhere(nn.Module):
    """Moves tokens to the device of `inside` and logits back; trains what `inside` trains."""

    inside: nn.Module

    def __init__(self, inside: nn.Module, device: str) -> None:
        super().__init__()
        self.inside = inside.to(device)
        self.device = device

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, seq) -> (batch, seq, vocab_size), both on the cpu."""
        logits: Tensor = self.inside(tokens.to(self.device))
        return logits.cpu()


def on(device: str, model: nn.Module) -> nn.Module:
    """The model itself for the cpu, else behind an Elsewhere."""
    return model if device == "cpu" else Elsewhere(model, device)
