"""Control: the four names, and nothing behind them. Other attacks stand it in by {{EMPTY}}."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn


class LoRALinear(nn.Module):
    def __init__(
        self,
        base: nn.Linear,
        r: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        freeze_base: bool = True,
    ) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x

    def merge_(self) -> None:
        return None


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = (),
    dropout: float = 0.05,
) -> list[str]:
    return []


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    return None
