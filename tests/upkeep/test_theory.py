"""Every number on the theory pages is computed again here, and every code block there runs.

A fact is a piece of text as it stands on a page, in both languages, and one value for each number
in it: a closed form, or a measurement of the reference with fixed seeds. A number that no fact
covers is an error, so nobody can add one unchecked.
Leaves out: the words. arXiv ids, section signs and names such as GPT-2 or task A3 are no numbers.
"""

from __future__ import annotations

import copy
import doctest
import math
import re
from collections import Counter
from typing import TYPE_CHECKING

import torch
from theory_facts import (
    FACTS,
    GPT3_MILLIONS,
    every_face,
    every_page,
    gpt2_total,
    minigpt_counts,
    read,
)
from theory_numbers import DOCTEST, NUMBER, agrees, complaints, plain, shown
from theory_values import REALISTIC_B, R, bound, merged, reference
from torch import nn

from minituner.minigpt import MiniGPT, MiniGPTConfig

if TYPE_CHECKING:  # for its types only: the code that runs is the reference
    from minituner.lora import LoRALinear


# --- the pages against the facts ------------------------------------------------------------------


@every_page
def test_theory_facts_equal_what_is_computed(page: str) -> None:
    """Each number in a fact's text is its computed or measured value, at the precision shown."""
    for text, values in FACTS[page]():
        figures = shown(text)
        assert len(figures) == len(values), f"{text}: {len(figures)} numbers, {len(values)} values"
        for figure, want in zip(figures, values, strict=True):
            assert agrees(figure, want), f"theory/{page}: {text}: shows {figure}, computed {want}"


@every_face
@every_page
def test_theory_numbers_are_all_facts(page: str, ending: str) -> None:
    """Every fact stands on the page, and no number stands there without a fact."""
    found = complaints(plain(read(page, ending)), FACTS[page]())
    assert found == [], f"theory/{page}{ending}:\n" + "\n".join(found)


@every_face
@every_page
def test_theory_a_changed_digit_is_noticed(page: str, ending: str) -> None:
    """Whichever number of a page changes its last digit, the check above complains."""
    text, facts = plain(read(page, ending)), FACTS[page]()
    for match in NUMBER.finditer(text):
        last = match.end() - (len(match[0]) - len(match[0].partition("e")[0])) - 1
        changed = f"{text[:last]}{(int(text[last]) + 1) % 10}{text[last + 1 :]}"
        near = changed[max(last - 40, 0) : last + 20]
        assert complaints(changed, facts), f"theory/{page}{ending}: unnoticed: …{near}…"


@every_page
def test_theory_facts_say_more_than_a_small_number(page: str) -> None:
    """A bare number below 100 is no fact: it would cover that number wherever it stands."""
    bare = [text for text, _ in FACTS[page]() if re.fullmatch(r"-?\d\d?", text)]
    assert bare == [], f"give these their neighbourhood: {bare}"


@every_page
def test_theory_numbers_are_the_same_in_both_languages(page: str) -> None:
    """English and Spanish show the same numbers equally often."""
    english, spanish = (Counter(shown(read(page, ending))) for ending in (".md", ".es.md"))
    assert english == spanish, f"only English {english - spanish}, only Spanish {spanish - english}"


@every_face
@every_page
def test_theory_numbers_are_grouped_by_spaces(page: str, ending: str) -> None:
    """Five digits or more are grouped in threes by a space, four are not."""
    figures = [figure.lstrip("-").partition(".")[0] for figure in shown(read(page, ending))]
    wrong = [f for f in figures if re.fullmatch(r"\d{5,}|\d \d{3}", f)]
    assert wrong == [], f"theory/{page}{ending}: {wrong}; write 36 864 and 1024"


# --- the code on the pages ------------------------------------------------------------------------


@every_face
@every_page
def test_theory_doctests_run(page: str, ending: str) -> None:
    """Every >>> on a page prints what the page says."""
    source = "\n".join(DOCTEST.findall(read(page, ending)))
    example = doctest.DocTestParser().get_doctest(source, {}, f"{page}{ending}", None, 0)
    said: list[str] = []
    failed = doctest.DocTestRunner(verbose=False).run(example, out=said.append).failed
    assert failed == 0, "".join(said)


