"""Lab 00, block B: which linears are wrapped, what takes their place, what is frozen.

Leaves out: the single layer (lab00_fields.py, lab00_forward.py), state and merge.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minituner.grading.checks import layers, models, trees
from minituner.grading.checks.asking import Asking, gap
from minituner.grading.expr import Expr

INNER = ("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.o_proj", "mlp.fc1", "mlp.fc2")


def _wrap(ask: Asking, model: Expr, **options: object) -> Expr:
    return ask.star("wrap_minigpt_with_lora")(model, **options)


def lora_param_count_wrap_finds_every_default_target(ask: Asking) -> None:
    n = ask.rng.choice((2, 3))
    config = ask.given("minigpt.MiniGPTConfig")(**(models.SIZES | {"n_layer": n}))
    model = models.Gpt(ask, ask.w.keep(ask.given("minigpt.MiniGPT")(config)), {})
    every = sorted(f"blocks.{i}.{name}" for i in range(n) for name in INNER)
    ask.see("returned", sorted(model.wrap()), every)
    ask.see("LoRALinear in the model", trees.adapters(ask, model.it), every, 1)


def lora_param_count_wrap_matches_at_a_dot_and_linears_only(ask: Asking) -> None:
    tree = trees.tree(ask)
    got = ask.w.ask(_wrap(ask, tree.it, r=2, target_modules=tree.targets))
    ask.see("returned", sorted(got) if type(got) is list else got, tree.matches)
    ask.see("wrapped", trees.adapters(ask, tree.it), tree.matches)


def lora_param_count_wrap_targets_may_overlap(ask: Asking) -> None:
    model, path = models.net(ask), ask.rng.choice(("blocks.0.q_proj", "blocks.1.v_proj"))
    targets = ["fc1", "mlp.fc1", "mlp.fc2", path]
    got = ask.w.ask(ask.star("wrap_minigpt_with_lora")(model.it, 2, 3.0, targets, 0.0))
    want = sorted([path, "blocks.0.mlp.fc1", "blocks.1.mlp.fc2"])
    ask.see("returned", sorted(got) if type(got) is list else got, want)
    ask.see("wrapped", trees.adapters(ask, model.it), want)


def lora_param_count_wrap_names_the_unmatched_target(ask: Asking) -> None:
    model = models.net(ask)
    was = trees.before(ask, model.it)
    absent = ask.rng.choice(("gate_proj", "up_proj", "fc3", "proj"))
    call = _wrap(ask, model.it, target_modules=("q_proj", absent, "mlp.fc1"))
    ask.refuses(f"target {absent}", call, (absent,), ("ValueError",))
    ask.see("changed", trees.changes(ask, was), [], 1)


def lora_param_count_wrap_again_raises_and_changes_nothing(ask: Asking) -> None:
    model = models.net(ask)
    model.wrap(r=2, target_modules=("q_proj", "mlp.fc1"))
    was = trees.before(ask, model.it)
    again = [
        (f"{targets} again", _wrap(ask, model.it, r=2, target_modules=targets), ("q_proj",))
        for targets in (("q_proj", "mlp.fc1"), ("v_proj", "q_proj"))
    ]
    ask.all_refused(again, ("ValueError",))
    ask.see("changed", trees.changes(ask, was), [])


def lora_param_count_wrap_adds_what_is_left_of_a_target(ask: Asking) -> None:
    model, which = models.net(ask), ask.rng.choice((0, 1))
    first = ask.w.ask(_wrap(ask, model.it.blocks[str(which)], r=2, target_modules=("q_proj",)))
    second = model.wrap(r=2, target_modules=("q_proj",))
    want = (["q_proj"], [f"blocks.{1 - which}.q_proj"])
    ask.see("(block, model)", (first, second), want)
    ask.see("wrapped", trees.adapters(ask, model.it), [f"blocks.{i}.q_proj" for i in (0, 1)])


def lora_param_count_wrap_never_nests(ask: Asking) -> None:
    model = models.net(ask)
    names = model.wrap(r=2, target_modules=("q_proj",))
    call = _wrap(ask, model.it, target_modules=("base",))
    ask.refuses("target 'base'", call, ("base",), ("ValueError",))
    ask.see("adapters", trees.adapters(ask, model.it), sorted(names))


# --- B2: replaced in place ------------------------------------------------------------------------


def lora_init_identity_wrap_keeps_base_and_passes_arguments(ask: Asking) -> None:
    model = models.net(ask)
    every = [name for name in models.NAMES if "v_proj" not in name]
    linears = {name: ask.w.keep(model.it.get_submodule(name)) for name in every}
    r, scale = ask.rng.choice((3, 5)), ask.rng.choice(layers.SCALES)
    targets = ("q_proj", "mlp.fc1", "mlp.fc2")
    names = model.wrap(r=r, alpha=r * scale, target_modules=targets, dropout=0.5)
    ask.see("returned", sorted(names), sorted(every))
    now = {name: ask.w.keep(model.it.get_submodule(name)) for name in every}
    same = [ask.kit.same(now[n].base, linears[n]) for n in every]
    kept, fields = ask.w.ask((same, [(now[n].r, now[n].alpha, now[n].scaling) for n in every]))
    ask.see("base is the linear it replaced", kept, [True] * len(every))
    ask.see("(r, alpha, scaling)", fields, [(r, r * scale, scale)] * len(every))
    model.fill(names, scale)
    xs = {name: ask.randn(8, model.values[f"{name}.weight"].shape[1]) for name in names}
    twice = ask.w.ask([(now[name].train()(x), now[name](x)) for name, x in xs.items()])
    for name, (once, again) in zip(xs, twice, strict=True):
        ask.hold(gap(again, once) > 1e-6, f"{name}: train() == train()", "dropout=0.5")
    base = ask.linear()
    silent = ask.w.keep(ask.nn.ModuleDict({"fc1": base.it}))
    ask.w.do(_wrap(ask, silent, target_modules=("fc1",), dropout=0.0))
    ask.w.do(ask.kit.add(silent["fc1"].lora_B, 1.0))
    x = ask.randn(5, base.sizes[1])
    once, again = ask.w.ask((silent["fc1"].train()(x), silent["fc1"](x)))
    ask.near("dropout=0.0: train()(x) - train()(x)", again, once, 0.0)


def _every_A(ask: Asking, model: Expr, names: list[str]) -> list[Tensor]:
    found = ask.w.ask([model.get_submodule(name).lora_A for name in names])
    ask.see("tensors", [isinstance(A, Tensor) for A in found], [True] * len(names))
    return list(found)


def lora_init_identity_wrap_draws_each_A_anew(ask: Asking) -> None:
    drawn = set()
    for start in ask.rng.sample(range(10**6), 2):
        ask.w.do(ask.kit.seed(start))
        model = models.net(ask)
        names = model.wrap(r=2, target_modules=("q_proj", "v_proj"))
        drawn |= {tuple(A.flatten().tolist()) for A in _every_A(ask, model.it, names)}
    ask.see("different A", len(drawn), 6)


def lora_init_identity_wrap_defaults_are_r8_alpha16_dropout_005(ask: Asking) -> None:
    tree = ask.w.keep(ask.nn.ModuleDict({"q_proj": ask.nn.Linear(40, 5)}))
    ask.w.do(_wrap(ask, tree, target_modules=("q_proj",)))
    layer = tree["q_proj"]
    got = ask.w.ask((layer.r, layer.alpha, layer.scaling))
    ask.hold(got == (8, 16.0, 2.0), f"(r, alpha, scaling) = {got}", "(8, 16.0, 2.0)")
    # One input at a time through A = ones and B = [1, 0, …]: an output of 0 is a dropped entry.
    ask.put(layer.lora_A, torch.ones(8, 40))
    ask.put(layer.lora_B, torch.eye(5, 8))
    ask.put(layer.base.weight, torch.zeros(5, 40))
    ask.put(layer.base.bias, torch.zeros(5))
    x = ask.w.keep(torch.eye(40))
    out = ask.w.tensor(layer.train()(x.repeat(100, 1)))
    share = (out[:, 0] == 0).double().mean().item()
    ask.hold(0.025 < share < 0.08, f"dropped share = {share:.3f}", "0.05", 1)


def lora_init_identity_wrap_keeps_the_models_function(ask: Asking) -> None:
    model = models.gpt(ask)
    model.wrap(r=3, alpha=4.5, dropout=0.5)
    ids = model.input()
    want = model.out(ids)
    modes = (True, False)
    said = ask.w.ask([model.it.train(mode)(ids) for mode in modes])
    for mode, got in zip(modes, said, strict=True):
        ask.near(f"wrapped(x) - model(x) (training={mode})", got, want, 1e-11)


def lora_init_identity_wrap_keeps_train_and_eval(ask: Asking) -> None:
    for mode in (True, False):
        model, apart = models.net(ask), ask.rng.choice((0, 1))
        ask.w.do(model.it.train(mode))
        ask.w.do(model.it.blocks[str(apart)].train(not mode))
        model.wrap(dropout=0.5, target_modules=("q_proj", "mlp.fc1"))
        rows = ask.w.ask(ask.kit.modules(model.it))
        off = [n for n, _, on, _ in rows if on is (mode is n.startswith(f"blocks.{apart}"))]
        ask.see("other mode than before", off, [])


def lora_param_count_wrap_new_targets_join_the_old(ask: Asking) -> None:
    model = models.net(ask)
    first = model.wrap(r=2, alpha=3.0, dropout=0.0, target_modules=("q_proj",))
    model.fill(first, 1.5)
    kept = {name: ask.w.keep(model.it.get_submodule(name)) for name in first}
    second = model.wrap(r=3, alpha=4.5, dropout=0.0, target_modules=("v_proj", "mlp.fc2"))
    same = ask.w.ask([ask.kit.same(model.it.get_submodule(n), kept[n]) for n in first])
    ask.see("earlier adapters kept", same, [True] * len(first))
    count = (len(first), len(second), len(trees.adapters(ask, model.it)))
    ask.see("(first, second, all)", count, (2, 2, 4))
    values = ask.w.ask(ask.kit.values(model.it))
    for name, want in model.state.items():
        ask.near(f"{name} after the second call", values.get(name), want, 0.0)


def lora_param_count_wrap_one_adapter_for_a_shared_module(ask: Asking) -> None:
    shared, last = ask.linear((6, 6)), ask.linear((4, 6))
    names, parts = ["left.q_proj", "right.q_proj", "last.q_proj"], [shared, shared, last]
    model = ask.w.keep(ask.kit.Net(names, [part.it for part in parts]))
    ask.w.do(_wrap(ask, model, r=2, alpha=3.0, target_modules=("q_proj",), dropout=0.0))
    ask.see("LoRALinear in the model", trees.adapters(ask, model), sorted(names))
    left, right = model.left["q_proj"], model.right["q_proj"]
    one, rows = ask.w.ask((ask.kit.same(left, right), ask.kit.params(model)))
    ask.see("left is right", one, True)
    count = sum(layers.size(row) for row in rows if row[4] and row[0] == row[6])
    ask.see("trainable", count, 2 * (6 + 6) + 2 * (6 + 4), 1)


def lora_param_count_wrap_two_modules_with_one_weight_are_two(ask: Asking) -> None:
    a, b, c = (ask.w.keep(ask.nn.Linear(5, 5)) for _ in range(3))
    ask.w.do(ask.kit.assign(c, "weight", b.weight))
    model = ask.w.keep(ask.nn.ModuleDict({"fc1": a, "fc10": b, "fc11": c}))
    ask.w.do(_wrap(ask, model, r=2, target_modules=("fc1",)))
    ask.w.do(_wrap(ask, model, r=2, target_modules=("fc10", "fc11")))
    ask.see("wrapped", trees.adapters(ask, model), ["fc1", "fc10", "fc11"])
    pairs = {"fc1": a, "fc10": b, "fc11": c}.items()
    same = [ask.kit.same(model[name].base, linear) for name, linear in pairs]
    both = ask.kit.same(model["fc10"].base.weight, model["fc11"].base.weight)
    kept, tied = ask.w.ask((same, both))
    ask.see("(base is the linear it replaced, weight tied)", (kept, tied), ([True] * 3, True))


def lora_freeze_wrap_keeps_the_head_tied(ask: Asking) -> None:
    model = models.gpt(ask)
    tied = ask.w.keep(model.it.tok_emb.weight)
    model.wrap(r=2)
    same = ask.kit.same
    first = ask.w.ask([same(m.weight, tied) for m in (model.it.lm_head, model.it.tok_emb)])
    model.wrap(r=2, target_modules=("lm_head",))
    look = (same(model.it.lm_head.base.weight, tied), ask.kit.flag(tied))
    got = (first, *ask.w.ask(look))
    ask.see(
        "(head and embedding tied, wrapped head tied, trains)", got, ([True, True], True, False)
    )


# --- B3: everything else is frozen ----------------------------------------------------------------


def _frozen_but_adapters(ask: Asking, model: Expr, nth: tuple[int, int] = (0, 0)) -> None:
    trains, factors = layers.trainable(ask, model), trees.factor_names(ask, model)
    ask.see("trainable - adapters", sorted(trains - factors), [], nth[0])
    ask.see("adapters - trainable", sorted(factors - trains), [], nth[1])


def lora_freeze_wrap_leaves_only_adapters_trainable(ask: Asking) -> None:
    model = models.gpt(ask)
    names = model.wrap(r=2, target_modules=("q_proj", "mlp.fc1"))
    ask.see("wrapped", len(names), 2)
    _frozen_but_adapters(ask, model.it)


def lora_freeze_wrap_second_call_freezes_the_rest_only(ask: Asking) -> None:
    model = models.net(ask)
    model.wrap(r=2, target_modules=("q_proj",))
    ask.w.do(model.it.requires_grad_(True))  # somebody's slip between the calls
    model.wrap(r=2, target_modules=("v_proj", "mlp.fc2"))
    _frozen_but_adapters(ask, model.it, (0, 1))


def lora_param_count_wrap_trains_9216_a_layer(ask: Asking) -> None:
    r, n = ask.rng.choice((4, 8)), ask.rng.choice((1, 2))
    config = ask.given("minigpt.MiniGPTConfig")(n_layer=n)
    model = ask.w.keep(ask.given("minigpt.MiniGPT")(config))
    ask.w.do(_wrap(ask, model, r=r))
    rows = [row for row in ask.w.ask(ask.kit.params(model)) if row[4]]
    count = sum(layers.size(row) for row in rows)
    ask.see(f"trainable ({n} layers, r={r})", count, n * (4 * r * 128 + 2 * r * 320))


def lora_freeze_wrap_is_not_fooled_by_names(ask: Asking) -> None:
    tree = trees.tree(ask)
    ask.w.do(_wrap(ask, tree.it, r=2, target_modules=tree.targets))
    _frozen_but_adapters(ask, tree.it)


def lora_freeze_wrap_training_moves_adapters_only(ask: Asking) -> None:
    model = models.net(ask)
    options = {"r": 2, "alpha": 3.0, "dropout": 0.0, "target_modules": ("q_proj", "mlp.fc2")}
    names = model.wrap(**options)
    was = ask.w.ask(ask.kit.values(model.it))
    for _ in range(2):  # B moves in the first step, A (whose gradient needs B) in the second
        x = model.input()
        ask.w.do(ask.kit.backward(model.it(x), ask.randn(*model.out(x).shape)))
        ask.w.do(ask.kit.sgd(model.it, 0.05))
    now = ask.w.ask(ask.kit.values(model.it))
    factors = {f"{name}.{which}" for name in names for which in models.FACTORS}
    moved = {name for name, value in was.items() if gap(now.get(name), value) > 0}
    ask.see("moved ^ adapters", sorted(moved ^ factors), [])
    for name, sent in model.values.items():
        module, _, which = name.rpartition(".")
        key = f"{module}.base.{which}" if module in names else name
        ask.near(f"{key} moved", now.get(key), sent, 0.0)
    # What is reported has to be what computes: the same A and B on a model the judge sends anew.
    other = models.net(ask, values=model.values)
    other.wrap(**options)
    pairs = {name: [now[f"{name}.{which}"] for which in models.FACTORS] for name in names}
    ask.w.do(ask.kit.fill_in(other.it, pairs))
    x = model.input()
    got, want = ask.w.ask((model.it.eval()(x), other.it.eval()(x)))
    ask.near("model(x) - a new model's with these values", got, want, 1e-10)
