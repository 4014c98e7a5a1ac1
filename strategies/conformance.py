"""What every strategy must satisfy, ours and yours: `check_strategy` in a test of your own.

>>> from fedloom.strategies.fedavg import fedavg
>>> check_strategy(fedavg())
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fedloom.core.checkpoint import load_state, save_state
from fedloom.core.errors import ConfigError, RunError, StrategyError, UpdateRefusedError
from fedloom.core.layout import Layout, TensorSpec, Vector
from fedloom.core.ranks import of_rank
from fedloom.core.seeds import stream
from fedloom.core.steps import Directions, Steps
from fedloom.core.types import Client, ClientTask, ClientUpdate, Cohort, Delta, Params, State
from fedloom.strategies.base import Remembering, Strategy
from fedloom.strategies.contract import (
    check_applied,
    check_ranks,
    check_tasks,
    first_state,
    hook,
)
from fedloom.strategies.remembering import Memory, folded, layout_of

__all__ = ["check_strategy"]

_LAYOUT = Layout((TensorSpec("a", (2, 3)), TensorSpec("b", (5,)), TensorSpec("c", (1, 4))))
_ROUNDS = 3
_POOL = 20


def check_strategy(strategy: Strategy, layout: Layout | None = None) -> None:
    """Take a strategy through a few rounds, in several orders, and through a checkpoint.

    Once with deltas number by number, and once for each way in which clients may step along known
    directions (those that it names as its ``schemes``, or all). A strategy that refuses a cohort
    as too small (a `ConfigError` from ``configure``) is checked with a larger one, of up to 17.

    It must keep the layout, stay finite, advance the version by one each round, give tasks to
    members of the cohort only, live with an empty cohort and with a single client, leave its
    arguments as they are (a total excepted), keep nothing in itself from round to round, survive
    saving and loading bit for bit, and not depend on the order of the updates in a single bit.

    Args:
        strategy: what to check.
        layout: tensors to check it on, where it does not work on any.

    Raises:
        StrategyError: it breaks one of these; the message names the hook.
    """
    _check(_Trial(strategy, layout or _LAYOUT))
    for scheme in getattr(strategy, "schemes", ()) or ("distinct", "shared", "pool", "candidates"):
        _check(_Trial(strategy, layout or _LAYOUT, Directions(scheme, pool=_POOL)))


def _check(trial: "_Trial") -> None:
    trial.run((), ())
    cohort, once = _taken(trial)
    forward = tuple(range(len(cohort)))
    last = forward[-1]
    again = trial.run(cohort, forward)
    _same(once, again, "apply: the same rounds twice give two results; what changes is for State")
    for order in (forward[::-1], (2, 0, last, 1, *forward[3:last])):
        other = trial.run(cohort, order)
        _same(once, other, "accumulate: another order of the updates gives another result")
    saved = trial.run(cohort, forward, save=True)
    _same(once, saved, "apply: a state that was saved and loaded gives another result")
    trial.run(cohort, forward[:1])


def _taken(trial: "_Trial") -> tuple[tuple[Client, ...], State]:
    """A cohort of a few clients that the strategy takes, and what they lead to.

    Of a single client it may refuse the task.
    """
    for size in (1, 5, 9, 17):
        cohort = tuple(Client(f"client-{i}", 1 + 7 * i) for i in range(size))
        try:
            state = trial.run(cohort, range(size))
        except StrategyError as error:
            if size == 17 or not isinstance(error.__cause__, ConfigError):
                raise
        else:
            if size > 1:
                break
    return cohort, state


@dataclass(frozen=True)
class _Dictionary:
    """Records of clients in memory (`fedloom.strategies.remembering.Records`)."""

    vectors: dict[str, Vector] = field(default_factory=dict)

    def begin(self, round: int) -> None:
        """Rounds are not played twice here."""

    def of(self, client: str) -> Vector | None:
        """A copy of a client's vector."""
        found = self.vectors.get(client)
        return None if found is None else found.copy()

    def keep(self, client: str, round: int, vector: Vector) -> None:
        """Keep a client's vector."""
        self.vectors[client] = vector

    def commit(self, round: int) -> None:
        """Nothing is written."""


