"""LoRA von Hand: y = W x + b + (alpha / r) B A x."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class LoRALinear(nn.Module):
    """Eine lineare Schicht mit einem Zweig von niedrigem Rang."""

    def __init__(
        self,
        base: nn.Linear,
        r: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        freeze_base: bool = True,
    ) -> None:
        super().__init__()
        # Argumente prüfen
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base: nn.Linear erwartet, {type(base).__name__} bekommen")
        if r < 1:
            raise ValueError(f"r: mindestens (at least) 1 erwartet, {r} bekommen")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout: Wert in [0, 1) erwartet, {dropout} bekommen")

        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r

        # A liest die Eingabe, B schreibt die Ausgabe
        gewicht = base.weight
        self.lora_A = nn.Parameter(torch.empty(r, base.in_features).to(gewicht))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, r).to(gewicht))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

        # Dropout nur vor A; Modus von der Basis übernehmen
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)

        # Basis einfrieren
        if freeze_base:
            for parameter in base.parameters():
                parameter.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        basis: Tensor = self.base(x)
        zweig = F.linear(F.linear(self.dropout(x), self.lora_A), self.lora_B)
        return basis + self.scaling * zweig

    def merge_(self) -> None:
        # wer schon verschmolzen ist, hat nichts mehr zu verschmelzen
        if not self.lora_A.any() and not self.lora_B.any():
            raise RuntimeError("merge_: adapter is already merged")
        gewicht = self.base.weight
        breit = torch.promote_types(gewicht.dtype, torch.float32)
        with torch.no_grad():
            zuwachs = self.scaling * torch.mm(self.lora_B.to(breit), self.lora_A.to(breit))
            gewicht.copy_(gewicht.to(breit) + zuwachs)  # hier wird einmal gerundet
            self.lora_A.zero_()
            self.lora_B.zero_()


def _adapter(modell: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    for name, modul in modell.named_modules():
        if isinstance(modul, LoRALinear):
            yield (name + "." if name else ""), modul


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    # erst suchen, ohne etwas zu ändern
    vergeben = {id(adapter.base) for _, adapter in _adapter(model)}
    treffer: dict[str, nn.Linear] = {}
    offen = set(target_modules)
    for name, modul in model.named_modules(remove_duplicate=False):
        if not isinstance(modul, nn.Linear) or id(modul) in vergeben:
            continue
        for ziel in target_modules:
            if name == ziel or name.endswith("." + ziel):
                treffer[name] = modul
                offen.discard(ziel)
    if offen:
        raise ValueError(f"target_modules: keine freie lineare Schicht für {sorted(offen)}")

    # dann ersetzen; geteilte Schichten bekommen einen gemeinsamen Adapter
    neu: dict[int, LoRALinear] = {}
    for name, schicht in treffer.items():
        if id(schicht) not in neu:
            neu[id(schicht)] = LoRALinear(schicht, r=r, alpha=alpha, dropout=dropout)
        eltern, _, kind = name.rpartition(".")
        setattr(model.get_submodule(eltern), kind, neu[id(schicht)])

    # zuletzt alles einfrieren, was kein A und kein B ist
    frei = {id(p) for _, a in _adapter(model) for p in (a.lora_A, a.lora_B)}
    for parameter in model.parameters():
        if id(parameter) not in frei:
            parameter.requires_grad_(False)
    return list(treffer)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    zustand: dict[str, Tensor] = {}
    for pfad, adapter in _adapter(model):
        zustand[pfad + "lora_A"] = adapter.lora_A.detach().clone()
        zustand[pfad + "lora_B"] = adapter.lora_B.detach().clone()
    return zustand


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    eigene = lora_state_dict(model)
    # Namen vergleichen, in beide Richtungen
    fehlend = sorted(eigene.keys() - state.keys())
    fremd = sorted(state.keys() - eigene.keys())
    if fehlend or fremd:
        raise KeyError(f"state: es fehlen {fehlend}, unbekannt sind {fremd}")
    # Formen und Werte
    for name, alt in eigene.items():
        wert = state[name]
        if wert.shape != alt.shape:
            raise ValueError(f"{name}: {tuple(alt.shape)} erwartet, {tuple(wert.shape)} bekommen")
        if not wert.to(alt.dtype).isfinite().all():
            raise ValueError(f"{name}: NaN oder unendlich")
    # erst jetzt schreiben; A ist nur die zufällige Projektion, gelernt wird B
    with torch.no_grad():
        for pfad, adapter in _adapter(model):
            adapter.lora_B.copy_(state[pfad + "lora_B"])
