"""Quien piensa en español: nombres, comentarios y mensajes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minituner import adapters
from minituner.adapters import Adapter, Base, adapters_of
from minituner.folders import Folder, read_folder, write_folder
from minituner.gpt2 import Conv1D, is_conv1d
from minituner.settings import PREFIX, Files, Pairs, Settings, from_files, to_files
from minituner.shelf import Held, Names, Shelf


def ancho(dtype: torch.dtype) -> torch.dtype:
    """El dtype en que se suma: con 16 bits, float32."""
    return torch.float32 if torch.finfo(dtype).bits < 32 else dtype


def clave(nombre: str, parte: str) -> str:
    """La clave de PEFT para la A o la B de un módulo."""
    return f"{PREFIX}{nombre}.lora_{parte}.weight"


def comprobar(bien: bool, mensaje: str) -> None:
    """ValueError si algo no está bien."""
    if not bien:
        raise ValueError(mensaje)


def por_fila(elegidos: Names, filas: int) -> list[str | None]:
    """Un nombre, o None, para cada fila."""
    return elegidos if isinstance(elegidos, list) else [elegidos] * filas


class LoRAConv1D(Adapter):
    """A frozen Conv1D with a trainable low-rank branch: y = x W + b + scaling · x Aᵀ Bᵀ."""

    base: Conv1D
    dropout: nn.Dropout  # of the branch's input, while training

    def __init__(
        self, base: nn.Module, r: int = 8, alpha: float = 16.0, dropout: float = 0.0
    ) -> None:
        """TypeError: base is not a Conv1D. ValueError: r < 1, or dropout outside [0, 1)."""
        super().__init__()
        if not is_conv1d(base):
            raise TypeError(f"base: se esperaba una Conv1D y llegó {type(base).__name__}")
        comprobar(r > 0, f"r: se esperaba al menos 1 y llegó {r}")
        comprobar(0 <= dropout < 1, f"dropout: se esperaba una probabilidad en [0, 1), llegó {dropout}")
        self.base = base
        self.r, self.alpha = r, alpha
        self.scaling = alpha / r  # la escala
        self.lora_A, self.lora_B = adapters.factors(base, r)
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)  # nace en el modo de su base
        for parametro in base.parameters():
            parametro.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        salida: Tensor = self.base(x)
        entrada: Tensor = self.dropout(x)
        rama = F.linear(F.linear(entrada, self.lora_A), self.scaling * self.lora_B)
        return salida + rama

    def merge_(self) -> None:
        """Fold the update into base.weight, then zero A and B; a second call changes nothing."""
        peso = self.base.weight
        dtype = ancho(peso.dtype)
        actualización = self.scaling * torch.matmul(self.lora_B.to(dtype), self.lora_A.to(dtype))
        with torch.no_grad():
            peso.copy_(peso.to(dtype) + actualización.t())
            nn.init.zeros_(self.lora_A)
            nn.init.zeros_(self.lora_B)


def wrap_gpt2_with_lora(
    model: nn.Module, targets: Sequence[str], r: int = 8, alpha: float = 16.0, dropout: float = 0.0
) -> list[str]:
    """Replace the targeted Conv1Ds by LoRAConv1D, in place; freeze all else; return their names.

    ValueError when a target, or none, matches a Conv1D still to be wrapped; nothing is changed.
    """
    encontradas, fallidos = adapters.targets_in(model, targets, is_conv1d)
    comprobar(not fallidos, f"targets: ninguna Conv1D sin envolver coincide con {fallidos}")
    comprobar(len(encontradas) > 0, "targets: se esperaba al menos un objetivo")
    envueltas: dict[Conv1D, LoRAConv1D] = {}
    for nombre, conv in encontradas.items():
        if conv not in envueltas:
            envueltas[conv] = LoRAConv1D(conv, r=r, alpha=alpha, dropout=dropout)
        adapters.place(model, nombre, envueltas[conv])
    adapters.freeze_all_but_adapters(model)
    return list(encontradas.keys())


class LoRAParametrization(nn.Module):
    """W ↦ W + scaling · B A, each time a layer's weight is read; transposed for a Conv1D."""

    scaling: float  # alpha / r
    transposed: bool  # the weight is (in_features, out_features)
    lora_A: nn.Parameter  # (r, in_features), the weight's dtype and device
    lora_B: nn.Parameter  # (out_features, r), the same

    def __init__(self, layer: Base, r: int = 8, alpha: float = 16.0) -> None:
        """It freezes layer, and is then registered on layer.weight. ValueError: r < 1."""
        super().__init__()
        comprobar(r > 0, f"r: se esperaba al menos 1 y llegó {r}")
        self.scaling = alpha / r
        self.transposed = is_conv1d(layer)
        self.lora_A, self.lora_B = adapters.factors(layer, r)
        layer.requires_grad_(False)

    def forward(self, weight: Tensor) -> Tensor:
        """The adapted weight, of the same shape."""
        actualización = self.scaling * torch.matmul(self.lora_B, self.lora_A)
        if self.transposed:
            actualización = actualización.t()
        return weight + actualización


