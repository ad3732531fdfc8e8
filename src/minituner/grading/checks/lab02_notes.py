"""Lab 02, task S3: the values of notes.md, measured anew as experiments/28-irregular-verbs does.

The base is read here and sent; 40 steps on its LayerNorms, without and with rehearsal, are the
worker's. Its Adam is torch's arithmetic in the same order. Leaves out: the comparison (notes.py).
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from torch import nn

from minituner import verbs
from minituner.corpora import LETTERS, Ids, verb_ids
from minituner.grading.expr import Expr, name
from minituner.grading.peer import Peer
from minituner.grading.talk import Talk
from minituner.recipe import Recipe
from minituner.verbbase import CONFIG, load_base

SEED, PART = 28, 50  # pairs of a batch in an evaluation
MEASURE_SECONDS = 20  # of CPU time: decoding token by token, in plain loops, takes 5
STAR, GIVEN, KIT = name("minituner.adapt"), name("minituner"), name("kit_02")


def measure(worker: Peer) -> dict[str, str]:
    """Key -> value as run.py writes it; adapt_sha256 apart."""
    w, parts = Talk(worker), verbs.split()
    lists = (verbs.irregular(), parts.control, parts.taught)
    sizes = [len(pairs) for pairs in lists]
    irregular, control, taught = (w.keep(_sent(verb_ids(pairs))) for pairs in lists)
    sets = {"irregular": (irregular, sizes[0]), "control": (control, sizes[1])}
    base = _norms_only(w)
    found: dict[str, Expr] = {
        f"base_{part}_match": STAR.exact_match(base, pairs, LETTERS.pad_id)
        for part, (pairs, _) in sets.items()
    }
    found["base_irregular_loss"] = _loss(base, *sets["irregular"])
    values = {key: w.ask(value) for key, value in found.items()}
    for way, share in (("naive", 0.0), ("rehearsed", 0.5)):
        model = _norms_only(w)
        chosen = Recipe(40, LETTERS.pad_id, 32, share, peak=0.02, warmup=5, every=40)
        w.do(w.kit.seed(SEED))
        trained = STAR.adapter_parameters(model)
        generator = w.torch.Generator().manual_seed(SEED)
        run = w.keep(GIVEN.recipe.Run(model, KIT.Adam(trained), generator))
        there, told = GIVEN.recipe.Recipe(**asdict(chosen)), KIT.Told(run, {})
        w.do(STAR.adapt(run, irregular, taught, there, told))
        for part, pair in sets.items():
            values[f"{way}_{part}_loss"] = w.ask(_loss(model, *pair))
    return {key: f"{float(value):.6g}" for key, value in values.items()}


def _sent(pairs: list[Ids]) -> list[Any]:
    return [(prompt, answer) for prompt, answer in pairs]


def _norms_only(w: Talk) -> Expr:
    """The base there, its LayerNorms alone to train."""
    base = load_base()
    model = w.keep(GIVEN.minigpt.MiniGPT(GIVEN.minigpt.MiniGPTConfig(**asdict(CONFIG))))
    w.do(model.load_state_dict(base.state_dict()))
    w.do(model.requires_grad_(False))
    for path, module in base.named_modules():
        if isinstance(module, nn.LayerNorm):
            w.do(model.get_submodule(path).requires_grad_(True))
    return model


def _loss(model: Expr, pairs: Expr, count: int) -> Expr:
    """evaluate() in batches of PART."""
    parts = [KIT.part(pairs, at, at + PART) for at in range(0, count, PART)]
    return STAR.evaluate(model, [STAR.padded(part, LETTERS.pad_id) for part in parts])
