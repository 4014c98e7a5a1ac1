"""Who trains which factor of LoRA, and how much of its rank."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fedloom.core.cuts import MIB
from fedloom.core.errors import ConfigError, require
from fedloom.core.layout import Layout, Selector
from fedloom.core.ranks import largest_rank
from fedloom.core.seeds import stream
from fedloom.core.types import Client, ClientId, ClientTask, Cohort, State
from fedloom.strategies.plan import Constant

__all__ = ["Keeping", "Ranks", "Turns"]


@dataclass(frozen=True)
class Turns:
    """Rounds take turns: in each, some tensors rest and all the others train.

    Attributes:
        resting: what rests in the first round of a stage, in the second, and so on, over again.
    """

    resting: tuple[Selector, ...]
    one_factor = True
    """At most one factor of a pair moves in a round: means of tensors are means of models."""

    def plan(self, state: State, cohort: Cohort) -> Mapping[ClientId, ClientTask]:
        """One task per client of the cohort, but for those who have nothing left to train.

        Raises:
            LayoutError: what rests is to be kept by clients.
        """
        rest, layout = self.resting[state.version % len(self.resting)], state.params.layout
        found = {}
        for name, task in Constant().plan(state, cohort).items():
            train = task.selectors.train + _without(layout, rest)
            selectors = replace(task.selectors, train=train)
            if layout.select(train).specs:
                selectors.kept(layout)
                found[name] = replace(task, selectors=selectors)
        return found


@dataclass(frozen=True)
class Keeping:
    """The job's work for every client, where the job says that clients keep some tensors.

    Attributes:
        kept: a tag of what they are to keep.
        name: of the strategy.
    """

    kept: str
    name: str

    def plan(self, state: State, cohort: Cohort) -> Mapping[ClientId, ClientTask]:
        """One task per client of the cohort.

        Raises:
            ConfigError: the job has them send what they are to keep.
        """
        sent = cohort.selectors.sent(state.params.layout)
        if any(self.kept in spec.tags for spec in sent):
            text = f"keep = {list(cohort.selectors.keep)}: expected {self.kept!r} among it"
            raise ConfigError(f"strategy {self.name}: {text}")
        return Constant().plan(state, cohort)


@dataclass(frozen=True)
class Ranks:
    """Parts of the adapter's rank, by what clients are; a device's kind goes before both rules.

    Attributes:
        shares: pairs of a rank and the share of the clients that have it; a client's is drawn from
            its name, and stays.
        memory: pairs of a rank and the MiB of memory from which a client has it; the largest that
            fits is taken, and the smallest where a client says nothing.

    Raises:
        ConfigError: both are given, or a number is out of range.
    """

    shares: tuple[tuple[int, float], ...] = ()
    memory: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if self.shares and self.memory:
            raise ConfigError("ranks: by shares or by memory, not both")
        for rank, _ in (*self.shares, *self.memory):
            require(rank >= 1, "ranks", rank, "1 or more")
        for _, share in self.shares:
            require(share > 0, "ranks: share", share, "above 0")
        for _, need in self.memory:
            require(need >= 0, "ranks: memory", need, "0 MiB or more")

    @property
    def deals_ranks(self) -> bool:
        """Whether clients have parts of the rank by a rule of this."""
        return bool(self.shares or self.memory)

    def check_model(self, layout: Layout) -> None:
        """Look whether the adapter has these ranks.

        Raises:
            ConfigError: one is above its own.
        """
        most = largest_rank(layout)
        for rank, _ in (*self.shares, *self.memory) if most else ():
            require(rank <= most, "ranks", rank, f"1 to the adapter's rank, {most}")

    def plan(self, state: State, cohort: Cohort) -> Mapping[ClientId, ClientTask]:
        """One task per client of the cohort."""
        tasks = Constant().plan(state, cohort)
        if not self.deals_ranks or not largest_rank(state.params.layout):
            return tasks
        return {
            client.id: replace(tasks[client.id], rank=self._rank(client, cohort.seed))
            if tasks[client.id].rank is None
            else tasks[client.id]
            for client in cohort.clients
        }

    def _rank(self, client: Client, seed: int) -> int:
        if self.memory:
            fits = [rank for rank, need in self.memory if 0 < need * MIB <= client.memory]
            return max(fits, default=min(rank for rank, _ in self.memory))
        place = float(stream(seed, "ranks", client=client.id).uniform(1)[0])
        return _at(place * sum(share for _, share in self.shares), self.shares)


def _at(place: float, shares: Sequence[tuple[int, float]]) -> int:
    for rank, share in shares:
        place -= share
        if place < 0:
            return rank
    return shares[-1][0]


def _without(layout: Layout, rest: Selector) -> Selector:
    """Patterns that take away what rests, of what there is."""
    return tuple(f"!{pattern}" for pattern in rest if layout.present((pattern,)).specs)
