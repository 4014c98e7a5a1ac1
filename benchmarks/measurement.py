"""What is asked of one measurement of fedloom, and what comes out."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

__all__ = ["Measurement", "Outcome"]


@dataclass(frozen=True)
class Measurement:
    """What is measured.

    Attributes:
        folder: of the model.
        clients: that train in every round.
        rounds: timed; the best counts.
        samples: sequences of each client.
        tokens: length of each sequence, or the longest where they differ.
        batch: sequences in a client's optimizer step.
        dtype: ``float32`` or ``bfloat16``, of the frozen weights and activations.
        engine: ``fused`` or ``transformers``.
        layers: that LoRA is attached to; empty for all.
        cached: keep what lies below them.
        lengths: ``equal``, or ``skewed``: log-normal, of mean about 29.
        padding: ``packed``, or what is padded: every example to the ``longest`` of all, or to the
            longest of its client's ``batch``.
        together: clients trained at once; 0 leaves it to the simulator.
        workers: chunks trained side by side, one thread each.
        device: ``cpu`` or ``cuda``.
    """

    folder: str
    clients: int = 32
    rounds: int = 4
    samples: int = 16
    tokens: int = 32
    batch: int = 8
    dtype: str = "bfloat16"
    engine: str = "fused"
    layers: tuple[int, ...] = ()
    cached: bool = False
    lengths: str = "equal"
    padding: str = "packed"
    together: int = 0
    workers: int = 2
    device: str = "cpu"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        table = json.loads(text)
        return cls(**{**table, "layers": tuple(table["layers"])})

    def to_json(self) -> str:
        """Write as one line, for a command line."""
        return json.dumps(asdict(self))

    @property
    def causal(self) -> bool:
        """Whether the model is a language model."""
        return "qwen" in Path(self.folder).name


@dataclass(frozen=True)
class Outcome:
    """What came out.

    Attributes:
        clients_per_second: of the best round.
        cpu_ms_per_client: processor time of all threads, of the best round.
        peak_memory_mib: of the process, or of the GPU where that trains.
        flops_per_client: frozen products, forward and input gradient, from the shapes.
        useful: share of the tokens computed that are the data's.
        round_seconds: of every round.
    """

    clients_per_second: float
    cpu_ms_per_client: float
    peak_memory_mib: float
    flops_per_client: float
    useful: float
    round_seconds: tuple[float, ...]
