"""El estilo de alguien que piensa en español: nombres, comentarios y mensajes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from minituner.minigpt import MiniGPTConfig
from minituner.published import QUANTITIES, UNITS, Claim
from minituner.tally import LinearShape, Memory, ParamCount, Verdict

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")
FLOAT32 = 4
MEDIA = 2  # bytes de un número en 16 bits
MOMENTOS = {"adam": 2, "sgd": 0}


def _exigir_positivo(nombre: str, valor: int) -> None:
    if valor < 1:
        raise ValueError(f"{nombre} debe ser al menos 1; recibí {valor}")


def _exigir_no_negativo(nombre: str, valor: int) -> None:
    if valor < 0:
        raise ValueError(f"{nombre} no puede ser negativo; recibí {valor}")


def _hacia_arriba(cantidad: int, tamaño: int) -> int:
    """Cuántos paquetes de ese tamaño hacen falta."""
    return (cantidad + tamaño - 1) // tamaño


def lora_param_count(in_features: int, out_features: int, r: int) -> int:
    _exigir_positivo("in_features", in_features)
    _exigir_positivo("out_features", out_features)
    _exigir_positivo("r", r)
    parámetros_de_a = r * in_features
    parámetros_de_b = out_features * r
    return parámetros_de_a + parámetros_de_b


def linear_inventory(model: nn.Module) -> list[LinearShape]:
    inventario: list[LinearShape] = []
    for nombre, módulo in model.named_modules():
        if isinstance(módulo, nn.Linear):
            tiene_sesgo = módulo.bias is not None
            inventario.append(
                LinearShape(nombre, módulo.in_features, módulo.out_features, tiene_sesgo)
            )
    return inventario


def count_params(model: nn.Module) -> ParamCount:
    entrenables = [p for p in model.parameters() if p.requires_grad]
    congelados = [p for p in model.parameters() if not p.requires_grad]
    return ParamCount(sum(p.numel() for p in entrenables), sum(p.numel() for p in congelados))


def wrapped_count(
    model: nn.Module, r: int = 8, target_modules: Sequence[str] = MINIGPT_LINEARS
) -> ParamCount:
    _exigir_positivo("r", r)
    elegidos: dict[int, int] = {}  # id del módulo -> parámetros de su adaptador
    cumplidos: set[str] = set()
    for nombre, módulo in model.named_modules(remove_duplicate=False):
        if not isinstance(módulo, nn.Linear):
            continue
        for objetivo in target_modules:
            if nombre == objetivo or nombre.endswith("." + objetivo):
                cumplidos.add(objetivo)
                elegidos[id(módulo)] = lora_param_count(módulo.in_features, módulo.out_features, r)
    huérfanos = sorted(set(target_modules) - cumplidos)
    if huérfanos:
        raise ValueError(f"target_modules: ningún nn.Linear coincide con {', '.join(huérfanos)}")
    # Al envolver se congela todo lo que ya estaba.
    todo = count_params(model)
    return ParamCount(sum(elegidos.values()), todo.trainable + todo.frozen)


def compression_ratio(in_features: int, out_features: int, r: int) -> float:
    return (in_features * out_features) / lora_param_count(in_features, out_features, r)


def break_even_rank(in_features: int, out_features: int) -> int:
    _exigir_positivo("in_features", in_features)
    _exigir_positivo("out_features", out_features)
    return _hacia_arriba(in_features * out_features, in_features + out_features)


def full_finetune_memory(
    params: int, *, optimizer: str = "adam", mixed: bool = False, activations: int = 0
) -> Memory:
    _exigir_no_negativo("params", params)
    _exigir_no_negativo("activations", activations)
    if optimizer not in MOMENTOS:
        raise ValueError(f"optimizer: no conozco {optimizer!r}; conozco {', '.join(MOMENTOS)}")
    ancho = MEDIA if mixed else FLOAT32
    copia_maestra = FLOAT32 if mixed else 0
    estado = FLOAT32 * MOMENTOS[optimizer] + copia_maestra
    return Memory(
        weights=ancho * params,
        gradients=ancho * params,
        optimizer=estado * params,
        activations=activations,
    )


def lora_memory(
    frozen: int,
    trainable: int,
    *,
    optimizer: str = "adam",
    weight_bytes: int = FLOAT32,
    activations: int = 0,
) -> Memory:
    _exigir_no_negativo("frozen", frozen)
    _exigir_no_negativo("trainable", trainable)
    if weight_bytes not in (MEDIA, FLOAT32):
        raise ValueError(f"weight_bytes debe ser 2 o 4; recibí {weight_bytes}")
    base = Memory(weights=weight_bytes * frozen)
    adaptadores = full_finetune_memory(trainable, optimizer=optimizer)
    return base + adaptadores + Memory(activations=activations)


def nf4_bytes(
    params: int, block_size: int = 64, double_quant: bool = True, double_block_size: int = 256
) -> int:
    _exigir_no_negativo("params", params)
    _exigir_positivo("block_size", block_size)
    _exigir_positivo("double_block_size", double_block_size)
    códigos = _hacia_arriba(params, 2)
    bloques = _hacia_arriba(params, block_size)
    if double_quant:
        constantes = bloques + FLOAT32 * _hacia_arriba(bloques, double_block_size)
    else:
        constantes = FLOAT32 * bloques
    return códigos + constantes


def qlora_memory(
    quantised: int, others: int, trainable: int, *, optimizer: str = "adam", activations: int = 0
) -> Memory:
    _exigir_no_negativo("quantised", quantised)
    _exigir_no_negativo("others", others)
    _exigir_no_negativo("trainable", trainable)
    pesos = nf4_bytes(quantised) + MEDIA * others + FLOAT32 * trainable
    estado = FLOAT32 * MOMENTOS.get(optimizer, -1) * trainable
    if estado < 0 or optimizer not in MOMENTOS:
        raise ValueError(f"optimizer: no conozco {optimizer!r}")
    return Memory(pesos, FLOAT32 * trainable, estado, activations)


def linear_activations(
    in_features: int, tokens: int, *, mode: str = "full", r: int = 8, element_size: int = FLOAT32
) -> int:
    if mode not in ("full", "frozen", "lora"):
        raise ValueError(f"mode debe ser full, frozen o lora; recibí {mode!r}")
    if mode == "lora":
        _exigir_positivo("r", r)
    por_token = 0
    if mode != "frozen":
        por_token += in_features  # x, para dW o para dA
    if mode == "lora":
        por_token += r  # h = A x, para dB
    return por_token * tokens * element_size


def minigpt_activations(
    config: MiniGPTConfig, batch: int, seq: int, *, r: int | None = None
) -> int:
    _exigir_positivo("batch", batch)
    _exigir_positivo("seq", seq)
    if r is not None:
        _exigir_positivo("r", r)
    d, capas = config.d_model, config.n_layer
    completo = r is None
    normas = 2 * capas + 1 if completo else 2 * capas
    por_token = normas * (d + 2)
    por_token += capas * (d + 3 * d + d + config.n_head)  # lo que leen q, k, v; q, k, v; atención
    por_token += capas * (d + 2 * config.d_ff)  # fc1, GELU, fc2
    por_token += d if completo else 0  # lm_head
    por_token += 0 if r is None else capas * 6 * r
    índices = batch * seq + seq if completo else 0
    return FLOAT32 * por_token * batch * seq + 8 * índices


def truth(claim: Claim) -> float:
    if claim.quantity not in QUANTITIES:
        raise ValueError(f"quantity: no sé calcular {claim.quantity!r}")
    cantidad = claim.quantity
    if cantidad == "quotient":
        primero, segundo = claim.parts
        valor = primero / segundo
    elif cantidad == "stored":
        valor = claim.params * claim.bytes_each
    elif cantidad == "training":
        valor = full_finetune_memory(claim.params, mixed=True).total
    elif cantidad == "constants":
        valor = 8 * (nf4_bytes(claim.params) - claim.params / 2) / claim.params
    elif cantidad == "double quantisation":
        valor = nf4_bytes(claim.params, double_quant=False) - nf4_bytes(claim.params)
    elif cantidad == "entries":
        valor = sum(m.copies * m.in_features * m.out_features for m in claim.matrices)
    else:
        adaptador = sum(
            m.copies * lora_param_count(m.in_features, m.out_features, claim.r)
            for m in claim.matrices
        )
        if cantidad == "adapter":
            valor = adaptador
        elif cantidad == "share":
            valor = adaptador / claim.params
        elif cantidad == "fewer":
            valor = claim.params / adaptador
        else:
            valor = adaptador * claim.bytes_each
    return valor / UNITS[claim.unit]


def audit(claims: Iterable[Claim]) -> list[Verdict]:
    veredictos: list[Verdict] = []
    for afirmación in claims:
        verdad = truth(afirmación)
        if afirmación.relation == "=":
            se_sostiene = abs(verdad - afirmación.published) <= 0.5 * afirmación.step
        elif afirmación.relation == "<":
            se_sostiene = verdad < afirmación.published
        elif afirmación.relation == ">":
            se_sostiene = verdad > afirmación.published
        else:
            raise ValueError(f"relation: no conozco {afirmación.relation!r}")
        veredictos.append(Verdict(afirmación, verdad, se_sostiene))
    return veredictos
