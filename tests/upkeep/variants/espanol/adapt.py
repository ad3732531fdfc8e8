"""Adaptar un modelo sin que olvide. Nombres y comentarios en español."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from minituner.recipe import IGNORE, Batch, Checkpoint, Pair, Recipe, Run


def padded(pairs: Sequence[Pair], pad_id: int) -> Batch:
    """Consulta y respuesta en una sola fila, rellena por la derecha."""
    vacíos = [i for i, (consulta, respuesta) in enumerate(pairs) if not (len(consulta) and len(respuesta))]
    if vacíos or len(pairs) == 0:
        raise ValueError(f"pairs: hay partes vacías en {vacíos}, o no hay pares")
    entradas, objetivos = [], []
    for consulta, respuesta in pairs:
        fila = torch.tensor([*consulta, *respuesta])
        meta = fila.clone()
        meta[: len(consulta)] = IGNORE  # la consulta no cuenta
        entradas.append(fila[:-1])
        objetivos.append(meta[1:])
    return (
        pad_sequence(entradas, batch_first=True, padding_value=pad_id),
        pad_sequence(objetivos, batch_first=True, padding_value=IGNORE),
    )


def masked_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Entropía cruzada media, en nats, sobre lo que cuenta."""
    cuántos = int((targets != IGNORE).sum())
    if cuántos == 0:
        raise ValueError("targets: ninguno cuenta")
    suma = F.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), ignore_index=IGNORE, reduction="sum"
    )
    return suma / cuántos


def rehearsed(
    new: Sequence[Pair], old: Sequence[Pair], size: int, share: float, generator: torch.Generator
) -> list[Pair]:
    """Primero el repaso, luego lo nuevo."""
    if not (0.0 <= share < 1.0):
        raise ValueError(f"share: se esperaba un número de [0, 1), y es {share}")

    def sorteo(pares: Sequence[Pair], veces: int) -> list[Pair]:
        if veces == 0:
            return []
        pesos = torch.ones(len(pares))
        elegidos: list[int] = torch.multinomial(
            pesos, veces, replacement=True, generator=generator
        ).tolist()
        return [pares[i] for i in elegidos]

    viejos = round(share * size)
    return sorteo(old, viejos) + sorteo(new, size - viejos)


def adapter_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Lo que se entrena, en el orden del modelo."""
    entrenables = [parámetro for parámetro in model.parameters() if parámetro.requires_grad]
    if entrenables == []:
        raise ValueError("model: todo está congelado")
    return entrenables


def learning_rate(step: int, recipe: Recipe) -> float:
    """Calentamiento en línea recta, luego medio coseno."""
    if step < recipe.warmup:
        return (step + 1) * recipe.peak / recipe.warmup
    avance = (min(step, recipe.steps) - recipe.warmup) / (recipe.steps - recipe.warmup)
    peso = math.cos(avance * math.pi / 2) ** 2  # (1 + cos x) / 2 = cos²(x / 2)
    return peso * recipe.peak + (1 - peso) * recipe.floor


def clip_(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Una sola norma para todos los gradientes."""
    gradientes = [p.grad for p in parameters if p.grad is not None]
    norma = float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradientes])))
    if not math.isfinite(norma):
        raise ValueError(f"el gradiente no es finito: su norma es {norma}")
    if norma > max_norm:
        factor = max_norm / norma
        for gradiente in gradientes:
            gradiente.mul_(factor)
    return norma


def train_step(run: Run, batch: Batch, recipe: Recipe) -> float:
    """Un paso: poner a cero, pérdida, gradiente, recorte, tasa, paso."""
    entradas, objetivos = batch
    run.model.train()
    tasa = learning_rate(run.step, recipe)
    for grupo in run.optimizer.param_groups:
        grupo["lr"] = tasa
    run.optimizer.zero_grad()
    pérdida = masked_loss(run.model(entradas), objetivos)
    torch.autograd.backward(pérdida)
    clip_(adapter_parameters(run.model), recipe.max_norm)
    run.optimizer.step()
    run.step += 1
    return pérdida.item()


@torch.no_grad()
def predict(model: nn.Module, inputs: Tensor) -> Tensor:
    """Los logits en modo eval; después, cada módulo en el modo que tenía."""
    modos = [módulo.training for módulo in model.modules()]
    try:
        logits: Tensor = model.eval()(inputs)
    finally:
        for módulo, modo in zip(model.modules(), modos, strict=True):
            módulo.training = modo
    return logits


