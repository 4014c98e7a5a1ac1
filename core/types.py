"""The nouns of a round. All values, all frozen; arrays in them are never written to.

A **delta** is always *local minus global*: adding it to the global model gives the client's model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedloom.core.component import Component
from fedloom.core.cost import Cost
from fedloom.core.cuts import CutTable
from fedloom.core.errors import LayoutError
from fedloom.core.layout import Layout, Vector
from fedloom.core.steps import Steps
from fedloom.core.work import LocalWork, Selectors, Tier

__all__ = [
    "BRIEFING_TYPES",
    "Briefing",
    "Client",
    "ClientId",
    "ClientTask",
    "ClientUpdate",
    "Cohort",
    "Cost",
    "Delta",
    "LocalWork",
    "Metrics",
    "Params",
    "Payload",
    "Refusal",
    "RoundReport",
    "Selectors",
    "State",
    "Tier",
]

ClientId: TypeAlias = str
Metrics: TypeAlias = Mapping[str, float]
Briefing: TypeAlias = Mapping[str, NDArray[np.generic]]
"""Small arrays that a strategy sends every client of a round beside the model, by name."""
BRIEFING_TYPES = ("float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "int64")
"""What a briefing may hold; a type travels as its place here."""


@dataclass(frozen=True)
class Params:
    """The exchanged part of a model: a layout and its flat vector (float32 ``[P]``)."""

    layout: Layout
    vector: Vector

    def __post_init__(self) -> None:
        _check_vector(self.layout, self.vector)

    def only(self, part: Layout) -> "Params":
        """The tensors of `part` alone.

        Raises:
            LayoutError: the model lacks some of them.
        """
        return Params(part, self.layout.gather(self.vector, part))

    def having(self, part: "Params") -> "Params":
        """The same model with the tensors of `part` in place of its own."""
        vector = self.layout.scatter(self.vector, part.layout, part.vector)
        return Params(self.layout, vector)


@dataclass(frozen=True)
class Delta:
    """Local minus global for the tensors of `layout`, which may be a part of the model's layout.

    A tensor that the layout lacks is *absent*, which is not the same as zero: the aggregator says
    what absence means.

    Attributes:
        layout: the tensors whose change is given number by number.
        vector: the change, float32 ``[layout.size]``.
        steps: the change of other tensors, as steps along known directions; None for none.
    """

    layout: Layout
    vector: Vector
    steps: Steps | None = None

    def __post_init__(self) -> None:
        _check_vector(self.layout, self.vector)

    @property
    def whole(self) -> Layout:
        """All tensors that change."""
        return (
            self.layout if self.steps is None else Layout.concat((self.layout, self.steps.layout))
        )

    def dense(self) -> "Delta":
        """The same change, all of it number by number."""
        if self.steps is None:
            return self
        return Delta(self.whole, np.concatenate((self.vector, self.steps.vector())))


def _check_vector(layout: Layout, vector: Vector) -> None:
    if vector.dtype != np.float32 or vector.shape != (layout.size,):
        got = f"{vector.dtype} {list(vector.shape)}"
        raise LayoutError(f"vector: expected float32 [{layout.size}], got {got}")


@dataclass(frozen=True)
class Client:
    """What the server knows of one client.

    Attributes:
        id: its name, unique in the federation.
        num_examples: how many training examples it says it holds.
        tier: what kind of device it is, where the job tells kinds apart.
        memory: bytes that training may take there, as it says itself (0: not known).
    """

    id: ClientId
    num_examples: int
    tier: str = ""
    memory: int = 0


@dataclass(frozen=True)
class Cohort:
    """The clients picked for one round, and what the job asks of them by default.

    Attributes:
        round: number of the round, from 1.
        clients: who was picked, in a fixed order.
        work: the job's numbers of local training; a planner may change them per client.
        selectors: the job's selectors; a planner may change them per client.
        seed: the run's seed.
        tiers: the job's kinds of devices.
        cuts: what clients of a split model can hold; None where they all take the same.
        rounds: of the stage that the round is in; 0 where nobody says.
    """

    round: int
    clients: tuple[Client, ...]
    work: LocalWork = LocalWork()
    selectors: Selectors = Selectors()
    seed: int = 0
    tiers: tuple[Tier, ...] = ()
    cuts: CutTable | None = None
    rounds: int = 0


@dataclass(frozen=True)
class ClientTask:
    """The complete work order of one client in one round; under 1 kB when written out.

    Attributes:
        client: who does it.
        round: number of the round, from 1.
        version: version of the model to start from.
        work: the numbers of local training.
        selectors: which tensors are trained, sent and kept.
        learner: how data becomes an update; None for the job's.
        codec: how the update is encoded; None for the job's.
        seed: the run's seed, from which the client derives its own streams.
        deadline: seconds the client has, or 0 for no limit.
        batches: number of the round whose batches are used once more; 0 for new ones.
        bottom: blocks below the far ones of a split model; None for the job's.
        blocks: layers of the backbone that run, in order, some left out or taken twice; empty for
            all as they are.
        branch: name of the branch of the model to start from; empty for the model itself.
        rank: of the adapter's low rank, what the client trains and sends (`fedloom.core.ranks`);
            None for all of it.
    """

    client: ClientId
    round: int
    version: int
    work: LocalWork = LocalWork()
    selectors: Selectors = Selectors()
    learner: Component | None = None
    codec: Component | None = None
    seed: int = 0
    deadline: float = 0.0
    batches: int = 0
    bottom: int | None = None
    blocks: tuple[int, ...] = ()
    branch: str = ""
    rank: int | None = None


@dataclass(frozen=True)
class Payload:
    """An encoded delta, as it travels: `frame` is every byte that is sent for it.

    Attributes:
        codec: name of the codec that wrote it.
        frame: header and body; ``len(frame)`` is the honest size.
    """

    codec: str
    frame: bytes

    @property
    def nbytes(self) -> int:
        """Bytes on the wire."""
        return len(self.frame)


@dataclass(frozen=True)
class ClientUpdate:
    """What one client sends back for one task.

    Attributes:
        client: who sends it.
        round: the task's round.
        num_examples: training examples behind it: its weight in a mean.
        payload: the encoded delta as it came, or None once it is decoded.
        delta: the decoded delta, or None while it is encoded.
        metrics: what the client measured (``loss``, ``accuracy``, ...).
        cost: what it cost.
        attempt: 1 for the first try at the task.
        work: the numbers of local training that its task asked for, once it is let in.
        remembered: what the strategy remembers of the client from before the round; None where
            that is nothing.
    """

    client: ClientId
    round: int
    num_examples: int
    payload: Payload | None = None
    delta: Delta | None = None
    metrics: Metrics = field(default_factory=dict)
    cost: Cost = Cost()
    attempt: int = 1
    work: LocalWork = LocalWork()
    remembered: Params | None = None


@dataclass(frozen=True)
class State:
    """Everything a strategy knows between rounds; a checkpoint is this value, saved.

    Attributes:
        params: the global model.
        version: how many rounds have been applied to it.
        slots: the strategy's arrays, such as a server optimizer's moments, by name.
        notes: the strategy's small facts, by name; JSON values only.
    """

    params: Params
    version: int = 0
    slots: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    notes: Mapping[str, float | int | str | bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """An update that was not counted, and why."""

    client: ClientId
    reason: str


@dataclass(frozen=True)
class RoundReport:
    """What happened in one round.

    Attributes:
        round: its number, from 1.
        accepted: updates folded into the model.
        refused: updates that were not, with reasons.
        metrics: the strategy's and the clients' metrics, clients weighted by examples.
        cost: summed over the cohort.
        slowest: seconds of the client that computed and communicated longest: so long does a
            synchronous round take.
    """

    round: int
    accepted: int
    refused: tuple[Refusal, ...]
    metrics: Metrics
    cost: Cost
    slowest: float = 0.0
