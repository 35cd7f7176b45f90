"""TransformerConfig -> the content of a config.json, for models that were not read from one."""

from __future__ import annotations

from typing import Any

from rljax.models.config import RopeScaling, TransformerConfig
from rljax.models.config_fields import HF_ACTIVATIONS, ConfigError
from rljax.models.families import HFConfig, read_config

ARCHITECTURES = {
    "gpt2": "GPT2LMHeadModel",
    "gpt_neox": "GPTNeoXForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
}


def _rope_table(theta: float, scaling: RopeScaling | None) -> dict[str, Any]:
    if scaling is None:
        return {"rope_type": "default", "rope_theta": theta}
    table = {"rope_type": scaling.kind, "rope_theta": theta, "factor": scaling.factor}
    if scaling.kind == "llama3":
        table |= {
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context,
        }
    return table


def _gpt2(config: TransformerConfig) -> HFConfig:
    activation = HF_ACTIVATIONS[config.activation]
    return {
        "n_embd": config.hidden_size,
        "n_head": config.num_heads,
        "n_layer": config.num_layers,
        "n_inner": config.intermediate_size,
        "n_positions": config.context_length,
        "layer_norm_epsilon": config.norm_eps,
        "activation_function": "gelu_new" if config.activation == "gelu_tanh" else activation,
        "scale_attn_weights": config.attention_scale is None,
    }


def _rotary(config: TransformerConfig) -> HFConfig:
    """Write the fields that all families with rotary positions spell alike."""
    return {
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_eps,
        "hidden_act": HF_ACTIVATIONS[config.activation],
        "rope_parameters": _rope_table(config.rope_theta, config.rope_scaling),
        "attention_bias": config.attention_bias,
    }


def _gpt_neox(config: TransformerConfig) -> HFConfig:
    common = _rotary(config)
    for key in ("num_key_value_heads", "head_dim", "rms_norm_eps"):
        del common[key]
    common["rope_parameters"]["partial_rotary_factor"] = config.rope_fraction
    return {
        **common,
        "layer_norm_eps": config.norm_eps,
        "use_parallel_residual": config.parallel_residual,
    }


def _layer_types(config: TransformerConfig) -> list[str]:
    return ["sliding_attention" if slides else "full_attention" for slides in config.slides]


def _gemma(config: TransformerConfig) -> HFConfig:
    common = _rotary(config)
    common["hidden_activation"] = common.pop("hidden_act")
    scale = config.attention_scale or config.head_dim**-0.5
    return {
        **common,
        "query_pre_attn_scalar": round(scale**-2),
        "sliding_window": config.sliding_window,
        "layer_types": _layer_types(config),
        "attn_logit_softcapping": config.attention_softcap,
        "final_logit_softcapping": config.logits_softcap,
    }


def write_config(family: str, config: TransformerConfig) -> HFConfig:
    """Express `config` as a config.json of `family` (a key of ARCHITECTURES).

    Raises: ConfigError where the family has no field for something that `config` asks for: what is
    written is read back and must give the same configuration.
    """
    if family not in ARCHITECTURES:
        raise ConfigError(f"unknown family {family!r}; known: {', '.join(ARCHITECTURES)}")
    if family == "gpt2":
        written = _gpt2(config)
    elif family == "gpt_neox":
        written = _gpt_neox(config)
    elif family.startswith("gemma"):
        written = _gemma(config)
    else:
        written = _rotary(config)
    if family == "llama":
        written["mlp_bias"] = config.mlp_bias
    if family == "mistral":
        written["sliding_window"] = config.sliding_window
    if family.startswith("qwen") and config.sliding_window is not None:
        written |= {"use_sliding_window": True, "sliding_window": config.sliding_window}
        written["layer_types"] = _layer_types(config)
    if family == "gemma3_text":
        written["rope_parameters"] = {
            "full_attention": written["rope_parameters"],
            "sliding_attention": _rope_table(config.local_rope_theta or config.rope_theta, None),
        }
    written |= {
        "model_type": family,
        "architectures": [ARCHITECTURES[family]],
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tie_embeddings,
    }
    differing = [
        name for name, value in vars(read_config(written)).items() if value != getattr(config, name)
    ]
    if differing:
        raise ConfigError(f"a config.json of {family} cannot express {', '.join(differing)}")
    return written