def evaluate(model: nn.Module, batches: Sequence[Batch]) -> float:
    """Media por token, no por lote."""
    suma, tokens = 0.0, 0
    for entradas, objetivos in batches:
        logits = predict(model, entradas)
        cuentan = objetivos != IGNORE
        suma += F.cross_entropy(logits[cuentan], objetivos[cuentan], reduction="sum").item()
        tokens += int(cuentan.sum())
    return suma / tokens


def exact_match(model: nn.Module, pairs: Sequence[Pair], pad_id: int) -> float:
    """Todas las consultas de la misma longitud se decodifican juntas."""
    aciertos = 0
    for longitud in {len(consulta) for consulta, _ in pairs}:
        grupo = [(list(c), list(r)) for c, r in pairs if len(c) == longitud]
        filas = torch.tensor([c for c, _ in grupo])
        for _ in range(max(len(r) for _, r in grupo)):
            siguiente = predict(model, filas)[:, -1].argmax(dim=-1, keepdim=True)
            filas = torch.cat((filas, siguiente), dim=1)
        dichas: list[list[int]] = filas[:, longitud:].tolist()
        aciertos += sum(dicha[: len(r)] == r for dicha, (_, r) in zip(dichas, grupo, strict=True))
    return aciertos / len(pairs)


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """Copias separadas, por nombre completo."""
    return {
        nombre: parámetro.detach().clone()
        for nombre, parámetro in model.named_parameters()
        if parámetro.requires_grad
    }


def keep(run: Run, learned: float, control: float, lowest: float) -> bool:
    """Guarda los adaptadores si son los mejores y el control se sostiene."""
    aprendido, sostenido = run.best
    gana = learned > aprendido or (learned == aprendido and control > sostenido)
    if gana and control >= lowest:
        run.best = learned, control
        run.kept = adapter_state(run.model)
        run.since = 0
    else:
        run.since += 1
        gana = False
    return gana


def check_adapters(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Nombra cada entrada que no encaja."""
    propias = {nombre: tuple(valor.shape) for nombre, valor in adapter_state(model).items()}
    ajenas = {nombre: tuple(valor.shape) for nombre, valor in state.items()}
    faltan = sorted(propias.keys() - ajenas.keys())
    sobran = sorted(ajenas.keys() - propias.keys())
    distintas = sorted(n for n in propias.keys() & ajenas.keys() if propias[n] != ajenas[n])
    if faltan or sobran or distintas:
        raise ValueError(f"state: faltan {faltan}, sobran {sobran}, con otra forma {distintas}")


def load_adapters(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copia en los Parameter que ya existen."""
    check_adapters(model, state)
    model.load_state_dict(dict(state), strict=False)


def checkpoint(run: Run) -> Checkpoint:
    """Todo lo que la ejecución necesita para seguir."""
    return Checkpoint(
        step=run.step,
        best=run.best,
        since=run.since,
        kept=copy.deepcopy(run.kept),
        adapters=adapter_state(run.model),
        optimizer=copy.deepcopy(run.optimizer.state_dict()),
        batch_rng=run.generator.get_state(),
        torch_rng=torch.default_generator.get_state(),
    )


def restore(run: Run, state: Checkpoint) -> None:
    """Entero o nada: primero lo que puede negarse."""
    check_adapters(run.model, state["adapters"])
    run.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
    load_adapters(run.model, state["adapters"])
    run.step = state["step"]
    run.best = state["best"]
    run.since = state["since"]
    run.kept = copy.deepcopy(state["kept"])
    run.generator.set_state(state["batch_rng"])
    torch.default_generator.set_state(state["torch_rng"])


def adapt(
    run: Run,
    new: Sequence[Pair],
    old: Sequence[Pair],
    recipe: Recipe,
    measure: Callable[[nn.Module], tuple[float, float]],
    until: int | None = None,
) -> list[float]:
    """Entrena hasta un paso, hasta el final o hasta que se agote la paciencia."""
    pérdidas: list[float] = []
    tope = recipe.steps if until is None else min(until, recipe.steps)
    for _ in range(max(0, tope - run.step)):
        if run.since >= recipe.patience:
            break
        lote = rehearsed(new, old, recipe.size, recipe.share, run.generator)
        pérdidas.append(train_step(run, padded(lote, recipe.pad_id), recipe))
        toca = run.step % recipe.every == 0
        if toca or run.step == recipe.steps:
            aprendido, control = measure(run.model)
            keep(run, aprendido, control, recipe.lowest)
    return pérdidas