@dataclass(frozen=True)
class _Trial:
    """Rounds of one strategy on made-up updates.

    Attributes:
        strategy: what is checked.
        layout: the model's.
        directions: along which all tensors step but the last; None to send all number by number.
    """

    strategy: Strategy
    layout: Layout
    directions: Directions | None = None

    def run(
        self, clients: tuple[Client, ...], order: Sequence[int], *, save: bool = False
    ) -> State:
        """The state after a few rounds with updates in `order`, each from a file with `save`.

        What a strategy remembers of each client is among its slots.
        """
        params = Params(self.layout, _noise("params", self.layout.size))
        with _unwritten("init", params.vector):
            state = first_state(self.strategy, params)
        records = _Dictionary()
        own = layout_of(self.strategy, self.layout)
        memory = Memory(cast(Remembering, self.strategy), own, records) if own.specs else None
        for number in range(1, _ROUNDS + 1):
            state = self._round(state, Cohort(number, clients), order, memory)
            state = _through_a_file(state) if save else state
        remembered = {f"remembered/{name}": vector for name, vector in records.vectors.items()}
        return replace(state, slots={**state.slots, **remembered})

    def _round(
        self, state: State, cohort: Cohort, order: Sequence[int], memory: Memory | None
    ) -> State:
        number, arrays = cohort.round, [state.params.vector, *state.slots.values()]
        with hook("configure", number), _unwritten("configure", *arrays):
            planned = self.strategy.configure(state, cohort)
        tasks = check_tasks(planned, state, cohort)
        check_ranks(self.strategy, tasks.values(), self.layout, number)
        deltas = {name: self._delta(task) for name, task in sorted(tasks.items())}
        contents = {name: _content(delta) for name, delta in deltas.items()}
        total: Any | None = None
        for name in _ordered(list(deltas), order):
            examples = next(c.num_examples for c in cohort.clients if c.id == name)
            work = tasks[name].work
            told = {"loss": 1 + examples / 10}
            delta = deltas[name]
            update = ClientUpdate(name, number, examples, delta=delta, metrics=told, work=work)
            # A strategy may refuse what is not for it, and the round goes on.
            with suppress(UpdateRefusedError):
                total = folded(self.strategy, state, total, update, memory)
        with hook("apply", number), _unwritten("apply", *arrays):
            applied = self.strategy.apply(state, total)
        untouched = all(_content(deltas[name]) == content for name, content in contents.items())
        _promise(untouched, "accumulate: wrote into the delta of an update")
        return check_applied(applied, state, number)[0]

    def _delta(self, task: ClientTask) -> Delta:
        """A made-up answer to a task: the same for the same task."""
        sent = of_rank(task.selectors.sent(self.layout), task.rank)
        if self.directions is None:
            return Delta(sent, _made_up("delta", sent.size, task))
        moved = Layout(sent.specs[:-1] or sent.specs)
        rest = Layout(tuple(spec for spec in sent if spec.name not in moved))
        scalars = np.rint(100 * _made_up("scalars", _POOL, task)).astype(np.int32)
        steps = Steps(moved, scalars, -(2.0**-10), self.directions)
        bound = steps.bound(task.seed, round=task.round, client=task.client)
        return Delta(rest, _made_up("delta", rest.size, task), bound)


def _ordered(names: Sequence[str], order: Sequence[int]) -> list[str]:
    return [names[i] for i in order if i < len(names)]


def _noise(purpose: str, size: int, *, round: int = 0, client: str = "") -> Vector:
    uniform = stream(0, f"conformance.{purpose}", round=round, client=client).uniform(size)
    return (uniform - 0.5).astype(np.float32)


def _made_up(purpose: str, size: int, task: ClientTask) -> Vector:
    return _noise(purpose, size, round=task.round, client=task.client)


def _content(delta: Delta) -> tuple[bytes, bytes]:
    return delta.vector.tobytes(), b"" if delta.steps is None else delta.steps.scalars.tobytes()


@contextmanager
def _unwritten(name: str, *arrays: NDArray[np.generic]) -> Iterator[None]:
    """Check that a hook leaves arrays as they are."""
    before = [array.copy() for array in arrays]
    yield
    kept = all(a.tobytes() == b.tobytes() for a, b in zip(arrays, before, strict=True))
    _promise(kept, f"{name}: wrote into the arrays of the state or the model it was given")


def _through_a_file(state: State) -> State:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.safetensors"
        try:
            save_state(path, state, {})
            loaded = load_state(path, state.params.layout)[0]
        except RunError as error:
            raise StrategyError(f"apply: its state cannot be saved: {error}") from error
    _same(state, loaded, "apply: its state is another once it is saved and loaded")
    return loaded


def _same(one: State, two: State, otherwise: str) -> None:
    _promise(_bits(one) == _bits(two) and one.notes == two.notes, otherwise)


def _bits(state: State) -> Mapping[str, tuple[str, tuple[int, ...], bytes]]:
    arrays = {"params": state.params.vector, **{f"slot/{n}": a for n, a in state.slots.items()}}
    return {name: (a.dtype.str, a.shape, a.tobytes()) for name, a in arrays.items()}


def _promise(kept: bool, otherwise: str) -> None:
    if not kept:
        raise StrategyError(otherwise)
