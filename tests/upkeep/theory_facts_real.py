"""The facts of theory/07-real-models: closed forms, GPT-2 in its sizes, the committed figures.

Source: theory_facts.py, which has the other pages; what is quoted of PEFT and vLLM stands in
constants. Leaves out: running anything; figures/ is what shakespeare.py --full and bench.py --write
wrote.
"""

from __future__ import annotations

import json
import math
import re
from functools import cache
from typing import Any  # what JSON holds

from theory_numbers import ROOT, Fact, fact

from minituner.gpt2 import Conv1D, hollow_gpt2

FIGURES = ROOT / "experiments" / "28-real-model" / "figures"
SIDE, WIDE, MLP, BLOCKS, R = 768, 2304, 3072, 12, 4  # GPT-2 small, and the rank of the tables
TOTAL = 124_439_808
TOKENS, MEGA = 256, 10**6
# Quoted: PEFT's LoraConfig() (test_bridge_peft.py has the package), vLLM's LoRAConfig.
PEFT_R = PEFT_ALPHA = 8
VLLM_R = 16


@cache
def figure(name: str) -> Any:
    return json.loads((FIGURES / f"{name}.json").read_text(encoding="utf-8"))


def grouped(count: int) -> str:
    return f"{count:,}".replace(",", " ") if count > 9999 else str(count)


def real_facts() -> list[Fact]:
    """theory/07-real-models.md"""
    return [*turned(), *counted(), *function(), *gone(), *folder(), *told(), *compared(), *claims()]


def turned() -> list[Fact]:
    """The wrong way round."""
    return [
        fact("c_attn, 768 × 2304", SIDE, WIDE),
        fact("768 × 768", SIDE, SIDE),
        fact("768 · 2304 = 1 769 472", SIDE, WIDE, SIDE * WIDE),
        fact("589 824", SIDE**2),
        fact("768²", SIDE),
    ]


def counted() -> list[Fact]:
    """What trains: nothing wrapped, the targets alone frozen, and each set of targets."""
    model = hollow_gpt2()
    total = sum(param.numel() for param in model.parameters())
    layers = [module for module in model.modules() if isinstance(module, Conv1D)]
    named = dict(model.named_modules())
    bases = [named[f"transformer.h.{nth}.attn.c_attn"] for nth in range(BLOCKS)]
    frozen = sum(param.numel() for base in bases for param in base.parameters())
    attn, out, mlp = (R * BLOCKS * side for side in (SIDE + WIDE, SIDE + SIDE, MLP + SIDE))
    rows = {
        "c_attn": attn,
        "c_attn, attn.c_proj": attn + out,
        "c_proj": out + mlp,
        "c_attn, c_proj": attn + out + mlp,
    }
    return [
        fact("48 Conv1Ds", len(layers)),
        fact("124 439 808", total),
        fact("r = 8, 103 473 408", 2 * R, total - frozen + 2 * attn),
        fact("768 → 768", SIDE, SIDE),
        fact("3072 → 768", MLP, SIDE),
        fact("r = 4", R),
        fact("12 bl", BLOCKS),
        *(
            fact(
                f"| {names} | {grouped(count)} | {100 * count / total:.3f} % |",
                count, 100 * count / total,
            )
            for names, count in rows.items()
        ),
    ]  # fmt: skip


def function() -> list[Fact]:
    """A weight that is a function."""
    wrapped = 4 * TOKENS * (SIDE + R)
    computed = 4 * SIDE * (TOKENS + WIDE)
    rows = []
    for row in figure("bench")["rows"]:
        both, label = row["both"], f"{row['kind']}, {row['in']} → {row['out']}"
        cells = [both[key] for key in ("base", "ours", "peft", "parametrized")]
        shown = " | ".join(f"{cell:.1f}" for cell in cells)
        rows.append(fact(f"| {label} | {shown} |", row["in"], row["out"], *cells))
    return [
        fact("1e-12", 1e-12),  # the bound of test_bridge.py
        fact("768 → 2304", SIDE, WIDE),
        fact(
            "768 · 2304 / (768 + 2304) = 576", SIDE, WIDE, SIDE, WIDE, SIDE * WIDE / (SIDE + WIDE)
        ),
        fact("7 864 320 bytes", computed),
        fact("790 528", wrapped),
        fact("9.9 ×", computed / wrapped),
        fact("256 tokens", TOKENS),
        fact("r = 8", figure("bench")["r"]),
        *rows,
    ]


def gone() -> list[Fact]:
    """Merged is not yet gone."""
    found = []
    for row in figure("bench")["rows"]:
        merged = row["merged"]
        cells = [merged[key] / merged["base"] for key in ("merged", "unwrapped", "again")]
        shown = " | ".join(f"{cell:.2f}" for cell in cells)
        label = f"{row['kind']}, {row['in']} → {row['out']}"
        found.append(fact(f"| {label} | {shown} |", row["in"], row["out"], *cells))
    return found


