"""The work that every system of the simulator benchmark does, and its data.

Only numpy is needed here, so that systems with conflicting requirements can share the definition.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Shape:
    """The size of a BERT encoder."""

    layers: int
    hidden: int
    heads: int
    intermediate: int
    vocab: int = 30_522


@dataclass(frozen=True)
class Work:
    """What one client does in one round: a local epoch of plain SGD on LoRA adapters."""

    name: str
    """What the command line calls it."""

    shape: Shape
    """The frozen backbone. Its weights are random: values do not change the speed."""

    samples: int = 16
    """Sequences that each client holds."""

    tokens: int = 32
    """Length of each sequence; all are equally long, so that nothing is padded."""

    batch: int = 8
    """Sequences in one optimizer step."""

    labels: int = 2
    """Classes of the sequence classification."""

    rank: int = 8
    """Rank of the LoRA adapters on the query and value projections."""

    alpha: int = 16
    """LoRA scale: the product of the factors is multiplied by alpha / rank."""

    learning_rate: float = 0.5
    """Step size of the clients' SGD, without momentum or weight decay."""

    seed: int = 2024
    """Seed of the data and of the initial weights."""

    @property
    def steps(self) -> int:
        """Optimizer steps of one client in one round; a short last batch counts."""
        return -(-self.samples // self.batch)


# The configuration published with all-MiniLM-L6-v2.
MINILM = Shape(layers=6, hidden=384, heads=12, intermediate=1536)
TINY = Shape(layers=2, hidden=64, heads=2, intermediate=256)

WORKS: Mapping[str, Work] = MappingProxyType(
    {
        work.name: work
        for work in (
            Work("minilm", MINILM),
            Work("tiny", TINY),
            Work("minilm-small-clients", MINILM, samples=4, tokens=16, batch=2),
            Work("tiny-small-clients", TINY, samples=4, tokens=16, batch=2),
        )
    }
)
"""The works by name: two shapes, each with usual and with small clients."""


def client_data(work: Work, client: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw the data of one client, the same for every system and in every round.

    Args:
        work: What to draw for.
        client: Index of the client, from 0.

    Returns:
        Token ids of shape `[samples, tokens]` and class labels of shape `[samples]`.
    """
    generator = np.random.default_rng([work.seed, client])
    ids = generator.integers(0, work.shape.vocab, (work.samples, work.tokens), dtype=np.int64)
    return ids, generator.integers(0, work.labels, work.samples, dtype=np.int64)
