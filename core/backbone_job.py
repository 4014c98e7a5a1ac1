"""What a job says of its backbone: the frozen model, and how it is read, stored and run."""

from dataclasses import dataclass

from fedloom.core.emulation import EmulatorConfig
from fedloom.core.errors import one_of, require
from fedloom.core.patterns import check_pattern, check_words

__all__ = ["FORMATS", "BackboneConfig"]

FORMATS = (
    *("", "int8", "int4", "int4-64", "int4-128", "nf4"),
    *("uint4-32", "uint4-64", "uint4-128", "q8_0", "q4_0", "q4_1"),
)
"""Names of `BackboneConfig.quantization`."""


@dataclass(frozen=True)
class BackboneConfig:
    """The frozen model.

    Attributes:
        name: ``minilm``, ``smollm2``, a folder in transformers' format, or a hub name.
        task: ``classify`` (text), ``causal-lm`` or ``classify-image``.
        pooling: what a classifier reads: ``model`` (the model's own way: first token, pooler, last
            token), ``mean`` (the mean over tokens, as sentence encoders are trained), ``last``
            (the last token, from which a language model goes on) or ``mask`` (the place of
            ``{mask}`` in the pattern, as a masked language model reads it).
        head_init: ``zeros`` or ``normal`` (standard deviation 0.02) for a new head, or ``words``:
            it says from the start which class's word the backbone knows to fit best.
        pattern: what stands around each text: ``{text}``, and ``{mask}`` where the model predicts
            at a place (``mask`` only); empty for the text alone.
        words: for a head of words a word or phrase for each class, in the order of the classes;
            empty for the classes' names.
        normalize: scale the pooled vector to length sqrt(width) before the head (``mean`` only).
        max_tokens: longer texts are cut.
        dtype: ``float32``, ``bfloat16``, or ``auto`` (bfloat16 where the processor multiplies it
            faster, by a short measurement).
        engine: ``fused`` (own blocks), ``transformers`` (module swap), or ``auto``.
        quantization: format that frozen matrices are stored in, sent in and multiplied from: empty
            (as the folder has them) or one of `FORMATS`: ``int8`` (a scale for each row), ``int4``
            and ``nf4`` (for each group; bitsandbytes' in engine ``transformers``), ``uint4`` (and a
            least value), or GGUF's blocks.
        kernel: what multiplies with weights in fewer bits: ``auto`` (the fastest here that the
            learners can use), ``dequantize``, ``dynamic-int8`` or ``kleidiai``.
        emulator: what devices get in its place (offsite tuning).
    """

    name: str = "minilm"
    task: str = "classify"
    pooling: str = "mean"
    head_init: str = "zeros"
    pattern: str = ""
    words: tuple[str, ...] = ()
    normalize: bool = False
    max_tokens: int = 64
    dtype: str = "float32"
    engine: str = "auto"
    quantization: str = ""
    kernel: str = "auto"
    emulator: EmulatorConfig = EmulatorConfig()

    def __post_init__(self) -> None:
        one_of("backbone.task", self.task, ("classify", "causal-lm", "classify-image"))
        one_of("backbone.pooling", self.pooling, ("mean", "model", "last", "mask"))
        one_of("backbone.head_init", self.head_init, ("zeros", "normal", "words"))
        one_of("backbone.dtype", self.dtype, ("auto", "float32", "bfloat16"))
        one_of("backbone.engine", self.engine, ("auto", "fused", "transformers"))
        one_of("backbone.quantization", self.quantization, FORMATS)
        one_of("backbone.kernel", self.kernel, ("auto", "dequantize", "dynamic-int8", "kleidiai"))
        require(self.max_tokens >= 2, "backbone.max_tokens", self.max_tokens, "2 or more")
        check_pattern(self.pattern, task=self.task, pooling=self.pooling)
        if self.head_init == "words":
            said = {"pattern": self.pattern, "task": self.task, "pooling": self.pooling}
            check_words(self.words, **said)
        else:
            text = f"none: the head starts from backbone.head_init = {self.head_init!r}"
            require(not self.words, "backbone.words", self.words, text)
