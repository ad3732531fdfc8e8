"""Lab 04, task D2: two files, which the judge writes itself, read strictly.

Leaves out: writing (lab04_folders.py), and what becomes of the values (lab04_fill.py).
"""

from __future__ import annotations

import math

from torch import Tensor

from minituner.grading.checks.asking import Asking, words
from minituner.grading.checks.lab04_asking import (
    FILES,
    TARGETS,
    Pairs,
    all_refused,
    same_pairs,
)
from minituner.grading.checks.lab04_bytes import (
    CONFIG,
    PREFIX,
    WEIGHTS,
    Told,
    keyed,
    sent,
    written,
)
from minituner.grading.expr import Expr

ALPHA = 3.0
READ = "read_adapter"


def _pairs(ask: Asking, r: int = 2) -> Pairs:
    """For TARGETS of two blocks, sizes drawn anew."""
    d, ff = ask.rng.randint(4, 7), ask.rng.randint(8, 11)
    sizes = {"attn.q_proj": (d, d), "mlp.fc1": (d, ff)}
    return {
        f"blocks.{i}.{end}": (ask.randn(r, d_in), ask.randn(d_out, r))
        for i in (0, 1)
        for end, (d_in, d_out) in sizes.items()
    }


def _read(ask: Asking, told: Told) -> Expr:
    return ask.star(READ)(sent(told))


def bridge_folder_read_takes_what_peft_writes(ask: Asking) -> None:
    r, alpha = ask.rng.randint(1, 4), ask.rng.choice((6, 2.5))
    pairs = {f"model.{name}": pair for name, pair in _pairs(ask, r).items()}
    rows = list(keyed(pairs).items())
    ask.rng.shuffle(rows)
    other = {"use_qalora": False, "loftq_config": {}, "megatron_core": "megatron.core"}
    targets = list(TARGETS)
    ask.rng.shuffle(targets)
    told = written(pairs, alpha, targets, dict(rows), {"peft_version": "0.21.2", **other})
    found = ask.w.keep(_read(ask, told))
    own_r, own_alpha, got = ask.w.ask((found[0].r, found[0].alpha, found[1]))
    right = (own_r, own_alpha, same_pairs(got, pairs))
    want = (r, alpha, True)
    ask.hold(right == want, f"(r, alpha, pairs as written) = {right}", f"{want}")


def bridge_folder_read_refuses_what_is_no_plain_adapter(ask: Asking) -> None:
    pairs = _pairs(ask)
    settings: tuple[tuple[str, object], ...] = (
        ("lora_alpha", ...),
        ("r", ...),
        ("target_modules", ...),
        ("r", 0),
        ("lora_alpha", math.nan),
        ("peft_type", "LOHA"),
        ("use_rslora", True),
        ("use_dora", True),
        ("rank_pattern", {"q_proj": 4}),
        ("modules_to_save", ["lm_head"]),
        ("target_modules", "all-linear"),
    )
    files = written(pairs, ALPHA)
    cases = {
        f"{key} = {value!r}": written(pairs, ALPHA, TARGETS, None, {key: value})
        for key, value in settings
    }
    cases["weights: a pickle"] = {**files, WEIGHTS: b"\x80\x04N."}
    cases["weights: cut"] = {**files, WEIGHTS: files[WEIGHTS][: -ask.rng.randint(1, 9)]}
    cases["config: a list"] = {**files, CONFIG: b"[]"}
    cases["config: none"] = {WEIGHTS: files[WEIGHTS]}
    all_refused(ask, {case: _read(ask, told) for case, told in cases.items()}, FILES)


def bridge_folder_read_refuses_names_that_do_not_add_up(ask: Asking) -> None:
    pairs = _pairs(ask)
    tensors = keyed(pairs)
    first = ask.rng.choice([key for key in tensors if "lora_A" in key])
    second = first.replace("lora_A", "lora_B")
    other, bias = words(ask, 1)[0], first.replace("lora_A.weight", "lora_B.bias")
    cases: dict[str, dict[str, Tensor]] = {
        "no A": {key: value for key, value in tensors.items() if key != first},
        "no B": {key: value for key, value in tensors.items() if key != second},
        "one more": tensors | {f"{PREFIX}{other}.weight": ask.randn(5, 4)},
        "a bias": tensors | {bias: ask.randn(4)},
        "no prefix": {key.removeprefix(PREFIX): value for key, value in tensors.items()},
        "a dot": {k.replace("_A.weight", "_A.default.weight"): v for k, v in tensors.items()},
    }
    told = {case: written(pairs, ALPHA, TARGETS, found) for case, found in cases.items()}
    told["nothing"] = written(pairs, ALPHA, (), {})
    all_refused(ask, {case: _read(ask, files) for case, files in told.items()}, FILES)


def bridge_folder_read_refuses_shapes_that_do_not_fit_r(ask: Asking) -> None:
    pairs = _pairs(ask)
    name = ask.rng.choice(list(pairs))
    a, b = pairs[name]
    d_in, d_out = a.shape[1], b.shape[0]
    cases: dict[str, tuple[Tensor, Tensor]] = {
        "r of both": (ask.randn(3, d_in), ask.randn(d_out, 3)),
        "r of A": (ask.randn(3, d_in), b),
        "r of B": (a, ask.randn(d_out, 3)),
        "B transposed": (a, ask.randn(2, d_out)),
        "A with an axis more": (a[None], b),
        "B with an axis more": (a, b[..., None]),
    }
    told = {
        case: written(pairs, ALPHA, TARGETS, keyed({**pairs, name: pair}))
        for case, pair in cases.items()
    }
    all_refused(ask, {case: _read(ask, files) for case, files in told.items()})


def bridge_folder_read_refuses_what_is_not_finite(ask: Asking) -> None:
    pairs = _pairs(ask)
    tensors, told = keyed(pairs), {}
    for key, value in tensors.items():
        for bad in (math.nan, math.inf, -math.inf):
            broken = value.clone()
            broken[ask.rng.randrange(value.shape[0]), ask.rng.randrange(value.shape[1])] = bad
            told[f"{bad} in {key}"] = written(pairs, ALPHA, TARGETS, tensors | {key: broken})
    all_refused(ask, {key: _read(ask, files) for key, files in told.items()})


def bridge_folder_read_refuses_targets_that_tell_another_story(ask: Asking) -> None:
    pairs, other = _pairs(ask), words(ask, 1)[0]
    lists: tuple[list[str], ...] = (
        ["q_proj"],
        [*TARGETS, other],
        ["q_proj", "fc"],
        ["proj", "mlp.fc1"],
        [],
    )
    told = {f"{targets}": written(pairs, ALPHA, targets) for targets in lists}
    all_refused(ask, {targets: _read(ask, files) for targets, files in told.items()})
