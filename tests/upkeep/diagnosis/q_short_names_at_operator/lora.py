import math

import torch
from torch import nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class LoRALinear(nn.Module):
    def __init__(self, base, r=8, alpha=16.0, dropout=0.0, freeze_base=True):
        super().__init__()
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base: {type(base).__name__} is no nn.Linear")
        if r < 1:
            raise ValueError(f"r: {r} is not at least 1")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: {dropout} is not in [0, 1)")
        self.base, self.r, self.alpha = base, r, alpha
        self.scaling = alpha / r
        w = base.weight
        a = torch.empty(r, w.shape[1], dtype=w.dtype, device=w.device)
        b = torch.zeros(w.shape[0], r, dtype=w.dtype, device=w.device)
        self.lora_A = nn.Parameter(nn.init.kaiming_uniform_(a, a=math.sqrt(5)))
        self.lora_B = nn.Parameter(b)
        self.dropout = nn.Dropout(dropout)
        if freeze_base:
            base.requires_grad_(False)
        self.train(base.training)

    def forward(self, x):
        x = self.dropout(x)
        return self.base(x) + (x @ self.lora_A.mT) @ self.lora_B.mT * self.scaling

    @torch.no_grad()
    def merge_(self):
        w, a, b = self.base.weight, self.lora_A, self.lora_B
        t = torch.promote_types(w.dtype, torch.float32)
        w.copy_(w.to(t) + self.scaling * (b.to(t) @ a.to(t)))
        a.zero_()
        b.zero_()


def hit(n, t):
    return n == t or n.endswith("." + t)


def wrap_minigpt_with_lora(
    model, r=8, alpha=16.0, target_modules=MINIGPT_LINEARS, dropout=0.05
):
    old = {m.base for m in model.modules() if isinstance(m, LoRALinear)}
    lin = {
        n: m
        for n, m in model.named_modules(remove_duplicate=False)
        if isinstance(m, nn.Linear) and m not in old
    }
    bad = [t for t in target_modules if not any(hit(n, t) for n in lin)]
    if bad:
        raise ValueError(f"target_modules: no match for {bad}")
    todo = {n: m for n, m in lin.items() if any(hit(n, t) for t in target_modules)}
    new = {m: LoRALinear(m, r, alpha, dropout) for m in dict.fromkeys(todo.values())}
    for n, m in todo.items():
        p, _, c = n.rpartition(".")
        setattr(model.get_submodule(p), c, new[m])
    ab = {p for m in model.modules() if isinstance(m, LoRALinear) for p in (m.lora_A, m.lora_B)}
    for p in model.parameters():
        if p not in ab:
            p.requires_grad_(False)
    return list(todo)


def ab_of(model):
    d = {}
    for n, m in model.named_modules():
        if isinstance(m, LoRALinear):
            n = n + "." if n else n
            d[n + "lora_A"], d[n + "lora_B"] = m.lora_A, m.lora_B
    return d


def lora_state_dict(model):
    return {n: p.detach().clone() for n, p in ab_of(model).items()}


def load_lora_state_dict(model, state):
    d = ab_of(model)
    if d.keys() != state.keys():
        raise KeyError(f"missing {sorted(d.keys() - state.keys())}, "
                       f"unexpected {sorted(state.keys() - d.keys())}")
    for n, p in d.items():
        v = state[n]
        if v.shape != p.shape:
            raise ValueError(f"{n}: {tuple(v.shape)} instead of {tuple(p.shape)}")
        if not v.to(p.dtype).isfinite().all():
            raise ValueError(f"{n}: NaN or infinity")
    with torch.no_grad():
        for n, p in d.items():
            p.copy_(state[n])