def unwrap_merged(model: nn.Module) -> list[str]:
    """Merge every adapter, put its base back in its place, and return the names.

    ValueError: no adapter, or a base's weight is another module's, too (a tied head); as it was.
    """
    adaptadores = adapters_of(model)
    comprobar(len(adaptadores) > 0, "model: se esperaban adaptadores y no hay ninguno")
    dueños: dict[int, set[nn.Module]] = {}
    for módulo in model.modules():
        for parámetro in módulo.parameters(recurse=False):
            dueños.setdefault(id(parámetro), set()).add(módulo)
    for nombre, adaptador in adaptadores.items():
        comprobar(len(dueños[id(adaptador.base.weight)]) == 1, f"{nombre}: su peso está atado")
    for nombre, adaptador in adaptadores.items():
        adaptador.merge_()
        adapters.place(model, nombre, adaptador.base)
    return list(adaptadores.keys())


def adapter_files(model: nn.Module, base_name: str | None = None) -> dict[str, bytes]:
    """CONFIG and WEIGHTS of model's adapters, as PEFT reads them; the targets are full names.

    ValueError when there are none, or when one CONFIG cannot tell all: r, alpha, alpha / r.
    """
    adaptadores = adapters_of(model)
    comprobar(len(adaptadores) > 0, "model: se esperaban adaptadores y no hay ninguno")
    primero = next(iter(adaptadores.values()))
    for nombre, a in adaptadores.items():
        comprobar(a.r == primero.r, f"{nombre}: r es {a.r}, y en otro es {primero.r}")
        comprobar(a.alpha == primero.alpha, f"{nombre}: alpha es {a.alpha}, no {primero.alpha}")
        comprobar(a.scaling == a.alpha / a.r, f"{nombre}: la escala no es alpha / r")
        iguales = is_conv1d(a.base) == is_conv1d(primero.base)
        comprobar(iguales, f"{nombre}: hay bases lineales y bases Conv1D")
    tensores = {clave(n, "A"): a.lora_A.detach().clone() for n, a in adaptadores.items()}
    tensores |= {clave(n, "B"): a.lora_B.detach().clone() for n, a in adaptadores.items()}
    ajustes = Settings(primero.r, primero.alpha, tuple(adaptadores), is_conv1d(primero.base))
    return to_files(ajustes, tensores, base_name)


def read_adapter(files: Files) -> tuple[Settings, Pairs]:
    """An adapter from its two files; ValueError unless all that they say fits together."""
    ajustes, tensores = from_files(files)
    nombres = [c[len(PREFIX) : -len(".lora_A.weight")] for c in tensores if c.endswith("A.weight")]
    esperadas = {clave(nombre, parte) for nombre in nombres for parte in "AB"}
    comprobar(len(nombres) > 0, "files: no hay ningún adaptador")
    comprobar(esperadas == set(tensores), f"files: sobran o faltan {esperadas ^ set(tensores)}")
    pares = {n: (tensores[clave(n, "A")], tensores[clave(n, "B")]) for n in nombres}
    for nombre, (a, b) in pares.items():
        comprobar(a.ndim == 2 and b.ndim == 2, f"{nombre}: se esperaban dos matrices")
        comprobar(a.size(0) == ajustes.r, f"{nombre}: A tiene rango {a.size(0)}, no {ajustes.r}")
        comprobar(b.size(1) == ajustes.r, f"{nombre}: B tiene rango {b.size(1)}, no {ajustes.r}")
        for valor in (a, b):
            comprobar(bool(torch.isfinite(valor).all()), f"{nombre}: hay NaN o infinitos")
    sueltos = adapters.unmatched(nombres, ajustes.targets)
    comprobar(not sueltos, f"target_modules: no encajan {sueltos}")
    return ajustes, pares


