"""Model families: the content of a Hugging Face config.json -> TransformerConfig.

A family reads every field of its config class that changes the result; values that the decoder
cannot honour are errors. Keys that transformers' class of the family does not know have no effect
there and have none here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rljax.models.config import TransformerConfig, gpt2_config
from rljax.models.config_fields import ConfigError, Fields, layer_windows, read_rope, whole_rope

HFConfig = dict[str, Any]

# Features of any family that no field of TransformerConfig can express; each must be absent or off.
UNSUPPORTED = (
    "quantization_config",
    "add_cross_attention",
    "is_encoder_decoder",
    "use_bidirectional_attention",
    "scale_attn_by_inverse_layer_idx",
    "num_experts",
    "num_local_experts",
    "kv_lora_rank",
)


def _llama_like(
    fields: Fields,
    *,
    vocab: int,
    hidden: int,
    mlp: int,
    layers: int,
    heads: int,
    context: int,
    kv_heads: int | None = None,
) -> dict[str, Any]:
    """Read the fields that all families descending from Llama spell alike."""
    hidden = fields.size("hidden_size", hidden)
    heads = fields.size("num_attention_heads", heads)
    if "num_key_value_heads" in fields.values:  # an explicit null means as many as query heads
        kv_heads = None
    return {
        "vocab_size": fields.size("vocab_size", vocab),
        "hidden_size": hidden,
        "num_layers": fields.size("num_hidden_layers", layers),
        "num_heads": heads,
        "num_kv_heads": fields.size("num_key_value_heads", kv_heads or heads),
        "head_dim": fields.size("head_dim", hidden // heads),
        "intermediate_size": fields.size("intermediate_size", mlp),
        "context_length": fields.size("max_position_embeddings", context),
        "norm_eps": float(fields.get("rms_norm_eps", 1e-6)),
    }


def _read_gpt2(fields: Fields) -> TransformerConfig:
    hidden = fields.size("n_embd", 768)
    return gpt2_config(
        vocab_size=fields.size("vocab_size", 50257),
        hidden_size=hidden,
        num_layers=fields.size("n_layer", 12),
        num_heads=fields.size("n_head", 12),
        intermediate_size=fields.size("n_inner", 4 * hidden),
        context_length=fields.size("n_positions", 1024),
        norm_eps=float(fields.get("layer_norm_epsilon", 1e-5)),
        activation=fields.activation("activation_function", "gelu_new"),
        attention_scale=None if fields.get("scale_attn_weights", True) else 1.0,
        tie_embeddings=bool(fields.get("tie_word_embeddings", True)),
    )


def _read_gpt_neox(fields: Fields) -> TransformerConfig:
    hidden, heads = fields.size("hidden_size", 6144), fields.size("num_attention_heads", 64)
    rope = read_rope(
        fields, 10000.0, theta_key="rotary_emb_base", fraction_key="rotary_pct", fraction=0.25
    )
    bias = bool(fields.get("attention_bias", True))
    return TransformerConfig(
        vocab_size=fields.size("vocab_size", 50432),
        hidden_size=hidden,
        num_layers=fields.size("num_hidden_layers", 44),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=hidden // heads,
        intermediate_size=fields.size("intermediate_size", 24576),
        context_length=fields.size("max_position_embeddings", 2048),
        norm="layer",
        norm_eps=float(fields.get("layer_norm_eps", 1e-5)),
        activation=fields.activation("hidden_act", "gelu"),
        gated_mlp=False,
        parallel_residual=bool(fields.get("use_parallel_residual", True)),
        rope_theta=rope.theta,
        rope_fraction=rope.fraction,
        rope_scaling=rope.scaling,
        attention_bias=bias,
        attention_out_bias=bias,
        mlp_bias=True,
        norm_bias=True,
        tie_embeddings=bool(fields.get("tie_word_embeddings", False)),
    )


def _read_llama(fields: Fields) -> TransformerConfig:
    common = _llama_like(
        fields, vocab=32000, hidden=4096, mlp=11008, layers=32, heads=32, context=2048
    )
    if any(layer_windows(fields, common["num_layers"], lambda i: False)):
        raise fields.error("layer_types", "llama has no sliding layers; use mistral or qwen2")
    rope = whole_rope(fields, 10000.0)
    bias = bool(fields.get("attention_bias", False))
    return TransformerConfig(
        **common,
        activation=fields.activation("hidden_act", "silu"),
        rope_theta=rope.theta,
        rope_scaling=rope.scaling,
        attention_bias=bias,
        attention_out_bias=bias,
        mlp_bias=bool(fields.get("mlp_bias", False)),
        tie_embeddings=bool(fields.get("tie_word_embeddings", False)),
    )


def _read_mistral(fields: Fields) -> TransformerConfig:
    # No window means none here: transformers writes null, and only a missing key is the default.
    window = fields.values.get("sliding_window", 4096)
    common = _llama_like(
        fields,
        vocab=32000,
        hidden=4096,
        mlp=14336,
        layers=32,
        heads=32,
        context=131072,
        kv_heads=8,
    )
    slides = layer_windows(fields, common["num_layers"], lambda i: window is not None)
    if set(slides) != {window is not None}:
        raise fields.error("layer_types", "all layers of mistral slide, or none does")
    rope = whole_rope(fields, 10000.0)
    return TransformerConfig(
        **common,
        activation=fields.activation("hidden_act", "silu"),
        rope_theta=rope.theta,
        rope_scaling=rope.scaling,
        sliding_window=window,
        tie_embeddings=bool(fields.get("tie_word_embeddings", False)),
    )


def _read_qwen(fields: Fields, *, qwen3: bool) -> TransformerConfig:
    common = _llama_like(
        fields,
        vocab=151936,
        hidden=4096,
        mlp=22016,
        layers=32,
        heads=32,
        context=32768,
        kv_heads=32,
    )
    if qwen3:
        common["head_dim"] = fields.size("head_dim", 128)
    layers = common["num_layers"]
    window = fields.get("sliding_window", 4096) if fields.get("use_sliding_window", False) else None
    first = fields.get("max_window_layers", 28)
    slides = layer_windows(fields, layers, lambda i: window is not None and i >= first)
    if window is None and any(slides):
        raise fields.error("layer_types", "sliding layers need use_sliding_window and a window")
    rope = whole_rope(fields, 10000.0)
    bias = bool(fields.get("attention_bias", False))
    return TransformerConfig(
        **common,
        activation=fields.activation("hidden_act", "silu"),
        rope_theta=rope.theta,
        rope_scaling=rope.scaling,
        sliding_window=window if any(slides) else None,
        layer_windows=slides if any(slides) else None,
        attention_bias=bias if qwen3 else True,
        attention_out_bias=bias if qwen3 else False,
        qk_norm=qwen3,
        tie_embeddings=bool(fields.get("tie_word_embeddings", False)),
    )


def _gemma(fields: Fields, vocab: int, context: int) -> dict[str, Any]:
    """Read the fields that Gemma 2 and Gemma 3 share."""
    common = _llama_like(
        fields,
        vocab=vocab,
        hidden=2304,
        mlp=9216,
        layers=26,
        heads=8,
        context=context,
        kv_heads=4,
    )
    common["head_dim"] = fields.size("head_dim", 256)
    bias = bool(fields.get("attention_bias", False))
    return {
        **common,
        "norm_scale_offset": 1.0,
        "activation": fields.activation("hidden_activation", "gelu_pytorch_tanh"),
        "attention_bias": bias,
        "attention_out_bias": bias,
        "post_norms": True,
        "attention_scale": float(fields.get("query_pre_attn_scalar", 256)) ** -0.5,
        "tie_embeddings": bool(fields.get("tie_word_embeddings", True)),
        "embedding_scale": common["hidden_size"] ** 0.5,
    }


def _sliding(window: int | None, slides: tuple[bool, ...]) -> dict[str, Any]:
    """Express a window and the layers that use it; no such layer, no window."""
    if window is None or not any(slides):
        return {"sliding_window": None, "layer_windows": None}
    return {"sliding_window": window, "layer_windows": slides}


def _softcap(fields: Fields, key: str, default: float | None) -> float | None:
    """Read a soft-cap; an explicit null is none, a missing key is the family's default."""
    value = fields.values.get(key, default)
    return None if value is None else float(value)


