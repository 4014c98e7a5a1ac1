"""What the server remembers of each client in a stage, beside the state and its checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass

from fedloom.core.types import ClientId, ClientTask, ClientUpdate
from fedloom.server.pruned_ranks import PrunedRanks
from fedloom.strategies.remembering import Memory

__all__ = ["NOTHING", "Remembered"]


@dataclass(frozen=True)
class Remembered:
    """Of each client of a stage; both kinds follow the rounds in the same way.

    Attributes:
        memory: what the strategy remembers; None where it remembers nothing.
        pruned: ranks that clients have pruned theirs to; None where they do not.
    """

    memory: Memory | None = None
    pruned: PrunedRanks | None = None

    def begin(self, round: int) -> None:
        """A round begins, or begins again: nothing of it is remembered."""
        for own in (self.memory, self.pruned):
            if own is not None:
                own.begin(round)

    def limited(self, tasks: Mapping[ClientId, ClientTask]) -> Mapping[ClientId, ClientTask]:
        """The tasks, none of a higher rank than its client has come to."""
        return tasks if self.pruned is None else self.pruned.limited(tasks)

    def note(self, update: ClientUpdate) -> None:
        """Keep what an update that was counted says of its client."""
        if self.pruned is not None:
            self.pruned.note(update)

    def commit(self, round: int) -> None:
        """What a round has led to is on the disk, before the state that follows it."""
        for own in (self.memory, self.pruned):
            if own is not None:
                own.commit(round)


NOTHING = Remembered()
"""Nobody is remembered."""