def folder() -> list[Fact]:
    """The folder, and many adapters."""
    numbers = R * BLOCKS * (SIDE + WIDE)
    notes = (ROOT / "solutions" / "04-notes.md").read_text(encoding="utf-8")
    (line,) = (line for line in notes.splitlines() if line.startswith("| `adapter_bytes`"))
    size = int(line.split("|")[3])
    return [
        fact("4 · 147 456 = 589 824", 4, numbers, 4 * numbers),
        fact("592 848", size),
        fact("| r | 8", PEFT_R),
        fact("| lora_alpha | 8", PEFT_ALPHA),
        fact("lora_alpha = 16", 16),
        fact("8 / 4 = 2", PEFT_ALPHA, R, PEFT_ALPHA / R),
        fact("16 / 4 = 4", 16, R, 16 / R),
        fact("max_lora_rank (16", VLLM_R),
        fact("498 MB", 4 * TOTAL / MEGA),
        fact("0.59 MB", size / MEGA),
        fact("5.9 MB", 10 * size / MEGA),
    ]


def told() -> list[Fact]:
    """Shakespeare: what the one run was, and what it gave."""
    data = figure("shakespeare")
    plan, control = data["plan"], len(source("control.txt").encode())
    (share,) = re.findall(r"^SHARE = (\S+)", source("texts.py"), re.M)
    assert float(share) == 0.9 and data["threads"] == 2  # words on the page
    assert data["text"] == "Tiny Shakespeare" and data["model"] == "smollm2"
    seen = plan["steps"] * plan["blocks"] * plan["tokens"]
    rows = []
    for key in ("held_out", "control"):
        losses = [data[side][key] for side in ("before", "after")]
        words = [math.exp(loss) for loss in losses]
        shown = "| {:.3f} | {:.3f} | {:.1f} | {:.1f} |".format(*losses, *words)
        rows.append(fact(shown, *losses, *words))
    total, trainable = data["parameters"], data["trainable"]
    return [
        fact("SmolLM2-135M", total / MEGA),
        fact("3865 bytes", control),
        fact(f"r = {plan['rank']}", plan["rank"]),
        fact(f"s = {plan['scale']:g}", plan["scale"]),
        fact("0.001", plan["peak"]),
        fact(f"{plan['steps']} · {plan['blocks']} · {plan['tokens']} = {grouped(seen)}",
             plan["steps"], plan["blocks"], plan["tokens"], seen),
        fact(grouped(data["before"]["held_out_tokens"]), data["before"]["held_out_tokens"]),
        fact(str(data["before"]["control_tokens"]), data["before"]["control_tokens"]),
        *rows,
        fact(f"{grouped(trainable)} / {grouped(total)} = {100 * trainable / total:.2f} %",
             trainable, total, 100 * trainable / total),
        fact(f"{data['adapter_bytes'] / MEGA:.1f} MB", data["adapter_bytes"] / MEGA),
        fact(f"{data['model_bytes'] / MEGA:.0f} MB", data["model_bytes"] / MEGA),
        fact(f"{data['seconds']:.0f} s", data["seconds"]),
        fact(f"{data['tokens_a_second']:.0f} tokens", data["tokens_a_second"]),
        fact(f"{data['peak_bytes'] / 1e9:.1f} GB", data["peak_bytes"] / 1e9),
    ]  # fmt: skip


def source(name: str) -> str:
    return (FIGURES.parent / name).read_text(encoding="utf-8")


def compared() -> list[Fact]:
    """The tables of ranks and of layers."""
    data = figure("comparison")
    plan, base = data["plan"], data["base"]
    assert data["seeds"] == [1]  # words on the page
    assert plan["peak"] == figure("shakespeare")["plan"]["peak"]
    found = [
        fact("{} · {} · {}".format(*(plan[key] for key in ("steps", "blocks", "tokens"))),
             plan["steps"], plan["blocks"], plan["tokens"]),
        fact(grouped(data["budget"]), data["budget"]),
        fact("| 0 | {:.3f} | {:.3f} |".format(base["held_out"], base["control"]),
             0, base["held_out"], base["control"]),
    ]  # fmt: skip
    for name in ("ranks", "places"):
        for row in data[name]:
            (held_out,), (control,) = row["held_out"], row["control"]
            text = f"| {row['rank']} | {grouped(row['parameters'])} |"
            text += f" {held_out:.3f} | {control:.3f} |"
            found.append(fact(text, row["rank"], row["parameters"], held_out, control))
    first, *_, last = data["ranks"]
    for row in (first, last):
        rise = row["control"][0] - base["control"]
        found += [fact(f"r = {row['rank']}", row["rank"]), fact(f"{rise:.3f}", rise)]
    return found


def claims() -> list[Fact]:
    """What a README claims, beside what is found."""
    attention = R * BLOCKS * (2 * SIDE + SIDE + WIDE)
    careless = attention + R * BLOCKS * (MLP + SIDE)
    data = figure("shakespeare")
    return [
        # Quoted: the README's own numbers.
        fact("lab 00", 0),
        fact("lab 02", 2),
        fact("B = 0", 0),
        fact("≈ 185 000", 185_000),
        fact("0.15 %", 0.15),
        fact("≈ 1.5 MB", 1.5),
        fact("≈ 300 ×", 300),
        fact("30 min", 30),
        fact("405 504: 1.62 MB, 307 ×", careless, 4 * careless / MEGA, TOTAL / careless),
        fact("221 184: 0.88 MB, 563 ×", attention, 4 * attention / MEGA, TOTAL / attention),
        fact(f"{data['model_bytes'] / data['adapter_bytes']:.0f} ×",
             data["model_bytes"] / data["adapter_bytes"]),
        fact("1 769 472", SIDE * WIDE),
        fact("221 184, 0.178 %", attention, 100 * attention / TOTAL),
        fact("405 504, 0.326 %", careless, 100 * careless / TOTAL),
    ]  # fmt: skip