def _read_gemma2(fields: Fields) -> TransformerConfig:
    common = _gemma(fields, 256000, 8192)
    slides = layer_windows(fields, common["num_layers"], lambda i: bool((i + 1) % 2))
    rope = whole_rope(fields, 10000.0)
    return TransformerConfig(
        **common,
        **_sliding(fields.values.get("sliding_window", 4096), slides),
        rope_theta=rope.theta,
        rope_scaling=rope.scaling,
        attention_softcap=_softcap(fields, "attn_logit_softcapping", 50.0),
        logits_softcap=_softcap(fields, "final_logit_softcapping", 30.0),
    )


def _read_gemma3(fields: Fields) -> TransformerConfig:
    common = _gemma(fields, 262208, 131072)
    pattern = fields.get("sliding_window_pattern", fields.get("_sliding_window_pattern", 6))
    slides = layer_windows(fields, common["num_layers"], lambda i: bool((i + 1) % pattern))
    rope = whole_rope(fields, 1_000_000.0, "full_attention")
    # Only the global layers are scaled; rope_parameters holds a table of each kind of layer.
    tables = fields.get("rope_parameters", {})
    local = read_rope(
        Fields({"rope_parameters": tables.get("sliding_attention", {})}, fields.where),
        fields.get("rope_local_base_freq", 10000.0),
    )
    if local.scaling is not None or local.fraction != 1.0:
        raise fields.error("rope_parameters", "sliding layers of gemma3 are neither scaled nor cut")
    return TransformerConfig(
        **common,
        **_sliding(fields.values.get("sliding_window", 4096), slides),
        rope_theta=rope.theta,
        rope_scaling=rope.scaling,
        local_rope_theta=local.theta,
        qk_norm=True,
        attention_softcap=_softcap(fields, "attn_logit_softcapping", None),
        logits_softcap=_softcap(fields, "final_logit_softcapping", None),
    )


