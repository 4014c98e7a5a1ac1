"""What the trainable side is made of: parts, adapters, and the model that a cohort trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from fedloom.backbones.base import Attachment, Linear
from fedloom.core.layout import Layout, Selector, TensorSpec, Vector
from fedloom.core.types import Params
from fedloom.tuning.examples import Examples
from fedloom.tuning.exported import Exported

if TYPE_CHECKING:
    from torch import Tensor

    from fedloom.backbones.loftq import Pair
    from fedloom.backbones.schemes import Packed
    from fedloom.tuning.store import Store

__all__ = [
    "Adapter",
    "Catalog",
    "CohortModel",
    "Frozen",
    "Losses",
    "Part",
    "Rows",
    "Scoring",
    "Session",
    "Task",
]

Rows = Sequence[NDArray[np.int64]]
"""For each of k clients, the indices of its examples in the batch."""


@dataclass(frozen=True, eq=False)
class Frozen:
    """The frozen tensors of a module.

    Attributes:
        weight: of a linear map ``[d_out, d_in]``, of a normalisation ``[d]``.
        bias: ``[d_out]``, or None.
        transposed: the weight is ``[d_in, d_out]``, as in GPT-2's checkpoints.
        eps: what a layer norm or RMS norm adds to the variance; None for anything else.
        centred: the normalisation subtracts the mean: it is a layer norm.
    """

    weight: Tensor
    bias: Tensor | None
    transposed: bool = False
    eps: float | None = None
    centred: bool = True


@dataclass(frozen=True)
class Catalog:
    """What an adapter may attach to in one backbone.

    Attributes:
        family: ``bert``, ``llama``, ..., transformers' ``model_type``.
        linears: linear maps in order, by module path in transformers' naming.
        norms: normalisations, likewise.
        blocks: names of all blocks from input to output, ``head`` last.
        frozen: the tensors of one of these modules.
        stored: the matrix of a linear map in fewer bits (``meta`` where it is not held), or None.
        start: A and B that LoRA starts from at a linear map, or None.
    """

    family: str
    linears: tuple[Linear, ...]
    norms: tuple[Linear, ...]
    blocks: tuple[str, ...]
    frozen: Callable[[str], Frozen]
    stored: Callable[[str], Packed | None] = lambda name: None
    start: Callable[[str], Pair | None] = lambda name: None


class Part(Protocol):
    """One attachment of an adapter: its tensors, how they start, and their batched form."""

    @property
    def module(self) -> str:
        """Module path that it is attached to."""
        ...

    @property
    def before(self) -> bool:
        """Whether it changes the module's input instead of its output."""
        ...

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """Its tensors."""
        ...

    def initial(self, seed: int) -> Mapping[str, NDArray[np.float32]]:
        """The tensors before training; the same bits on every machine."""
        ...

    def is_identity(self, tensors: Mapping[str, Vector]) -> bool:
        """Whether the model is as if nothing were attached."""
        ...

    def attach(self, store: Store) -> Attachment:
        """The batched form over the rows of a store."""
        ...


class Adapter(Protocol):
    """Which parameters are trainable and how they are attached."""

    @property
    def affine(self) -> bool:
        """Whether averaging its tensors averages the effective weights."""
        ...

    def parts(self, catalog: Catalog) -> Sequence[Part]:
        """The parts that it attaches to a backbone.

        Raises:
            ConfigError: a target names nothing in the backbone.
        """
        ...

    def peft_config(self, catalog: Catalog) -> Mapping[str, object]:
        """PEFT's ``adapter_config.json`` of it; empty where PEFT has no such method."""
        ...


@dataclass(frozen=True)
class Task:
    """What the model is trained for.

    Attributes:
        kind: ``classify``, ``causal-lm`` or ``classify-image``.
        classes: number of classes (0 for a language model).
        pooling: what a classifier reads: ``model``, ``mean``, ``last`` or ``mask``.
        normalize: scale the pooled vector to length sqrt(width) (``mean`` only).
        head_init: how a new head starts: ``zeros``, ``normal`` or ``words``.
        mask: token id of the place that is read (``mask`` only).
        words: for a head of words the token ids of each class's: of a whole text to be read
            (``mean``), or of the one token that answers (``last``, ``mask``).
    """

    kind: str = "classify"
    classes: int = 0
    pooling: str = "mean"
    normalize: bool = False
    head_init: str = "zeros"
    mask: int = -1
    words: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Losses:
    """What a cohort's batch gave.

    Attributes:
        loss: float32 ``[k]``, mean over the client's predictions in the batch; differentiable.
        correct: float32 ``[k]``, right predictions.
        count: float32 ``[k]``, predictions.
        each: float32 ``[n]``, the loss of every prediction, client by client; detached.
        predicted: int64 ``[n]``, the class of every prediction.
        target: int64 ``[n]``, what was right.
    """

    loss: Tensor
    correct: Tensor
    count: Tensor
    each: Tensor
    predicted: Tensor
    target: Tensor


class Session(Protocol):
    """A model set up for one way of working: its data, and which tensors train."""

    def store(self, params: Params, clients: int) -> Store:
        """Rows for k clients, all starting from the global model."""
        ...

    def losses(self, store: Store, rows: Rows) -> Losses:
        """Run one batch of the active clients; ``loss.sum().backward()`` fills the store's grad."""
        ...

    def tokens(self, rows: NDArray[np.int64]) -> int:
        """Tokens that the examples `rows` hold: the unit of work and of memory."""
        ...

    def over(self, rows: NDArray[np.int64]) -> Session:
        """The same for a few examples that are run many times, computing once what it can.

        Args:
            rows: int64, the examples that will be asked for.
        """
        ...

    def flops(self, tokens: int) -> float:
        """Floating-point operations of one step over so many tokens, from the shapes."""
        ...

    def memory(self, tokens: int, *, backward: bool) -> int:
        """Bytes of the frozen weights and of the activations of a step over so many tokens.

        Args:
            tokens: of one client's batch.
            backward: whether activations are kept for a backward pass.
        """
        ...


class Scoring(Session, Protocol):
    """The session of a classifier all of which is here: it can be asked what it would say."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """int64 ``[N]``, the class of each example; -1 where it has no label."""
        ...

    @property
    def classes(self) -> int:
        """How many classes there are, C."""
        ...

    def logits(self, store: Store, rows: Rows) -> Tensor:
        """What the active clients' models say of a batch, ``[n, C]``, client by client."""
        ...

    def features(self, rows: NDArray[np.int64]) -> Tensor:
        """Examples as the frozen backbone sees them: ``[n, d]``, float32, means over tokens."""
        ...


class CohortModel(Protocol):
    """A frozen backbone with an adapter and a task, trained for k clients at once."""

    @property
    def layout(self) -> Layout:
        """The tensors that one client may train."""
        ...

    @property
    def batched(self) -> bool:
        """Whether k > 1 clients can be trained at once."""
        ...

    @property
    def note(self) -> str:
        """What a user should know of how it trains; empty where there is nothing to say."""
        ...

    @property
    def bytes_per_token(self) -> int:
        """Memory that one token of a training step takes, estimated from the shapes."""
        ...

    def initial(self, seed: int) -> Params:
        """The model before the first round."""
        ...

    def session(self, params: Params, train: Selector, examples: Examples) -> Session:
        """Set the model up to train some tensors (or none, to evaluate) on some examples.

        Tensors that do not train keep the values in `params` while the session is used.
        """
        ...

    def exported(self) -> Exported:
        """How its tensors are written for PEFT."""
        ...
