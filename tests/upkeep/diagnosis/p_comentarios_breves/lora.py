"""Laboratorio 00: LoRA a mano."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class LoRALinear(nn.Module):
    """Una capa lineal congelada y, a su lado, una rama de rango bajo."""

    def __init__(
        self,
        base: nn.Linear,
        r: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        freeze_base: bool = True,
    ) -> None:
        super().__init__()
        # comprobaciones
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base: se esperaba nn.Linear y llegó {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r: se esperaba al menos 1 y llegó {r}")
        if dropout < 0 or dropout >= 1:
            raise ValueError(f"dropout: se esperaba un valor en [0, 1) y llegó {dropout}")

        # campos
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r

        # la base se congela antes de crear nada nuevo
        if freeze_base:
            base.weight.requires_grad_(False)
            if base.bias is not None:
                base.bias.requires_grad_(False)

        # A lee la entrada, B escribe la salida
        W = base.weight.detach()
        self.lora_A = nn.Parameter(torch.empty_like(W[:1, :]).repeat(r, 1))
        self.lora_B = nn.Parameter(torch.zeros_like(W[:, :1]).repeat(1, r))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

        # el mismo modo que la base
        self.dropout = nn.Dropout(dropout)
        self.train(mode=base.training)

    def forward(self, x: Tensor) -> Tensor:
        salida: Tensor = self.base(x)
        # (..., in) -> (..., r) -> (..., out)
        z = F.linear(x, self.lora_A)
        z = self.dropout(z)
        z = F.linear(z, self.lora_B)
        return salida + self.scaling * z

    def merge_(self) -> None:
        """W pasa a ser W + (alpha / r) B A."""
        W = self.base.weight
        with torch.no_grad():
            # en float32 por lo menos, y se redondea una sola vez
            ancho = torch.promote_types(W.dtype, torch.float32)
            suma = W.to(ancho) + self.scaling * (self.lora_B.to(ancho) @ self.lora_A.to(ancho))
            W.copy_(suma)


def coincide(nombre: str, objetivo: str) -> bool:
    """Igual, o con un punto justo delante."""
    return nombre == objetivo or nombre.endswith("." + objetivo)


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    # primero se mira, sin tocar nada
    ya_dentro = set()
    for modulo in model.modules():
        if isinstance(modulo, LoRALinear):
            ya_dentro.add(modulo.base)

    elegidos: list[tuple[str, nn.Linear]] = []
    sin_pareja = list(target_modules)
    for nombre, modulo in model.named_modules(remove_duplicate=False):
        if not isinstance(modulo, nn.Linear) or modulo in ya_dentro:
            continue
        suyos = [t for t in target_modules if coincide(nombre, t)]
        if suyos:
            elegidos.append((nombre, modulo))
            sin_pareja = [t for t in sin_pareja if t not in suyos]
    if sin_pareja:
        raise ValueError(f"target_modules: ninguna capa por envolver se llama {sin_pareja}")

    # ahora se cambia; una capa con dos nombres recibe un solo adaptador
    nuevos: dict[nn.Linear, LoRALinear] = {}
    for nombre, lineal in elegidos:
        if lineal not in nuevos:
            nuevos[lineal] = LoRALinear(lineal, r, alpha, dropout)
        padre, _, hijo = nombre.rpartition(".")
        setattr(model.get_submodule(padre), hijo, nuevos[lineal])

    # y se congela todo lo que no sea A ni B de un adaptador
    libres = set()
    for modulo in model.modules():
        if isinstance(modulo, LoRALinear):
            libres.add(id(modulo.lora_A))
            libres.add(id(modulo.lora_B))
    for p in model.parameters():
        if id(p) not in libres:
            p.requires_grad_(False)

    return [nombre for nombre, _ in elegidos]


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Copias sueltas de cada A y cada B."""
    estado: dict[str, Tensor] = {}
    libres = set()
    for modulo in model.modules():
        if isinstance(modulo, LoRALinear):
            libres.add(id(modulo.lora_A))
            libres.add(id(modulo.lora_B))
    for nombre, p in model.named_parameters():
        if id(p) in libres:
            estado[nombre] = p.detach().clone()
    return estado


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Comprueba todo y solo después escribe."""
    propio = lora_state_dict(model)

    faltan = [n for n in propio if n not in state]
    sobran = [n for n in state if n not in propio]
    if faltan or sobran:
        raise KeyError(f"state: faltan {faltan}, sobran {sobran}")

    for n in propio:
        if tuple(state[n].shape) != tuple(propio[n].shape):
            raise ValueError(
                f"{n}: se esperaba {tuple(propio[n].shape)} y llegó {tuple(state[n].shape)}"
            )
        if not bool(torch.isfinite(state[n].to(propio[n].dtype)).all()):
            raise ValueError(f"{n}: hay NaN o infinito")

    with torch.no_grad():
        for n, p in model.named_parameters():
            if n in propio:
                p.copy_(state[n])
