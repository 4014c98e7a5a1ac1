"""What a search over a model's blocks knows between rounds, as plain arrays and numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fedloom.core.advance import Advance, Contribution, Move
from fedloom.core.errors import UpdateRefusedError, require
from fedloom.core.layout import Layout
from fedloom.core.step_ledger import advanced, unmoved
from fedloom.core.steps import POOL, Directions, Steps
from fedloom.core.subspaces import Subspace, grain, rounded, scale_for
from fedloom.core.types import Briefing, Delta, State

__all__ = ["Answer", "Book", "Told"]


@dataclass(frozen=True)
class Answer:
    """The losses of a cohort, summed exactly.

    Attributes:
        layout: the tensors that clients were asked about.
        seed: the run's.
        worth: of an integer of the sums.
        sums: ``num_examples * scalar``, summed, candidate by candidate.
        weight: examples behind them.
    """

    layout: Layout
    seed: int
    worth: float
    sums: tuple[int, ...]
    weight: int

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean differences to the present loss, ``[n]``."""
        return np.array(self.sums, dtype=np.float64) * (self.worth / self.weight)


@dataclass(frozen=True)
class Told:
    """A running total: answers by their number of candidates.

    Attributes:
        answers: of clients that were asked the same.
    """

    answers: Mapping[int, Answer] = field(default_factory=dict)

    def plus(self, steps: Steps, weight: int) -> "Told":
        """With one more client's losses.

        Raises:
            UpdateRefusedError: they are in other units, or of other tensors, than the others'.
        """
        if steps.origin is None:
            raise UpdateRefusedError("losses of nobody knows which run", code="layout")
        count = len(steps.scalars)
        scalars = tuple(weight * int(scalar) for scalar in steps.scalars)
        own = Answer(steps.layout, steps.origin.seed, steps.coefficient, scalars, weight)
        known = self.answers.get(count)
        if known is not None:
            same = known.layout.digest == own.layout.digest and known.worth == own.worth
            if not same:
                text = f"losses in steps of {own.worth}, not {known.worth}, or of other tensors"
                raise UpdateRefusedError(text, code="layout")
            sums = tuple(a + b for a, b in zip(known.sums, own.sums, strict=True))
            own = replace(known, sums=sums, weight=known.weight + weight)
        return Told({**self.answers, count: own})

    def of(self, count: int) -> Answer | None:
        """What was answered about so many candidates."""
        return self.answers.get(count)


@dataclass(frozen=True)
class Book:
    """How the searches of all blocks stand in a `State`: points, scales, and losses told.

    Attributes:
        k: coordinates of a block's subspace.
        sigma: standard deviation of a coordinate in the first generation.
        alpha: change of a parameter by a candidate of the first generation.
        family: of the directions.
    """

    k: int
    sigma: float
    alpha: float
    family: str

    def __post_init__(self) -> None:
        require(0 < self.alpha < float("inf"), "alpha", self.alpha, "above 0 and finite")
        _ = Directions("pool", self.k, self.family)

    @staticmethod
    def open(state: State) -> bool:
        """Whether the run's seed and tensors are known."""
        return "blocks" in state.notes

    @staticmethod
    def turn(state: State) -> int:
        """Number of the block that is searched in the next round."""
        return int(state.notes["turn"])

    @staticmethod
    def history(state: State, turn: int) -> NDArray[np.float64]:
        """Losses that a block's search was told, ``[generations, popsize]``."""
        return np.asarray(state.slots[f"losses/{turn}"], dtype=np.float64)

    def begun(self, state: State, first: Answer | None) -> State:
        """The state after the first round: where every block's search begins.

        Raises:
            ConfigError: the blocks' subspaces need more directions than a pool may have.
        """
        if first is None:
            return unmoved(state)
        blocks = _blocks(first.layout)
        allowed = f"65536 directions at most, for {len(blocks)} blocks of k = {self.k}"
        require(len(blocks) * self.k <= 65536, "k", len(blocks) * self.k, allowed)
        scales = [
            scale_for(
                state.params.layout.gather(state.params.vector, block),
                alpha=self.alpha,
                k=self.k,
                sigma=self.sigma,
            )
            for block in blocks
        ]
        slots: dict[str, NDArray[np.generic]] = {
            "points": np.zeros((len(blocks), self.k), dtype=np.int32),
            "scales": np.array(scales, dtype=np.float64),
            **{f"losses/{i}": np.zeros((0, 0), dtype=np.float64) for i in range(len(blocks))},
        }
        notes = {**state.notes, "seed": first.seed, "blocks": len(blocks), "turn": 0}
        after = unmoved(state)
        return State(state.params, after.version, {**after.slots, **slots}, notes)

    def block(self, state: State, trained: Layout) -> Layout:
        """The tensors of the block whose turn it is."""
        return _blocks(trained)[self.turn(state)]

    def briefing(self, state: State, candidates: NDArray[np.float64]) -> Briefing:
        """Candidates as clients get them: integer differences to where the block stands."""
        turn = self.turn(state)
        here = np.asarray(state.slots["points"][turn], dtype=np.int64)
        away = rounded(candidates, grain(self.sigma)).astype(np.int64) - here
        wide = np.int16 if np.abs(away).max() < 2**15 else np.int32
        return {
            "points": away.astype(wide),
            "pool": np.array([self._pool(state).pool], dtype=np.int32),
            "first": np.array([turn * self.k], dtype=np.int32),
            "worth": np.array([self._worth(state, turn)], dtype=np.float64),
            "gaussian": np.array([self.family == "gaussian"], dtype=np.uint8),
        }

    def told(self, state: State, losses: NDArray[np.float64]) -> State:
        """The state with one more generation of the block, and the turn passed on."""
        turn = self.turn(state)
        before = self.history(state, turn).reshape(-1, len(losses))
        slots = {**state.slots, f"losses/{turn}": np.concatenate((before, losses[None]))}
        following = (turn + 1) % int(state.notes["blocks"])
        return replace(state, slots=slots, notes={**state.notes, "turn": following})

    def moved(self, state: State, turn: int, block: Layout, point: NDArray[np.float64]) -> State:
        """The next version, with a block at another point."""
        points = np.array(state.slots["points"], dtype=np.int32)
        target = rounded(point, grain(self.sigma))
        worth, seed = self._worth(state, turn), int(state.notes["seed"])
        subspace = Subspace(block, self._pool(state), turn * self.k, self.k, worth)
        steps = subspace.steps(target - points[turn])
        part = Contribution(POOL, 1, steps.scalars.astype(np.int64))
        move = Move(block, (worth,) * len(block.specs), steps.directions, 0, (part,))
        nothing = Delta(Layout(()), np.zeros(0, dtype=np.float32))
        after = advanced(state, Advance((move,), nothing), seed, step=worth)
        points[turn] = target
        return replace(after, slots={**after.slots, "points": points})

    def _pool(self, state: State) -> Directions:
        return Directions("pool", int(state.notes["blocks"]) * self.k, self.family)

    def _worth(self, state: State, turn: int) -> float:
        return float(np.asarray(state.slots["scales"])[turn]) * grain(self.sigma)


def _blocks(layout: Layout) -> list[Layout]:
    """The tensors of each block, in order."""
    names = dict.fromkeys(spec.block for spec in layout)
    return [Layout(tuple(spec for spec in layout if spec.block == name)) for name in names]