READERS: dict[str, Callable[[Fields], TransformerConfig]] = {
    "gpt2": _read_gpt2,
    "gpt_neox": _read_gpt_neox,
    "llama": _read_llama,
    "mistral": _read_mistral,
    "qwen2": lambda fields: _read_qwen(fields, qwen3=False),
    "qwen3": lambda fields: _read_qwen(fields, qwen3=True),
    "gemma2": _read_gemma2,
    "gemma3_text": _read_gemma3,
}


def text_config(hf_config: HFConfig, where: str = "config.json") -> HFConfig:
    """Reduce a Gemma 3 image-and-text config to its language model; return others unchanged.

    Raises: ConfigError where `model_type` is missing or no known family.
    """
    family = hf_config.get("model_type")
    if family == "gemma3":
        text = dict(hf_config.get("text_config") or {})
        outer = {
            k: hf_config[k] for k in ("dtype", "torch_dtype", "eos_token_id") if k in hf_config
        }
        return {
            **outer,
            **text,
            "model_type": "gemma3_text",
            "architectures": ["Gemma3ForCausalLM"],
        }
    if family not in READERS:
        raise ConfigError(
            f"{where}: model_type {family!r} is not supported; known: "
            f"{', '.join(READERS)}, and the text part of gemma3"
        )
    return hf_config


def read_config(hf_config: HFConfig, where: str = "config.json") -> TransformerConfig:
    """Translate the content of a config.json.

    hf_config: the parsed file, of a family in READERS (or gemma3: its text part is read).
    where: the file's name, for errors.

    Raises: ConfigError naming file and key for an unknown family, an unsupported feature, or a
    value that the decoder has no option for.
    """
    hf_config = text_config(hf_config, where)
    fields = Fields(hf_config, where)
    for key in UNSUPPORTED:
        if hf_config.get(key):
            raise fields.error(key, "this is not supported; use a checkpoint without it")
    try:
        return READERS[hf_config["model_type"]](fields)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from error
