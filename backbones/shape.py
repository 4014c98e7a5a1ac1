"""The shape of a backbone, read from the ``config.json`` that transformers wrote."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from fedloom.core.errors import ModelError

__all__ = ["Activation", "Shape", "read_shape"]

Activation: TypeAlias = Literal["gelu", "gelu_tanh", "silu", "relu"]
Config: TypeAlias = Mapping[str, object]

_ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


@dataclass(frozen=True)
class Shape:
    """Everything about a transformer but its weights.

    Attributes:
        family: transformers' ``model_type``.
        width: of the hidden states, d.
        depth: number of transformer blocks.
        heads: of the queries.
        kv_heads: of keys and values; fewer than `heads` in grouped-query attention.
        head_dim: width of one head.
        inner: width inside the MLP.
        activation: of the MLP.
        eps: added to the variance in norms.
        vocab: number of token ids; 0 for images.
        max_positions: longest example that it takes, in tokens.
        rms: norms are RMS norms; else layer norms.
        post_norm: norms follow the residual sum; else they open each half of a block.
        causal: tokens attend to no later token.
        rope_theta: base of the rotary embedding (https://arxiv.org/abs/2104.09864), or None.
        gated: the MLP multiplies two projections.
        qkv_bias: queries, keys and values have biases.
        out_bias: the attention's output projection has one.
        mlp_bias: the MLP's projections have them.
        tied: the language-model head is the embedding.
        image: height and width of images in pixels; (0, 0) for text.
        patch: height and width of a patch.
        channels: of images.
    """

    family: str
    width: int
    depth: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    activation: Activation
    eps: float
    vocab: int
    max_positions: int
    rms: bool = False
    post_norm: bool = False
    causal: bool = False
    rope_theta: float | None = None
    gated: bool = False
    qkv_bias: bool = True
    out_bias: bool = True
    mlp_bias: bool = True
    tied: bool = True
    image: tuple[int, int] = (0, 0)
    patch: tuple[int, int] = (0, 0)
    channels: int = 0

    @property
    def patches(self) -> int:
        """Patches of one image."""
        if not self.channels:
            return 0
        return (self.image[0] // self.patch[0]) * (self.image[1] // self.patch[1])

    @property
    def qkv_widths(self) -> tuple[int, int, int]:
        """Widths of queries, keys and values."""
        kv = self.kv_heads * self.head_dim
        return self.heads * self.head_dim, kv, kv


def read_shape(config: Config) -> Shape:
    """Read a transformers configuration.

    Raises:
        ModelError: the family is not one of the fused ones, or it uses an option that the fused
            blocks lack; the generic engine may still run it.
    """
    family = str(config.get("model_type"))
    reader = _READERS.get(family)
    if reader is None:
        known = ", ".join(_READERS)
        raise ModelError(f"model_type = {family!r}: no fused blocks; fused families: {known}")
    return reader(config)


def _bert(config: Config) -> Shape:
    _refuse(config, "is_decoder", False)
    _refuse(config, "add_cross_attention", False)
    _refuse(config, "position_embedding_type", "absolute")
    width, heads = _int(config, "hidden_size", 768), _int(config, "num_attention_heads", 12)
    return Shape(
        family="bert",
        width=width,
        depth=_int(config, "num_hidden_layers", 12),
        heads=heads,
        kv_heads=heads,
        head_dim=width // heads,
        inner=_int(config, "intermediate_size", 3072),
        activation=_activation(config, "hidden_act", "gelu"),
        eps=_float(config, "layer_norm_eps", 1e-12),
        vocab=_int(config, "vocab_size", 30522),
        max_positions=_int(config, "max_position_embeddings", 512),
        post_norm=True,
    )


def _llama(config: Config) -> Shape:
    _refuse(config, "use_sliding_window", False)
    family = str(config["model_type"])
    width, heads = _int(config, "hidden_size", 4096), _int(config, "num_attention_heads", 32)
    attention_bias = bool(config.get("attention_bias", False))
    return Shape(
        family=family,
        width=width,
        depth=_int(config, "num_hidden_layers", 32),
        heads=heads,
        kv_heads=_int(config, "num_key_value_heads", heads),
        head_dim=_int(config, "head_dim", width // heads),
        inner=_int(config, "intermediate_size", 11008),
        activation=_activation(config, "hidden_act", "silu"),
        eps=_float(config, "rms_norm_eps", 1e-6),
        vocab=_int(config, "vocab_size", 32000),
        max_positions=_int(config, "max_position_embeddings", 2048),
        rms=True,
        causal=True,
        rope_theta=_rope_theta(config),
        gated=True,
        qkv_bias=family == "qwen2" or attention_bias,
        out_bias=family == "llama" and attention_bias,
        mlp_bias=bool(config.get("mlp_bias", False)),
        tied=bool(config.get("tie_word_embeddings", False)),
    )


def _gpt2(config: Config) -> Shape:
    for option in ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn"):
        _refuse(config, option, False)
    _refuse(config, "scale_attn_weights", True)
    _refuse(config, "add_cross_attention", False)
    width, heads = _int(config, "n_embd", 768), _int(config, "n_head", 12)
    return Shape(
        family="gpt2",
        width=width,
        depth=_int(config, "n_layer", 12),
        heads=heads,
        kv_heads=heads,
        head_dim=width // heads,
        inner=_int(config, "n_inner", 4 * width),
        activation=_activation(config, "activation_function", "gelu_new"),
        eps=_float(config, "layer_norm_epsilon", 1e-5),
        vocab=_int(config, "vocab_size", 50257),
        max_positions=_int(config, "n_positions", 1024),
        causal=True,
        tied=bool(config.get("tie_word_embeddings", True)),
    )


def _vit(config: Config) -> Shape:
    width, heads = _int(config, "hidden_size", 768), _int(config, "num_attention_heads", 12)
    image, patch = _pair(config, "image_size", 224), _pair(config, "patch_size", 16)
    return Shape(
        family="vit",
        width=width,
        depth=_int(config, "num_hidden_layers", 12),
        heads=heads,
        kv_heads=heads,
        head_dim=width // heads,
        inner=_int(config, "intermediate_size", 3072),
        activation=_activation(config, "hidden_act", "gelu"),
        eps=_float(config, "layer_norm_eps", 1e-12),
        vocab=0,
        max_positions=1 + (image[0] // patch[0]) * (image[1] // patch[1]),
        qkv_bias=bool(config.get("qkv_bias", True)),
        image=image,
        patch=patch,
        channels=_int(config, "num_channels", 3),
    )


_READERS: Mapping[str, Callable[[Config], Shape]] = {
    "bert": _bert,
    "llama": _llama,
    "qwen2": _llama,
    "gpt2": _gpt2,
    "vit": _vit,
}


def _int(config: Config, field: str, default: int) -> int:
    value = config.get(field)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelError(f"config.json: {field} = {value!r}: expected a positive integer")
    return value


def _float(config: Config, field: str, default: float) -> float:
    value = config.get(field, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
        raise ModelError(f"config.json: {field} = {value!r}: expected a positive number")
    return float(value)


def _pair(config: Config, field: str, default: int) -> tuple[int, int]:
    value = config.get(field, default)
    pair = (value, value) if isinstance(value, int) else value
    match pair:
        case (int(height), int(width)) | [int(height), int(width)] if height > 0 and width > 0:
            return height, width
    raise ModelError(f"config.json: {field} = {value!r}: expected one or two positive integers")


def _activation(config: Config, field: str, default: str) -> Activation:
    name = str(config.get(field, default))
    if name not in _ACTIVATIONS:
        allowed = ", ".join(_ACTIVATIONS)
        raise ModelError(f"config.json: {field} = {name!r}: fused blocks have {allowed}")
    return _ACTIVATIONS[name]


def _rope_theta(config: Config) -> float:
    """The base of the rotary embedding: transformers 5 nests it, transformers 4 does not."""
    parameters = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(parameters, Mapping):
        raise ModelError(f"config.json: rope_parameters = {parameters!r}: expected an object")
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind != "default":
        raise ModelError(f"config.json: rope_type = {kind!r}: fused blocks have 'default'")
    nested = {"rope_theta": parameters.get("rope_theta", config.get("rope_theta", 10_000.0))}
    return _float(nested, "rope_theta", 10_000.0)


def _refuse(config: Config, field: str, only: object) -> None:
    value = config.get(field, only)
    if value != only and value is not None:
        raise ModelError(f"config.json: {field} = {value!r}: fused blocks have {only!r} only")
