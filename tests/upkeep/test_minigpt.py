"""The given model: shapes, names, causality, tied head, sampling."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from minituner.minigpt import MiniGPT, MiniGPTConfig

SMALL = MiniGPTConfig(vocab_size=11, block_size=8, n_layer=2, n_head=2, d_model=12, d_ff=20)


def test_dotted_names_of_the_linears() -> None:
    """q, k, v and o without bias, fc1 and fc2 with: the names that the lab's targets match."""
    model = MiniGPT(SMALL)
    linears = {n: m.bias is not None for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    inner = {f"attn.{p}_proj": False for p in "qkvo"} | {"mlp.fc1": True, "mlp.fc2": True}
    want = {f"blocks.{i}.{name}": bias for i in range(2) for name, bias in inner.items()}
    assert linears == want | {"lm_head": False}


def test_default_sizes_and_parameter_count() -> None:
    """4 layers, 4 heads, 64 and 256; the count agrees with the sum worked out by hand."""
    config = MiniGPTConfig()
    assert (config.n_layer, config.n_head, config.d_model, config.d_ff) == (4, 4, 64, 256)
    layer = 4 * 64 * 64 + (64 * 256 + 256) + (256 * 64 + 64) + 2 * (64 + 64)
    embeddings = config.vocab_size * 64 + config.block_size * 64
    total = sum(p.numel() for p in MiniGPT(config).parameters())
    assert total == 4 * layer + embeddings + (64 + 64)


def test_logits_have_a_row_a_token() -> None:
    """(batch, seq) -> (batch, seq, vocab_size), for every seq up to block_size."""
    model = MiniGPT(SMALL)
    for seq in (1, 5, 8):
        assert model(torch.zeros(3, seq, dtype=torch.long)).shape == (3, seq, 11)


def test_the_future_is_not_seen() -> None:
    """Changing a token changes no logits before it, and changes those from it on."""
    model = MiniGPT(SMALL).double()
    tokens = torch.randint(0, 11, (1, 8))
    other = tokens.clone()
    other[0, 5] = (other[0, 5] + 1) % 11
    off = (model(tokens) - model(other)).abs().amax(dim=(0, 2))
    assert off[:5].max() == 0.0
    assert off[5:].min() > 0.0


def test_attention_is_the_textbook_formula() -> None:
    """One attention layer equals softmax(q kᵀ / √d, causal) v, head by head, in float64."""
    attention = MiniGPT(SMALL).double().blocks[0].get_submodule("attn")
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    weights = {n: p.detach() for n, p in attention.named_parameters()}
    heads = []
    for h in range(2):
        part = slice(6 * h, 6 * h + 6)
        q, k, v = (x @ weights[f"{n}_proj.weight"][part].T for n in "qkv")
        scores = q @ k.transpose(1, 2) / 6**0.5
        scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), float("-inf"))
        heads.append(scores.softmax(-1) @ v)
    want = torch.cat(heads, -1) @ weights["o_proj.weight"].T
    assert (attention(x) - want).abs().max() < 1e-12


def test_the_head_is_tied_unless_told_otherwise() -> None:
    """One Parameter for embedding and head by default, two with tie_head=False."""
    tied, free = MiniGPT(SMALL), MiniGPT(replace(SMALL, tie_head=False))
    assert tied.lm_head.weight is tied.tok_emb.weight
    assert free.lm_head.weight is not free.tok_emb.weight
    extra = sum(p.numel() for p in free.parameters()) - sum(p.numel() for p in tied.parameters())
    assert extra == 11 * 12


def test_it_can_learn() -> None:
    """A hundred steps on one sequence bring its loss below a tenth of the start."""
    model, tokens = MiniGPT(SMALL), torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8]])
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(100):
        loss = nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[0, 1:])
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 10


def test_generate_appends_and_is_seeded() -> None:
    """The prompt stays in front, the length is right past block_size, the generator decides."""
    model, prompt = MiniGPT(SMALL), torch.zeros(2, 3, dtype=torch.long)
    runs = [
        model.generate(prompt, 9, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)
    ]
    assert runs[0].shape == (2, 12)
    assert torch.equal(runs[0][:, :3], prompt)
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


class Fixed(MiniGPT):
    """A MiniGPT whose next-token probabilities are 0.5, 0.3, 0.15, 0.05, whatever the prompt."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        logits = torch.tensor([0.15, 0.5, 0.05, 0.3]).log()
        return logits.expand(*tokens.shape, 4)


@pytest.mark.parametrize(
    ("top_p", "allowed"),
    [(0.4, {1}), (0.5, {1}), (0.6, {1, 3}), (0.9, {0, 1, 3}), (1.0, {0, 1, 2, 3})],
)
def test_top_p_keeps_the_smallest_set_that_reaches_p(top_p: float, allowed: set[int]) -> None:
    """The likeliest token always stays; a set that reaches p exactly is enough."""
    model = Fixed(replace(SMALL, vocab_size=4))
    drawn = model.generate(torch.zeros(400, 1, dtype=torch.long), 1, top_p=top_p)[:, 1]
    assert set(drawn.tolist()) == allowed


def test_temperature_zero_is_greedy_and_low_is_sharper() -> None:
    """0 takes the likeliest; 0.5 squares the odds."""
    model, prompt = Fixed(replace(SMALL, vocab_size=4)), torch.zeros(4000, 1, dtype=torch.long)
    assert set(model.generate(prompt, 1, temperature=0.0)[:, 1].tolist()) == {1}
    share = (model.generate(prompt, 1, temperature=0.5)[:, 1] == 1).double().mean().item()
    squared = 0.25 / (0.25 + 0.09 + 0.0225 + 0.0025)
    assert abs(share - squared) < 6 * (squared * (1 - squared) / 4000) ** 0.5


def test_bad_input_is_one_clear_line() -> None:
    """Sizes, lengths and sampling arguments out of range say what was expected and got."""
    model, prompt = MiniGPT(SMALL), torch.zeros(1, 2, dtype=torch.long)
    with pytest.raises(ValueError, match="n_head: expected a divisor of d_model=12, got 5"):
        replace(SMALL, n_head=5)
    with pytest.raises(ValueError, match="n_layer: expected at least 1, got 0"):
        replace(SMALL, n_layer=0)
    with pytest.raises(ValueError, match="at most block_size=8 a row, got 9"):
        model(torch.zeros(1, 9, dtype=torch.long))
    with pytest.raises(ValueError, match="temperature: expected at least 0, got -1"):
        model.generate(prompt, 1, temperature=-1.0)
    with pytest.raises(ValueError, match=r"top_p: expected a number in \(0, 1\], got 0"):
        model.generate(prompt, 1, top_p=0.0)
