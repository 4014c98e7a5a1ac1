"""Deep prompts: trained keys and values before the text, in every block."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedloom.backbones.base import Attachment, Linear
from fedloom.core.errors import ConfigError, require
from fedloom.core.layout import TensorSpec, Vector
from fedloom.core.seeds import stream
from fedloom.tuning.attachments import Prefix as PrefixAttachment
from fedloom.tuning.base import Catalog, Part
from fedloom.tuning.placing import chosen
from fedloom.tuning.store import Store

__all__ = ["Prefix", "PrefixPart"]

KEYS = {"bert": "key", "llama": "k_proj", "qwen2": "k_proj"}
DECODERS = ("llama", "qwen2")


@dataclass(frozen=True)
class PrefixPart:
    """The keys and values that stand before the text in one block.

    Attributes:
        linear: the map that gives the block's own keys.
        tokens: n, how many there are.
        start: standard deviation that they start with.
    """

    linear: Linear
    tokens: int
    start: float
    before = False

    @property
    def module(self) -> str:
        """The site that the block's attention has for them."""
        return f"{self.linear.name.rpartition('.')[0]}.prefix"

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """Keys and values, ``[n, w]`` each."""
        shape, tags = (self.tokens, self.linear.d_out), frozenset({"prefix"})
        names = (f"{self.module}.keys", f"{self.module}.values")
        return tuple(TensorSpec(name, shape, self.linear.block, tags) for name in names)

    def initial(self, seed: int) -> dict[str, NDArray[np.float32]]:
        """Uniform numbers of the chosen standard deviation, the same bits on every machine."""
        bound = self.start * 3**0.5
        found = {}
        for spec in self.specs:
            numbers = stream(seed, "initial", client=spec.name).uniform(spec.size)
            found[spec.name] = ((2 * numbers - 1) * bound).astype(np.float32).reshape(spec.shape)
        return found

    def is_identity(self, tensors: Mapping[str, Vector]) -> bool:
        """Never: even a key of zeros takes its share of the attention."""
        return False

    def attach(self, store: Store) -> Attachment:
        """The clients' own keys and values."""
        keys, values = (spec.name for spec in self.specs)
        return PrefixAttachment(store, keys=keys, values=values)


class Prefix:
    """Trained keys and values before the text in every block (Li and Liang, ACL 2021).

    For text models of the fused families with keys of their own: BERT, Llama, Qwen2. PEFT knows it
    as PREFIX_TUNING, for language models.

    Args:
        tokens: how many stand before the text.
        start: standard deviation that they start with (PEFT: 1).
        layers: indices of transformer layers, negative from the top; empty for all.
    """

    affine = True
    fused_only = True

    def __init__(self, tokens: int = 10, start: float = 0.5, layers: tuple[int, ...] = ()) -> None:
        require(tokens >= 1, "adapter.tokens", tokens, "1 or more")
        require(0 <= start < float("inf"), "adapter.start", start, "0 or more, and finite")
        self._tokens, self._start, self._layers = tokens, start, layers

    def parts(self, catalog: Catalog) -> Sequence[Part]:
        """One for each block."""
        if catalog.family not in KEYS:
            known = ", ".join(KEYS)
            raise ConfigError(f"adapter prefix: {catalog.family!r} models; {known} can have it")
        keys = chosen(catalog, (KEYS[catalog.family],), self._layers)
        return [PrefixPart(linear, self._tokens, self._start) for linear in keys]

    def peft_config(self, catalog: Catalog) -> Mapping[str, object]:
        """``PrefixTuningConfig``, where all blocks of a decoder have one; PEFT fits in the rest."""
        if catalog.family not in DECODERS or self._layers:
            return {}
        return {
            "peft_type": "PREFIX_TUNING",
            "num_virtual_tokens": self._tokens,
            "prefix_projection": False,
            "num_transformer_submodules": 1,
        }

    @staticmethod
    def converted(tensors: Mapping[str, Vector]) -> dict[str, Vector]:
        """As PEFT saves them: ``[n, layers * 2 * w]``, keys and values of each layer in turn."""
        sides = [t for name, t in tensors.items() if ".prefix." in name]
        return {"prompt_embeddings": np.concatenate(sides, axis=1)}
