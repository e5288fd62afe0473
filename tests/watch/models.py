"""Small models of random weights, one of each kind of attention that transformers has, and inputs for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

BATCH, LENGTH, TARGET = 2, 13, 7
SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = SIZES | {"num_key_value_heads": 2}
ENCODER_DECODER = {
    "vocab_size": 99,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
LATENT = SIZES | {
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 6,
    "n_routed_experts": 4,
    "n_group": 2,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
}

Model = tuple[Any, dict[str, Tensor]]
VERSION = tuple(int(number) for number in transformers.__version__.split(".")[:2])

CACHE = "cache" if VERSION >= (5, 24) else "past_key_values"  # what a model calls the cache that it is given


def needs(version: tuple[int, int], why: str) -> None:
    """Skip the test that asks where transformers is older than it needs, and say why."""
    if version > VERSION:
        pytest.skip(f"transformers {transformers.__version__}: {why}")


def ids(length: int = LENGTH, batch: int = BATCH) -> Tensor:
    return torch.randint(3, 99, (batch, length), generator=torch.Generator().manual_seed(length))


def left_padded(length: int = LENGTH) -> dict[str, Tensor]:
    mask = torch.ones(BATCH, length, dtype=torch.long)
    mask[0, :4] = 0
    return {"input_ids": ids(length), "attention_mask": mask}


def right_padded(length: int = LENGTH) -> dict[str, Tensor]:
    mask = torch.ones(BATCH, length, dtype=torch.long)
    mask[0, -4:] = 0
    return {"input_ids": ids(length), "attention_mask": mask}


def bert() -> Model:
    return transformers.BertModel(transformers.BertConfig(**SIZES)), right_padded()


def llama() -> Model:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**GROUPED)), left_padded()


def mistral() -> Model:
    return transformers.MistralForCausalLM(transformers.MistralConfig(**GROUPED, sliding_window=5)), left_padded()


def gemma2() -> Model:
    config = transformers.Gemma2Config(**GROUPED, head_dim=8, sliding_window=5, attn_logit_softcapping=2.0)
    return transformers.Gemma2ForCausalLM(config), left_padded()


def gpt_oss() -> Model:
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1}
    config = transformers.GptOssConfig(**GROUPED, **experts, head_dim=8, sliding_window=5, rope_parameters=rope)
    return transformers.GptOssForCausalLM(config), left_padded()


def t5() -> Model:
    config = transformers.T5Config(
        vocab_size=99, d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    model = transformers.T5ForConditionalGeneration(config)
    return model, right_padded() | {"decoder_input_ids": ids(TARGET)}


def bart() -> Model:
    config = transformers.BartConfig(**ENCODER_DECODER, max_position_embeddings=64)
    model = transformers.BartForConditionalGeneration(config)
    return model, right_padded() | {"decoder_input_ids": ids(TARGET)}


def whisper() -> Model:
    config = transformers.WhisperConfig(
        **ENCODER_DECODER, max_source_positions=20, max_target_positions=40, num_mel_bins=8,
        suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    sound = torch.randn(BATCH, 8, 40, generator=torch.Generator().manual_seed(0))
    model = transformers.WhisperForConditionalGeneration(config)
    return model, {"input_features": sound, "decoder_input_ids": ids(TARGET)}


def gpt2() -> Model:
    own = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    config = transformers.GPT2Config(vocab_size=99, bos_token_id=1, eos_token_id=2, **own)
    return transformers.GPT2LMHeadModel(config), left_padded()


def vit() -> Model:
    own = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
    model = transformers.ViTModel(transformers.ViTConfig(**own, image_size=32, patch_size=8))
    return model, {"pixel_values": torch.randn(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(0))}


def deepseek_v3() -> Model:
    return transformers.DeepseekV3ForCausalLM(transformers.DeepseekV3Config(**LATENT)), left_padded()


def deepseek_v32() -> Model:
    needs((5, 15), "it has no DeepSeek-V3.2")
    index = {"index_topk": 4, "index_n_heads": 2, "index_head_dim": 8}
    return transformers.DeepseekV32ForCausalLM(transformers.DeepseekV32Config(**LATENT, **index)), left_padded()


def gptj() -> Model:
    own = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 4}
    return transformers.GPTJForCausalLM(transformers.GPTJConfig(vocab_size=99, **own)), left_padded()


def bloom() -> Model:
    config = transformers.BloomConfig(vocab_size=99, hidden_size=32, n_layer=2, n_head=4)
    return transformers.BloomForCausalLM(config), left_padded()


def xglm() -> Model:
    own = {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 32}
    return transformers.XGLMForCausalLM(transformers.XGLMConfig(vocab_size=99, **own)), left_padded()


MODELS: dict[str, Callable[[], Model]] = {
    maker.__name__: maker
    for maker in (
        bert, llama, mistral, gemma2, gpt_oss, t5, bart, whisper, gpt2, vit, deepseek_v3, deepseek_v32, gptj,
        bloom, xglm,
    )
}  # fmt: skip


def made(name: str) -> Model:
    """A model for reading, and its inputs; the same weights each time."""
    torch.manual_seed(0)
    model, inputs = MODELS[name]()
    return model.eval().requires_grad_(False), inputs


def swappable(name: str) -> Model:
    """The same, of a model that asks the library for its attention, which then can be another."""
    if name == "t5":
        needs((5, 15), "its T5 multiplies its matrices itself")
    return made(name)


def settings(model: Any) -> list[str]:
    """The implementation that each part of a model is set to."""
    configs = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    return [config._attn_implementation for config in configs.values()]


def set_all(model: Any, implementation: str) -> None:
    """Set the implementation of each part of a model: the library skips some."""
    for module in model.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation = implementation


def eager(model: Any, call: Callable[[], Any]) -> Any:
    """What `call` gives with the model's own eager attention, set in each part: the library skips some."""
    if isinstance(model, getattr(transformers, "DeepseekV32PreTrainedModel", ())):
        needs((5, 23), "its DeepSeek-V3.2 chooses keys by a mask that it applies in eager attention alone")
    before = {id(m.config): (m.config, m.config._attn_implementation) for m in model.modules() if hasattr(m, "config")}
    for config, _ in before.values():
        config._attn_implementation = "eager"
    try:
        return call()
    finally:
        for config, implementation in before.values():
            config._attn_implementation = implementation


def weights_by_role(outputs: Any) -> dict[str, list[Any]]:
    """The attentions that a model returned, by the roles of this package; a decoder alone has only "attentions"."""
    fields = {
        "self": "encoder_attentions",
        "causal self": "decoder_attentions",
        "cross": "cross_attentions",
        "any": "attentions",
    }
    found = {role: getattr(outputs, field, None) for role, field in fields.items()}
    return {role: list(weights) for role, weights in found.items() if weights}
