"""What transformers calls the parts of each family, as modules and in checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["FAMILIES", "Family"]


@dataclass(frozen=True)
class Family:
    """Module paths of one family, relative to the base model.

    Attributes:
        prefix: transformers' ``base_model_prefix``.
        layer: path of block i, with ``{}`` for i.
        parts: paths inside a block: ``q k v`` or ``qkv``, ``o``, ``gate`` where gated, ``up``,
            ``down``, ``norm1``, ``norm2``.
        outer: paths outside blocks: embeddings, their norm, the final norm.
        transposed: weights are stored ``[d_in, d_out]`` (GPT-2's Conv1D).
        stored_layer: path of block i in checkpoints, where it is not the module path.
        stored_parts: paths inside a block in checkpoints, where they are not the module paths.
    """

    prefix: str
    layer: str
    parts: Mapping[str, str]
    outer: Mapping[str, str]
    transposed: bool = False
    stored_layer: str = ""
    stored_parts: Mapping[str, str] | None = None

    def module(self, part: str, layer: int) -> str:
        """Module path of a part of block `layer`."""
        return self.layer.format(layer) + self.parts[part]

    def stored(self, module: str, field: str) -> tuple[str, ...]:
        """Names that a checkpoint may hold ``module.field`` under, the likeliest first.

        A checkpoint has the prefix or not, as it was saved from a task's model or the base model.
        BERT's first checkpoints call a norm's weight gamma and its bias beta.
        """
        older = {"weight": "gamma", "bias": "beta"}.get(field, field)
        names = (f"{module}.{field}", f"{module}.{older}") if field else (module,)
        return tuple(p + name for name in names for p in ("", f"{self.prefix}."))

    def stored_part(self, part: str, layer: int, field: str) -> tuple[str, ...]:
        """Names that a checkpoint may hold a part of block `layer` under."""
        names = self.stored(self.module(part, layer), field)
        if self.stored_parts is None:
            return names
        return (
            *self.stored(self.stored_layer.format(layer) + self.stored_parts[part], field),
            *names,
        )


_ENCODER_PARTS = {
    "o": "attention.output.dense",
    "up": "intermediate.dense",
    "down": "output.dense",
}

_LLAMA = Family(
    prefix="model",
    layer="layers.{}.",
    parts={
        "q": "self_attn.q_proj",
        "k": "self_attn.k_proj",
        "v": "self_attn.v_proj",
        "o": "self_attn.o_proj",
        "gate": "mlp.gate_proj",
        "up": "mlp.up_proj",
        "down": "mlp.down_proj",
        "norm1": "input_layernorm",
        "norm2": "post_attention_layernorm",
    },
    outer={"tokens": "embed_tokens", "final": "norm"},
)

FAMILIES: Mapping[str, Family] = {
    "bert": Family(
        prefix="bert",
        layer="encoder.layer.{}.",
        parts={
            **_ENCODER_PARTS,
            "q": "attention.self.query",
            "k": "attention.self.key",
            "v": "attention.self.value",
            "norm1": "attention.output.LayerNorm",
            "norm2": "output.LayerNorm",
        },
        outer={
            "tokens": "embeddings.word_embeddings",
            "positions": "embeddings.position_embeddings",
            "types": "embeddings.token_type_embeddings",
            "norm": "embeddings.LayerNorm",
            "pooler": "pooler.dense",
        },
    ),
    "llama": _LLAMA,
    "qwen2": _LLAMA,
    "gpt2": Family(
        prefix="transformer",
        layer="h.{}.",
        parts={
            "qkv": "attn.c_attn",
            "o": "attn.c_proj",
            "up": "mlp.c_fc",
            "down": "mlp.c_proj",
            "norm1": "ln_1",
            "norm2": "ln_2",
        },
        outer={"tokens": "wte", "positions": "wpe", "final": "ln_f"},
        transposed=True,
    ),
    # Modules as of transformers 5; its checkpoints keep the names of version 4.
    "vit": Family(
        prefix="vit",
        layer="layers.{}.",
        parts={
            "q": "attention.q_proj",
            "k": "attention.k_proj",
            "v": "attention.v_proj",
            "o": "attention.o_proj",
            "up": "mlp.fc1",
            "down": "mlp.fc2",
            "norm1": "layernorm_before",
            "norm2": "layernorm_after",
        },
        outer={
            "patches": "embeddings.patch_embeddings.projection",
            "first": "embeddings.cls_token",
            "positions": "embeddings.position_embeddings",
            "final": "layernorm",
        },
        stored_layer="encoder.layer.{}.",
        stored_parts={
            **_ENCODER_PARTS,
            "q": "attention.attention.query",
            "k": "attention.attention.key",
            "v": "attention.attention.value",
            "norm1": "layernorm_before",
            "norm2": "layernorm_after",
        },
    ),
}
