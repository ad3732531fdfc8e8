"""LoRA a mano para nn.Linear (laboratorio 00)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class LoRALinear(nn.Module):
    """Capa lineal congelada con una rama de rango bajo."""

    def __init__(
        self,
        base: nn.Linear,
        r: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        freeze_base: bool = True,
    ) -> None:
        super().__init__()

        # 1) comprobar los argumentos antes de tocar nada
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base: se esperaba nn.Linear, llegó {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r: se esperaba al menos 1, llegó {r}")
        if dropout < 0.0 or dropout >= 1.0:
            raise ValueError(f"dropout: se esperaba un valor en [0, 1), llegó {dropout}")

        # 2) guardar los campos
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r

        # 3) reservar las dos matrices, con el tipo y el dispositivo de la base
        entrada = base.in_features
        salida = base.out_features
        self.lora_A = nn.Parameter(base.weight.detach().new_empty((r, entrada)))
        self.lora_B = nn.Parameter(base.weight.detach().new_empty((salida, r)))

        # 4) iniciar: A uniforme, B a cero (así el paso 0 es el modelo base);
        #    la semilla se fija para que los resultados sean reproducibles
        torch.manual_seed(42)
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5.0))
        nn.init.constant_(self.lora_B, 0.0)

        # 5) dropout solo en la entrada de la rama, y el modo de la base
        self.dropout = nn.Dropout(dropout)
        if not base.training:
            self.eval()

        # 6) congelar la base
        if freeze_base:
            for parametro in base.parameters():
                parametro.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        salida = self.base(x)
        rama = self.dropout(x) @ self.lora_A.T
        rama = rama @ self.lora_B.T
        return salida + rama * self.scaling

    def merge_(self) -> None:
        peso = self.base.weight
        # se suma en float32 como mínimo y se redondea una sola vez
        if peso.dtype == torch.float64:
            ancho = torch.float64
        else:
            ancho = torch.float32
        with torch.no_grad():
            delta = self.lora_B.to(ancho) @ self.lora_A.to(ancho)
            suma = peso.to(ancho) + delta * self.scaling
            peso.copy_(suma)
            self.lora_A.zero_()
            self.lora_B.zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    # las bases de adaptadores anteriores no se vuelven a envolver
    ya_envueltas = set()
    for modulo in model.modules():
        if isinstance(modulo, LoRALinear):
            ya_envueltas.add(id(modulo.base))

    # buscar, sin cambiar nada todavía
    encontrados = []
    cuantos = dict.fromkeys(target_modules, 0)
    for nombre, modulo in model.named_modules(remove_duplicate=False):
        if not isinstance(modulo, nn.Linear) or id(modulo) in ya_envueltas:
            continue
        toca = False
        for objetivo in cuantos:
            if nombre == objetivo or nombre.endswith("." + objetivo):
                cuantos[objetivo] += 1
                toca = True
        if toca:
            encontrados.append((nombre, modulo))

    sin_pareja = [objetivo for objetivo, n in cuantos.items() if n == 0]
    if sin_pareja:
        raise ValueError(f"target_modules: ninguna capa por envolver para {sin_pareja}")

    # sustituir; una capa compartida recibe un solo adaptador
    adaptadores: dict[int, LoRALinear] = {}
    for nombre, modulo in encontrados:
        clave = id(modulo)
        if clave not in adaptadores:
            adaptadores[clave] = LoRALinear(modulo, r, alpha, dropout)
        padre, _, hijo = nombre.rpartition(".")
        setattr(model.get_submodule(padre), hijo, adaptadores[clave])

    # congelar todo lo que no sea A o B de un adaptador
    libres = set()
    for modulo in model.modules():
        if isinstance(modulo, LoRALinear):
            libres.add(id(modulo.lora_A))
            libres.add(id(modulo.lora_B))
    for parametro in model.parameters():
        if id(parametro) not in libres:
            parametro.requires_grad_(False)

    return [nombre for nombre, _ in encontrados]


def factores(model: nn.Module) -> dict[str, nn.Parameter]:
    """Nombre completo -> A o B, para cada adaptador."""
    tabla = {}
    for nombre, modulo in model.named_modules():
        if isinstance(modulo, LoRALinear):
            inicio = nombre + "." if nombre else ""
            tabla[inicio + "lora_A"] = modulo.lora_A
            tabla[inicio + "lora_B"] = modulo.lora_B
    return tabla


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {nombre: p.detach().clone() for nombre, p in factores(model).items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    tabla = factores(model)

    # primera pasada: solo comprobar
    faltan = [nombre for nombre in tabla if nombre not in state]
    sobran = [nombre for nombre in state if nombre not in tabla]
    if faltan or sobran:
        raise KeyError(f"state: faltan {faltan}, sobran {sobran}")
    for nombre, p in tabla.items():
        valor = state[nombre]
        if valor.shape != p.shape:
            raise ValueError(
                f"{nombre}: se esperaba {tuple(p.shape)}, llegó {tuple(valor.shape)}"
            )
        if not torch.isfinite(valor.to(p.dtype)).all():
            raise ValueError(f"{nombre}: hay NaN o infinito")

    # segunda pasada: escribir
    with torch.no_grad():
        for nombre, p in tabla.items():
            p.copy_(state[nombre])