def block(page: str, ending: str, word: str) -> str:
    """The one Python block of a page, no doctest, that contains word."""
    blocks = re.findall(r"```python\n((?!>>>).*?)```", read(page, ending), re.DOTALL)
    (found,) = (code for code in blocks if word in code)
    return str(found)


def adapters(model: nn.Module) -> list[LoRALinear]:
    kind: type[LoRALinear] = reference().LoRALinear
    return [module for module in model.modules() if isinstance(module, kind)]


def wrapped_minigpt(targets: tuple[str, ...]) -> tuple[MiniGPT, list[str]]:
    """A float64 MiniGPT with every B filled in, and the wrapped names."""
    model = MiniGPT(MiniGPTConfig()).double()
    names: list[str] = reference().wrap_minigpt_with_lora(model, target_modules=targets, dropout=0)
    with torch.no_grad():
        for layer in adapters(model):
            layer.lora_B.normal_()
    return model, names


@every_face
def test_theory_counting_block_counts(ending: str) -> None:
    """The line that asks PyTorch gives MiniGPT's trainable count."""
    model = MiniGPT(MiniGPTConfig())
    reference().wrap_minigpt_with_lora(model, r=R)
    code = block("02-parameter-count", ending, "numel")
    assert eval(code, {"model": model}) == minigpt_counts()[""]


@every_face
def test_theory_unwrapping_block_leaves_plain_linears(ending: str) -> None:
    """Merging and unwrapping as the page does keeps the logits and leaves no LoRALinear."""
    model, names = wrapped_minigpt(reference().MINIGPT_LINEARS)
    ids = torch.arange(8).unsqueeze(0)
    before = model(ids).detach()
    exec(block("04-merging-and-floats", ending, "setattr"), {"model": model, "names": names})
    assert adapters(model) == []
    assert torch.allclose(model(ids), before, rtol=0, atol=1e-10)


@every_face
def test_theory_a_tied_head_is_merged_safely_after_untying(ending: str) -> None:
    """Merging a tied head in place moves the embedding; the page's block keeps the logits."""
    model, _ = wrapped_minigpt(("lm_head",))
    careless = copy.deepcopy(model)
    ids = torch.arange(8).unsqueeze(0)
    before, embedding = model(ids).detach(), model.tok_emb.weight.detach().clone()
    adapters(careless)[0].merge_()
    assert not torch.equal(careless.tok_emb.weight, embedding)
    assert not torch.allclose(careless(ids), before, rtol=0, atol=1e-3)
    exec(block("04-merging-and-floats", ending, "clone"), {"model": model, "nn": nn})
    assert torch.equal(model.tok_emb.weight, embedding)
    assert not adapters(model)[0].base.weight.requires_grad
    assert torch.allclose(model(ids), before, rtol=0, atol=1e-10)


# --- claims in words that a number on a page leans on ---------------------------------------------


def test_theory_float32_bound_holds_where_the_page_says() -> None:
    """Each layer with A and B from N(0, 1) misses 1e-5; each realistic one keeps it, > 0."""
    limit = bound("test_lora_merge_keeps_the_output_in_float32_to_1e_5")
    assert min(merged(torch.float32, False, 1.0)[0]) > limit
    gaps = merged(torch.float32, True, REALISTIC_B)[0]
    assert min(gaps) > 0 and max(gaps) < limit
    exact = bound("test_lora_merge_keeps_the_output_in_float64")
    assert max(merged(torch.float64, False, 1.0)[0]) < exact


def test_theory_linear_draws_its_weight_as_A_is_drawn() -> None:
    """nn.Linear's own weight is kaiming_uniform_(a=√5), from the same random numbers."""
    torch.manual_seed(0)
    weight = nn.Linear(9, 5).weight
    torch.manual_seed(0)
    again = nn.init.kaiming_uniform_(torch.empty(5, 9), a=math.sqrt(5))
    assert torch.equal(weight, again) and again.abs().max() <= 1 / math.sqrt(9)


def test_theory_quoted_total_is_near_the_closed_form() -> None:
    """The paper's count of GPT-3 is within 1 % of the closed form, so it is no slip of the pen."""
    closed = gpt2_total(12288, 96, context=2048)
    assert abs(closed / (GPT3_MILLIONS * 10**6) - 1) < 0.01
