"""Quien piensa en español: nombres, comentarios y mensajes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

RANK_TOLERANCE = 1e-6  # a singular value up to this share of the largest counts as zero
SCALING_RULES = ("alpha/r", "alpha/sqrt(r)")


@dataclass(frozen=True)
class LinearShape:
    """A linear that could carry an adapter."""

    name: str  # dotted, as in model.named_modules()
    in_features: int
    out_features: int


@dataclass(frozen=True)
class Plan:
    """What a budget buys on one set of targets."""

    rank: int  # the same for every linear of the set
    linears: int  # how many the set matches
    parameters: int  # trained in all, at most the budget


def as_matrix(name: str, value: Tensor) -> Tensor:
    """The value as a detached float64 matrix; a float64 one shares its memory, so only read it.

    Raises:
        ValueError: not two axes, an empty one, NaN or infinity; the message says name.
    """
    wide = value.detach().to(torch.float64)
    if wide.ndim != 2 or 0 in wide.shape:
        raise ValueError(f"{name}: expected a matrix (out, in), got shape {tuple(wide.shape)}")
    if not wide.isfinite().all():
        raise ValueError(f"{name}: expected finite values, got NaN or infinity")
    return wide


def as_spectrum(value: Tensor) -> Tensor:
    """The value as float64 singular values, largest first.

    Raises:
        ValueError: not one axis, an empty one, NaN, infinity or a negative value.
    """
    wide = value.detach().to(torch.float64)
    if wide.ndim != 1 or not len(wide):
        raise ValueError(f"spectrum: expected one axis of values, got shape {tuple(wide.shape)}")
    if not (wide.isfinite() & (wide >= 0)).all():
        raise ValueError(f"spectrum: expected finite values of at least 0, got {wide.tolist()}")
    return wide.sort(descending=True).values


def _valores_y_direcciones(nombre: str, matriz: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """La SVD reducida: izquierda (out, k), valores (k,), derecha (k, in)."""
    izquierda, valores, derecha = torch.linalg.svd(as_matrix(nombre, matriz), full_matrices=False)
    return izquierda, valores, derecha


def weight_update(before: Tensor, after: Tensor) -> Tensor:
    """Lo que cambió el peso: después menos antes."""
    antes, despues = as_matrix("before", before), as_matrix("after", after)
    if antes.shape != despues.shape:
        raise ValueError(f"after: se esperaba {tuple(antes.shape)}, llegó {tuple(despues.shape)}")
    return despues - antes


def singular_spectrum(delta: Tensor) -> Tensor:
    """Los valores singulares, de mayor a menor."""
    return _valores_y_direcciones("delta", delta)[1]


def energy_rank(spectrum: Tensor, share: float = 0.9) -> int:
    """Cuántos valores reúnen la parte pedida de la energía."""
    if not 0 < share <= 1:
        raise ValueError(f"share: se esperaba un número en (0, 1], llegó {share}")
    energia = as_spectrum(spectrum) ** 2
    if energia.max() == 0:
        return 0
    # La cola que falta después de cada k; basta con que no pase de lo que se perdona.
    acumulada = energia.cumsum(dim=0)
    for k, hasta_aqui in enumerate(acumulada, start=1):
        if hasta_aqui >= share * acumulada[-1]:
            return k
    return len(energia)


def entropy_rank(spectrum: Tensor) -> float:
    """La exponencial de la entropía de los valores repartidos."""
    valores = as_spectrum(spectrum)
    positivos = valores[valores > 0]
    if positivos.numel() == 0:
        return 0.0
    reparto = positivos / positivos.sum()
    entropia = -torch.sum(reparto * torch.log(reparto))
    return math.exp(entropia.item())


def best_factors(delta: Tensor, r: int, scaling: float = 1.0) -> tuple[Tensor, Tensor]:
    """A y B equilibradas; los huecos de sobra se llenan con ceros."""
    if r < 1:
        raise ValueError(f"r: se esperaba al menos 1, llegó {r}")
    if scaling <= 0 or not math.isfinite(scaling):
        raise ValueError(f"scaling: se esperaba un número finito mayor que 0, llegó {scaling}")
    izquierda, valores, derecha = _valores_y_direcciones("delta", delta)
    filas, columnas = izquierda.shape[0], derecha.shape[1]
    renglones_de_A: list[Tensor] = []
    columnas_de_B: list[Tensor] = []
    for k in range(r):
        if k < len(valores):
            mitad = (valores[k] / scaling).sqrt()
            renglones_de_A.append(mitad * derecha[k])
            columnas_de_B.append(mitad * izquierda[:, k])
        else:
            renglones_de_A.append(torch.zeros(columnas, dtype=torch.float64))
            columnas_de_B.append(torch.zeros(filas, dtype=torch.float64))
    return torch.stack(renglones_de_A), torch.stack(columnas_de_B, dim=1)


def truncation_error(spectrum: Tensor, r: int) -> float:
    """Lo que queda fuera, en norma de Frobenius."""
    if r < 0:
        raise ValueError(f"r: se esperaba al menos 0, llegó {r}")
    cola = as_spectrum(spectrum)[r:]
    return math.sqrt(float(torch.dot(cola, cola)))


def right_directions(A: Tensor) -> Tensor:
    """Las direcciones de entrada que A de verdad lee."""
    _, valores, derecha = _valores_y_direcciones("A", A)
    umbral = RANK_TOLERANCE * valores.max()
    return derecha[valores > umbral]


def _mismo_ancho(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    primeras, segundas = right_directions(first), right_directions(second)
    if primeras.shape[1] != segundas.shape[1]:
        raise ValueError(
            f"second: ancho {segundas.shape[1]}, pero first tiene {primeras.shape[1]} columnas"
        )
    return primeras, segundas


def subspace_similarity(first: Tensor, second: Tensor, i: int, j: int) -> float:
    """La media de los cosenos al cuadrado entre los dos subespacios."""
    primeras, segundas = _mismo_ancho(first, second)
    if i < 1 or i > len(primeras):
        raise ValueError(f"i: se esperaba de 1 a {len(primeras)}, llegó {i}")
    if j < 1 or j > len(segundas):
        raise ValueError(f"j: se esperaba de 1 a {len(segundas)}, llegó {j}")
    cosenos = primeras[:i] @ segundas[:j].T
    return float(cosenos.norm() ** 2) / min(i, j)


def similarity_grid(first: Tensor, second: Tensor) -> Tensor:
    """Todas las parejas (i, j), sumando cada esquina a partir de la anterior."""
    primeras, segundas = _mismo_ancho(first, second)
    cuadrados = (primeras @ segundas.T) ** 2
    tabla = torch.zeros(len(primeras) + 1, len(segundas) + 1, dtype=torch.float64)
    for i in range(len(primeras)):
        for j in range(len(segundas)):
            tabla[i + 1, j + 1] = cuadrados[i, j] + tabla[i, j + 1] + tabla[i + 1, j] - tabla[i, j]
    for i in range(1, len(primeras) + 1):
        for j in range(1, len(segundas) + 1):
            tabla[i, j] /= min(i, j)
    return tabla[1:, 1:]


def equal_budget_rank(shapes: Sequence[LinearShape], budget: int) -> int:
    """El mayor rango que cabe en el presupuesto."""
    if not shapes:
        raise ValueError("shapes: no hay ninguna capa")
    precio = sum(capa.in_features for capa in shapes) + sum(capa.out_features for capa in shapes)
    if budget < precio:
        raise ValueError(f"budget: el rango 1 cuesta {precio}, llegó {budget}")
    return int(math.floor(budget / precio))


def rank_plan(
    shapes: Sequence[LinearShape], target_sets: Mapping[str, Sequence[str]], budget: int
) -> dict[str, Plan]:
    """Un plan por etiqueta, en su orden."""
    planes: dict[str, Plan] = {}
    for etiqueta, objetivos in target_sets.items():
        elegidas: set[str] = set()
        for objetivo in objetivos:
            partes = objetivo.split(".")
            aciertos = {c.name for c in shapes if c.name.split(".")[-len(partes) :] == partes}
            if not aciertos:
                raise ValueError(f"{etiqueta}: ninguna capa se llama {objetivo}")
            elegidas |= aciertos
        capas = [capa for capa in shapes if capa.name in elegidas]
        rango = equal_budget_rank(capas, budget)
        total = sum(rango * capa.in_features + rango * capa.out_features for capa in capas)
        planes[etiqueta] = Plan(rank=rango, linears=len(capas), parameters=total)
    return planes


def scaling_factor(alpha: float, r: int, rule: str = "alpha/r") -> float:
    """La escala de la rama."""
    if r < 1:
        raise ValueError(f"r: se esperaba al menos 1, llegó {r}")
    divisores = {"alpha/r": float(r), "alpha/sqrt(r)": math.sqrt(r)}
    if rule not in divisores:
        raise ValueError(f"rule: se esperaba una de {SCALING_RULES}, llegó {rule}")
    return alpha / divisores[rule]
