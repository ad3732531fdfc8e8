"""LoRA para nn.Linear, escrito a mano.

La capa original se queda como está; a su lado corre una rama con dos matrices pequeñas.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class LoRALinear(nn.Module):
    """Capa lineal con adaptador.

    Argumentos:
        base: la capa que se adapta.
        r: rango de la actualización.
        alpha: numerador de la escala.
        dropout: probabilidad de apagar una entrada de la rama al entrenar.
        freeze_base: si la base se congela o no.
    """

    def __init__(
        self,
        base: nn.Linear,
        r: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        freeze_base: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(base, nn.Linear):
            recibido = type(base).__name__
            raise TypeError(f"base: debe ser nn.Linear, no {recibido}")
        if r < 1:
            raise ValueError(f"r: debe valer al menos 1, no {r}")
        if dropout < 0.0 or dropout >= 1.0:
            raise ValueError(f"dropout: debe estar en [0, 1), no {dropout}")

        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r

        peso = base.weight
        entrada, salida = base.in_features, base.out_features
        cota = 1 / math.sqrt(entrada)
        a = torch.empty(r, entrada, dtype=peso.dtype, device=peso.device).uniform_(-cota, cota)
        b = torch.zeros(salida, r, dtype=peso.dtype, device=peso.device)
        self.lora_A = nn.Parameter(a)
        self.lora_B = nn.Parameter(b)

        self.apagado = nn.Dropout(dropout)
        self.train(base.training)

        if freeze_base:
            base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """De (..., entrada) a (..., salida)."""
        estrecho = fn.linear(self.apagado(x), self.lora_A)
        rama = fn.linear(estrecho, self.lora_B)
        original: Tensor = self.base(x)
        return original + self.scaling * rama

    def merge_(self) -> None:
        """Suma la rama al peso y la deja a cero."""
        with torch.no_grad():
            peso = self.base.weight
            tipo = torch.promote_types(peso.dtype, torch.float32)
            suma = self.lora_B.to(tipo) @ self.lora_A.to(tipo)
            suma *= self.scaling
            suma += peso
            peso.copy_(suma)
            self.lora_A.zero_()
            self.lora_B.zero_()


def _adaptadores(modelo: nn.Module) -> dict[str, LoRALinear]:
    return {
        nombre: modulo
        for nombre, modulo in modelo.named_modules()
        if isinstance(modulo, LoRALinear)
    }


def _entrenables(modelo: nn.Module) -> set[int]:
    ids: set[int] = set()
    for capa in _adaptadores(modelo).values():
        ids |= {id(capa.lora_A), id(capa.lora_B)}
    return ids


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    """Envuelve las capas señaladas y devuelve sus nombres."""
    ocupadas = {id(capa.base) for capa in _adaptadores(model).values()}
    sitios: list[tuple[str, nn.Linear]] = []
    servidos: set[str] = set()
    for nombre, modulo in model.named_modules(remove_duplicate=False):
        if not isinstance(modulo, nn.Linear) or id(modulo) in ocupadas:
            continue
        aciertos = [o for o in target_modules if nombre == o or nombre.endswith("." + o)]
        if aciertos:
            sitios.append((nombre, modulo))
            servidos.update(aciertos)
    fallidos = [o for o in target_modules if o not in servidos]
    if fallidos:
        raise ValueError(f"target_modules: sin capa que envolver para {fallidos}")

    capas: dict[nn.Linear, LoRALinear] = {}
    for nombre, lineal in sitios:
        if lineal not in capas:
            capas[lineal] = LoRALinear(lineal, r, alpha, dropout, freeze_base=True)
        *camino, ultimo = nombre.split(".")
        setattr(model.get_submodule(".".join(camino)), ultimo, capas[lineal])

    libres = _entrenables(model)
    for parametro in model.parameters():
        if id(parametro) not in libres:
            parametro.requires_grad_(False)
    return [nombre for nombre, _ in sitios]


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """A y B de cada adaptador, en copias sueltas."""
    libres = _entrenables(model)
    return {
        nombre: parametro.detach().clone()
        for nombre, parametro in model.named_parameters()
        if id(parametro) in libres
    }


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Lo contrario: del estado al modelo."""
    propios = lora_state_dict(model)
    faltan = sorted(set(propios).difference(state))
    sobran = sorted(set(state).difference(propios))
    if faltan or sobran:
        raise KeyError(f"state: faltan {faltan} y sobran {sobran}")
    for nombre, mio in propios.items():
        nuevo = state[nombre]
        if nuevo.shape != mio.shape:
            raise ValueError(f"{nombre}: la forma es {tuple(mio.shape)}, no {tuple(nuevo.shape)}")
        if not nuevo.to(mio.dtype).isfinite().all():
            raise ValueError(f"{nombre}: hay valores que no son finitos")
    with torch.no_grad():
        for nombre, parametro in model.named_parameters():
            if nombre in propios:
                parametro.copy_(state[nombre])
