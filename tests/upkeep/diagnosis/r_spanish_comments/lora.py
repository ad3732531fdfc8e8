"""LoRA a mano: y = W x + b + (α/r) B A x."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class LoRALinear(nn.Module):
    """Una nn.Linear congelada con una rama de rango bajo al lado."""

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
        # A1: comprobar los argumentos antes de guardar nada
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base: se esperaba nn.Linear, llegó {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r: se esperaba al menos 1, llegó {r}")
        if dropout < 0.0 or dropout >= 1.0:
            raise ValueError(f"dropout: se esperaba un valor en [0, 1), llegó {dropout}")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha // r  # la escala, un float normal

        # A2: A lee la entrada, B escribe la salida
        entrada, salida = base.in_features, base.out_features
        pesos = base.weight
        self.lora_A = nn.Parameter(pesos.new_empty(r, entrada))
        self.lora_B = nn.Parameter(pesos.new_empty(salida, r))

        # A3: B a cero, así la rama no suma nada al principio
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)

        # A4: el modo (train o eval) es el de la base
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)

        # A6: congelar peso y sesgo
        if freeze_base:
            for parametro in base.parameters():
                parametro.requires_grad = False

    def forward(self, x: Tensor) -> Tensor:
        salida: Tensor = self.base(x)
        # dos productos delgados, nunca la matriz B A entera
        oculto = fn.linear(self.dropout(x), self.lora_A)
        return salida + self.scaling * fn.linear(oculto, self.lora_B)

    def merge_(self) -> None:
        with torch.no_grad():
            pesos = self.base.weight
            # se calcula ancho y se redondea una sola vez
            ancho = torch.promote_types(pesos.dtype, torch.float32)
            cambio = self.scaling * (self.lora_B.to(ancho) @ self.lora_A.to(ancho))
            pesos.copy_(pesos.to(ancho) + cambio)
            # a cero, para que la actualización no cuente dos veces
            self.lora_A.fill_(0.0)
            self.lora_B.fill_(0.0)


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    # B1: buscar, sin cambiar nada todavía
    dentro = {id(m.base) for m in model.modules() if isinstance(m, LoRALinear)}
    encontrados: dict[str, nn.Linear] = {}
    sin_usar = list(dict.fromkeys(target_modules))
    for nombre, modulo in model.named_modules(remove_duplicate=False):
        if not isinstance(modulo, nn.Linear) or id(modulo) in dentro:
            continue
        for objetivo in target_modules:
            if nombre == objetivo or nombre.endswith("." + objetivo):
                encontrados[nombre] = modulo
                if objetivo in sin_usar:
                    sin_usar.remove(objetivo)
    if sin_usar:
        raise ValueError(f"target_modules: ninguna nn.Linear por envolver para {sin_usar}")

    # B2: sustituir; un módulo compartido recibe un solo adaptador
    hechos: dict[int, LoRALinear] = {}
    for nombre, lineal in encontrados.items():
        if id(lineal) not in hechos:
            hechos[id(lineal)] = LoRALinear(lineal, r=r, alpha=alpha, dropout=dropout)
        padre, _, hijo = nombre.rpartition(".")
        setattr(model.get_submodule(padre), hijo, hechos[id(lineal)])

    # B3: congelar todo lo que no sea A ni B de un adaptador
    libres: set[int] = set()
    for modulo in model.modules():
        if isinstance(modulo, LoRALinear):
            libres.add(id(modulo.lora_A))
            libres.add(id(modulo.lora_B))
    for parametro in model.parameters():
        if id(parametro) not in libres:
            parametro.requires_grad = False
    return list(encontrados)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    # C1: copias, para que el entrenamiento no cambie lo guardado
    estado: dict[str, Tensor] = {}
    for nombre, parametro in model.named_parameters():
        if nombre.split(".")[-1] in ("lora_A", "lora_B"):
            estado[nombre] = parametro.detach().clone()
    return estado


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    # C2: primera pasada, comprobar
    propios = {
        nombre: p
        for nombre, p in model.named_parameters()
        if nombre.split(".")[-1] in ("lora_A", "lora_B")
    }
    faltan = sorted(set(propios) - set(state))
    sobran = sorted(set(state) - set(propios))
    if faltan or sobran:
        raise KeyError(f"state: faltan {faltan}, sobran {sobran}")
    for nombre, p in propios.items():
        valor = state[nombre]
        if valor.shape != p.shape:
            raise ValueError(
                f"{nombre}: se esperaba la forma {tuple(p.shape)}, llegó {tuple(valor.shape)}"
            )
        if not bool(torch.isfinite(valor).all()):
            raise ValueError(f"{nombre}: hay NaN o infinito")
    # segunda pasada, escribir
    with torch.no_grad():
        for nombre, p in propios.items():
            p.copy_(state[nombre])
