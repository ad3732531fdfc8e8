"""Small models of three kinds with our adapters and with PEFT's, for test_bridge_peft.py.

Leaves out: the packages peft and transformers, which the test hands in as one thing, `hub`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from together import together
from torch import Tensor, nn

from minituner.adapters import adapters_of
from minituner.grading.registry import ROOT
from minituner.minigpt import MiniGPT, MiniGPTConfig

VOCAB, SEQ = 31, 7
LLAMA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
Hub = Any  # peft and transformers: whole packages, imported where they are there


SOLVED = together(ROOT / "solutions", "adapt", "bridge", "lora")
ADAPT, BRIDGE, LORA = SOLVED.adapt, SOLVED.bridge, SOLVED.lora


@dataclass(frozen=True)
class Case:
    """A model and what of it is adapted, how strongly."""

    kind: str  # minigpt, gpt2 or llama
    targets: list[str]
    r: int
    alpha: float

    def __str__(self) -> str:
        return f"{self.kind}-{'-'.join(self.targets[:3])}-r{self.r}"

    def base(self, hub: Hub) -> nn.Module:
        """Fresh random weights, in eval mode and float64; biases and norms random, too."""
        made = getattr(self, f"_{self.kind}")(hub).double().eval()
        assert isinstance(made, nn.Module)
        with torch.no_grad():
            for param in made.parameters():
                param.add_(0.1 * torch.randn_like(param))
        return made

    def wrap(self, model: nn.Module) -> None:
        """Our adapters, with dropout 0 and a B that is not zero."""
        if self.kind == "gpt2":
            BRIDGE.wrap_gpt2_with_lora(model, self.targets, self.r, self.alpha)
        else:
            LORA.wrap_minigpt_with_lora(model, self.r, self.alpha, self.targets, dropout=0.0)
        for adapter in adapters_of(model).values():
            nn.init.normal_(adapter.lora_B)

    def peft(self, hub: Hub, model: nn.Module) -> Any:
        """PEFT's adapters on model, B random as well."""
        config = hub.LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            target_modules=self.targets,
            fan_in_fan_out=self.kind == "gpt2",
            init_lora_weights=False,
        )
        return hub.get_peft_model(model, config).eval()

    def _minigpt(self, hub: Hub) -> nn.Module:
        return MiniGPT(MiniGPTConfig(VOCAB, SEQ, n_layer=2, n_head=2, d_model=12, d_ff=20))

    def _gpt2(self, hub: Hub) -> nn.Module:
        sizes = {"vocab_size": VOCAB, "n_positions": SEQ, "n_embd": 12, "n_layer": 2, "n_head": 3}
        tokens = {"bos_token_id": 0, "eos_token_id": 0}
        made = hub.transformers.GPT2LMHeadModel(hub.transformers.GPT2Config(**sizes, **tokens))
        assert isinstance(made, nn.Module)
        return made

    def _llama(self, hub: Hub) -> nn.Module:
        config = hub.transformers.LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=16,
            intermediate_size=20,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=SEQ,
            tie_word_embeddings=True,
        )
        made = hub.transformers.LlamaForCausalLM(config)
        assert isinstance(made, nn.Module)
        return made


CASES = [
    Case("minigpt", ["q_proj", "v_proj"], 1, 16.0),
    Case("minigpt", ["o_proj", "mlp.fc1", "mlp.fc2"], 5, 3.0),
    Case("gpt2", ["c_attn"], 4, 8.0),
    Case("gpt2", ["attn.c_proj", "mlp.c_fc"], 3, 2.0),
    Case("gpt2", ["c_attn", "c_proj", "c_fc"], 2, 0.5),
    Case("llama", LLAMA, 4, 32.0),
    Case("llama", ["k_proj", "down_proj"], 2, 1.0),
]


def logits(model: Any, tokens: Tensor, **named: Any) -> Tensor:
    out = model(tokens, **named)
    found = out if isinstance(out, Tensor) else out.logits
    assert isinstance(found, Tensor)
    return found


def draw_tokens(rows: int = 3) -> Tensor:
    return torch.randint(VOCAB, (rows, SEQ))


def gap(got: Tensor, want: Tensor) -> float:
    assert got.shape == want.shape
    return (got - want).abs().max().item()
