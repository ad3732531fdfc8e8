"""LoRA a mano: y = W x + b + (alfa / r) B A x, con W y b congelados."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class LoRALinear(nn.Module):
    """Una capa lineal congelada con una rama de rango bajo."""

    base: nn.Linear
    r: int
    alpha: float
    scaling: float
    lora_A: nn.Parameter
    lora_B: nn.Parameter
    dropout: nn.Dropout

    def __init__(
        self,
        base: nn.Linear,
        r: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        freeze_base: bool = True,
    ) -> None:
        super().__init__()
        # Primero, los argumentos. (Los mensajes, en inglés como en el BLUEPRINT.)
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base: expected nn.Linear, got {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r: expected at least 1, got {r}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout: expected [0, 1), got {dropout}")

        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r  # un float normal, nunca un buffer

        # A lee la entrada, B escribe la salida.
        entrada, salida = base.in_features, base.out_features
        self.lora_A = nn.Parameter(torch.empty(r, entrada))
        self.lora_B = nn.Parameter(torch.zeros(salida, r))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

        # El dropout va sobre la entrada de la rama; el modo es el de la base.
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)

        if freeze_base:
            self.base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        salida: Tensor = self.base(x)
        rama: Tensor = self.dropout(x)
        for matriz in (self.lora_A, self.lora_B):
            rama = nn.functional.linear(rama, matriz)
        return salida + self.scaling * rama

    def merge_(self) -> None:
        peso = self.base.weight
        # Se suma al menos en float32 y se redondea una sola vez.
        tipo = torch.promote_types(peso.dtype, torch.float32)
        with torch.no_grad():
            suma = peso.to(tipo) + self.scaling * (self.lora_B.to(tipo) @ self.lora_A.to(tipo))
            peso.copy_(suma)
            for matriz in (self.lora_A, self.lora_B):
                matriz.zero_()


def _coincide(nombre: str, objetivo: str) -> bool:
    """El nombre entero, o su final después de un punto."""
    return nombre == objetivo or nombre.endswith("." + objetivo)


def _adaptadores(modelo: nn.Module) -> list[tuple[str, LoRALinear]]:
    return [(n, m) for n, m in modelo.named_modules() if isinstance(m, LoRALinear)]


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    # Las bases de los adaptadores que ya existen no son objetivos.
    ocupadas = {id(capa.base) for _, capa in _adaptadores(model)}

    elegidas: dict[str, nn.Linear] = {}
    sin_pareja = set(target_modules)
    # remove_duplicate=False: una capa compartida aparece con todos sus nombres.
    for nombre, modulo in model.named_modules(remove_duplicate=False):
        if isinstance(modulo, nn.Linear) and id(modulo) not in ocupadas:
            aciertos = [t for t in target_modules if _coincide(nombre, t)]
            if aciertos:
                elegidas[nombre] = modulo
                sin_pareja.difference_update(aciertos)
    if sin_pareja:
        raise ValueError(f"target_modules: expected linears to wrap, none for {sorted(sin_pareja)}")

    # Un adaptador por módulo, aunque tenga varios nombres.
    nuevos: dict[int, LoRALinear] = {}
    for nombre, lineal in elegidas.items():
        clave = id(lineal)
        if clave not in nuevos:
            nuevos[clave] = LoRALinear(lineal, r, alpha, dropout)
        padre, _, hijo = nombre.rpartition(".")
        setattr(model.get_submodule(padre), hijo, nuevos[clave])

    # Todo lo que no es A ni B deja de entrenar.
    libres: set[int] = set()
    for _, capa in _adaptadores(model):
        libres |= {id(capa.lora_A), id(capa.lora_B)}
    for parametro in model.parameters():
        if id(parametro) not in libres:
            parametro.requires_grad_(False)
    return list(elegidas)


def _matrices(modelo: nn.Module) -> dict[str, nn.Parameter]:
    """Cada A y cada B con su nombre completo."""
    todas: dict[str, nn.Parameter] = {}
    for nombre, capa in _adaptadores(modelo):
        prefijo = f"{nombre}." if nombre else ""
        todas[f"{prefijo}lora_A"] = capa.lora_A
        todas[f"{prefijo}lora_B"] = capa.lora_B
    return todas


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    # Copias: el modelo puede seguir entrenando.
    return {nombre: p.detach().clone() for nombre, p in _matrices(model).items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    propias = _matrices(model)
    faltan = sorted(propias.keys() - state.keys())
    sobran = sorted(state.keys() - propias.keys())
    if faltan or sobran:
        raise KeyError(f"state: missing {faltan}, unexpected {sobran}")

    # Se comprueba todo antes de escribir nada.
    for nombre, p in propias.items():
        valor = state[nombre]
        if valor.shape != p.shape:
            raise ValueError(f"{nombre}: expected {tuple(p.shape)}, got {tuple(valor.shape)}")
        if not valor.to(p.dtype).isfinite().all():
            raise ValueError(f"{nombre}: expected finite values, got NaN or infinity")

    with torch.no_grad():
        for nombre, p in propias.items():
            p.copy_(state[nombre])