def fill(model: nn.Module, files: Files) -> None:
    """Copy an adapter into the Parameters of model's adapters; ValueError first, if unlike them."""
    ajustes, pares = read_adapter(files)
    propios = adapters_of(model)
    comprobar(propios.keys() == pares.keys(), f"files: otros módulos, {sorted(pares)}")
    for nombre, a in propios.items():
        comprobar(a.r == ajustes.r, f"{nombre}: r es {a.r}, y en el archivo {ajustes.r}")
        comprobar(a.alpha == ajustes.alpha, f"{nombre}: alpha es {a.alpha}, no {ajustes.alpha}")
        comprobar(a.scaling == ajustes.alpha / ajustes.r, f"{nombre}: otra escala, {a.scaling}")
        for parámetro, valor in zip((a.lora_A, a.lora_B), pares[nombre], strict=True):
            comprobar(parámetro.shape == valor.shape, f"{nombre}: otra forma, {tuple(valor.shape)}")
            redondeado = valor.to(parámetro.dtype)
            comprobar(bool(redondeado.isfinite().all()), f"{nombre}: hay valores que aquí no caben")
    with torch.no_grad():
        for nombre, a in propios.items():
            a.lora_A.copy_(pares[nombre][0])
            a.lora_B.copy_(pares[nombre][1])


def save_adapter(model: nn.Module, folder: Folder, base_name: str | None = None) -> None:
    """Write model's adapters into folder, whole or not at all; nothing of the base."""
    write_folder(folder, adapter_files(model, base_name))


def load_adapter(model: nn.Module, folder: Folder) -> None:
    """Fill model's adapters from folder; ValueError, and model as it was, if they do not fit."""
    fill(model, read_folder(folder))


def adapted(shelf: Shelf, name: str, x: Tensor, out: Tensor) -> Tensor:
    """out, plus each row's update by its adapter (axis 0); ValueError if chosen has other rows."""
    elegidos = por_fila(shelf.chosen, len(x))
    comprobar(len(elegidos) == len(x), f"chosen: {len(elegidos)} nombres para {len(x)} filas")
    for adaptador in sorted({elegido for elegido in elegidos if elegido is not None}):
        guardado = shelf.held[adaptador]
        if name not in guardado.pairs:
            continue
        a, b = guardado.pairs[name]
        filas = torch.tensor([e == adaptador for e in elegidos], device=x.device).nonzero().flatten()
        suma = out.index_select(0, filas) + guardado.scaling * F.linear(F.linear(x[filas], a), b)
        out = out.index_copy(0, filas, suma)
    return out


def attach(shelf: Shelf, name: str, files: Files) -> None:
    """Put an adapter on the shelf; ValueError if name is taken or it does not fit shelf.model."""
    comprobar(name not in shelf.held, f"name: {name!r} ya está en el estante")
    ajustes, pares = read_adapter(files)
    for ruta, (a, b) in pares.items():
        base = shelf.bases.get(ruta)
        if base is None:
            raise ValueError(f"{ruta}: el modelo no tiene ese módulo")
        entrada, salida = adapters.sizes(base)
        comprobar(a.size(1) == entrada and b.size(0) == salida, f"{ruta}: otros tamaños")
        pares[ruta] = (a.to(base.weight), b.to(base.weight))
    shelf.held[name] = Held(scaling=ajustes.alpha / ajustes.r, pairs=pares)


def switch(shelf: Shelf, names: Names) -> None:
    """Choose one adapter, none, or one for each row; ValueError if one is not on the shelf."""
    pedidos = list(names) if isinstance(names, list) else [names]
    for pedido in pedidos:
        comprobar(pedido is None or pedido in shelf.held, f"names: {pedido!r} no está en el estante")
    shelf.chosen = pedidos if isinstance(names, list) else names


def detach(shelf: Shelf, name: str) -> None:
    """Take an adapter off the shelf; whoever had it has none now. ValueError if it is not there."""
    comprobar(name in shelf.held, f"name: {name!r} no está en el estante")
    shelf.held.pop(name)
    if isinstance(shelf.chosen, list):
        shelf.chosen = [None if fila == name else fila for fila in shelf.chosen]
    elif shelf.chosen == name:
        shelf.chosen = None
