"""Adapters that grow while they train, as trials by the clock say: FedAdapter.

Cai, Wu, Wang, Lin and Xu, "Efficient Federated Learning for Modern NLP", MobiCom 2023.
Bottlenecks train in the top layers only (depth), and only some units of each (width). From time to
time three groups of clients start from one model: with the same configuration, a deeper one and a
wider one. Each plays as many rounds as fit one interval of simulated time; the group that judges
best at its end hands its model and configuration to all.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from fedloom.core.errors import ConfigError, require
from fedloom.core.layout import Layout
from fedloom.core.types import (
    ClientId,
    ClientTask,
    ClientUpdate,
    Cohort,
    Metrics,
    Params,
    State,
)
from fedloom.strategies.aggregate import FixedPointSum, WeightedMean
from fedloom.strategies.ladder import Configuration, Ladder
from fedloom.strategies.plan import Constant

__all__ = ["FedAdapter"]

MEAN = WeightedMean()


@dataclass(frozen=True, eq=False)
class _Group:
    """Updates of one group: their mean so far, and seconds of the slowest."""

    total: FixedPointSum
    seconds: float


Total: TypeAlias = dict[frozenset[str], _Group]


@dataclass(frozen=True)
class FedAdapter:
    """FedAvg in groups that start from one model and differ in how much of the adapter trains.

    Time is what updates cost by the job's device model, live as in a simulation. Without one it is
    what live devices were measured to take; in a simulation a round then counts as a second. The
    global model is that of the group that keeps the configuration, until a trial ends.

    Args:
        depth: top layers that train at first, beside the head.
        units: units of each bottleneck that train at first.
        deeper: layers that a deeper group adds.
        interval: seconds of a trial for the head alone.
        expand: for depth d a trial takes ``interval (expand d + 1)``.
        lr: server learning rate.

    Raises:
        ConfigError: an argument is out of range.
    """

    depth: int = 0
    units: int = 1
    deeper: int = 1
    interval: float = 60.0
    expand: float = 4.0
    lr: float = 1.0

    def __post_init__(self) -> None:
        require(self.depth >= 0, "depth", self.depth, "0 (the head alone) or more")
        require(self.units >= 1, "units", self.units, "1 or more")
        require(self.deeper >= 1, "deeper", self.deeper, "1 or more")
        require(0 < self.interval < math.inf, "interval", self.interval, "above 0 and finite")
        require(0 <= self.expand < math.inf, "expand", self.expand, "0 or more, and finite")
        require(0 < self.lr < math.inf, "lr", self.lr, "above 0 and finite")

    def init(self, params: Params) -> State:
        """The state before the first round."""
        return State(params)

    def groups(self, state: State) -> Mapping[str, Configuration]:
        """What each group trains: ``same``, and ``deeper`` and ``wider`` where that differs."""
        ladder = Ladder.of(state.params.layout)
        now = Configuration(
            int(state.notes.get("depth", self.depth)), int(state.notes.get("units", self.units))
        )
        found = {"same": ladder.within(now)}
        steps = {"deeper": now.deeper(self.deeper), "wider": now.wider()}
        for name, more in steps.items():
            own = ladder.within(more)
            if ladder.part(own) != ladder.part(found["same"]):  # else it would train nothing more
                found[name] = own
        return found

    def branches(self, state: State) -> Mapping[str, Params]:
        """Each group's model: what it trains, beside which all is as it began."""
        ladder, found = Ladder.of(state.params.layout), dict[str, Params]()
        for name, own in self.groups(state).items():
            part, slot = ladder.part(own), state.slots.get(f"branch/{name}")
            kept = None if slot is None else Params(part, slot.astype(np.float32))
            found[name] = kept or state.params.only(part)
        return found

    def configure(self, state: State, cohort: Cohort) -> Mapping[ClientId, ClientTask]:
        """Clients are dealt out to the groups; those of one whose interval is over sit out."""
        ladder, groups = Ladder.of(state.params.layout), self.groups(state)
        names, tasks = list(groups), {}
        for place, task in enumerate(Constant().plan(state, cohort).values()):
            # With fewer clients than groups, each group has its turn.
            name = names[(place + cohort.round) % len(names)]
            if not self._goes_on(state, name, groups["same"]):
                continue
            train = (*task.selectors.train, *ladder.without(groups[name]))
            selectors = replace(task.selectors, train=train)
            tasks[task.client] = replace(task, selectors=selectors, branch=name)
        return tasks

    def accumulate(self, total: Total | None, update: ClientUpdate) -> Total:
        """The total with one more update; what it trained says of which group it is."""
        found = {} if total is None else total
        key = _layered(update.delta.whole) if update.delta is not None else frozenset()
        group = found.get(key)
        added = MEAN.add(group.total if group else None, update)
        taken = update.cost.modelled_seconds or update.cost.busy
        seconds = max(taken, group.seconds if group else 0.0)
        found[key] = _Group(added, seconds)
        return found

    def apply(self, state: State, total: Total | None) -> tuple[State, Metrics]:
        """Each group's model after its own mean.

        ``depth`` and ``units`` are of the model, ``clock`` is how many seconds the run would have
        taken so far, groups side by side.
        """
        groups, models = self.groups(state), dict(self.branches(state))
        left, notes = dict(total or {}), dict(state.notes)
        for name, model in models.items():
            group = left.pop(_layered(model.layout), None)
            if group is not None:
                models[name] = self._moved(state, model, group.total)
                seconds = group.seconds or 1.0
                notes[f"last/{name}"] = seconds
                notes[f"spent/{name}"] = float(notes.get(f"spent/{name}", 0.0)) + seconds
        if left:
            raise ConfigError("fedadapter: updates that lack tensors which their group trains")
        same = models.pop("same")
        slots = {f"branch/{name}": model.vector for name, model in models.items()}
        after = State(state.params.having(same), state.version + 1, slots, notes)
        return after, self._seen(after, groups["same"])

    def candidates(self, state: State) -> Mapping[str, Params]:
        """Every group's model once the interval of all is over."""
        groups = self.groups(state)
        if any(self._goes_on(state, name, groups["same"]) for name in groups):
            return {}
        return {name: state.params.having(own) for name, own in self.branches(state).items()}

    def told(self, state: State, judged: Mapping[str, Metrics]) -> tuple[State, Metrics]:
        """All inherit from the best group: the first of ``same``, ``wider`` and ``deeper`` if even.

        ``trial/NAME`` is each group's accuracy, or minus its loss where there is none.
        """
        scores = {
            name: _score(judged[name]) for name in ("same", "wider", "deeper") if name in judged
        }
        best = max(scores, key=lambda name: scores[name])
        own = self.groups(state)[best]
        notes = {"depth": own.depth, "units": own.units, "clock": _clock(state)}
        params = state.params.having(self.branches(state)[best])
        after = State(params, state.version, {}, notes)
        trials = {f"trial/{name}": score for name, score in scores.items()}
        return after, {**self._seen(after, own), **trials}

    def _moved(self, state: State, model: Params, total: FixedPointSum) -> Params:
        step = np.float32(self.lr) * MEAN.mean(model, total).vector
        return Params(model.layout, model.vector + step)

    def _goes_on(self, state: State, name: str, same: Configuration) -> bool:
        """Whether another round of a group fits the interval; the first one always does."""
        spent = float(state.notes.get(f"spent/{name}", 0.0))
        last = float(state.notes.get(f"last/{name}", 0.0))
        return not spent or spent + last <= self.interval * (self.expand * same.depth + 1)

    def _seen(self, state: State, same: Configuration) -> Metrics:
        return {"depth": same.depth, "units": same.units, "clock": _clock(state)}


def _clock(state: State) -> float:
    """Seconds of the trials before, and of the group of this one that has played longest."""
    spent = [float(note) for name, note in state.notes.items() if name.startswith("spent/")]
    return float(state.notes.get("clock", 0.0)) + max(spent, default=0.0)


def _layered(layout: Layout) -> frozenset[str]:
    """Names of the tensors in layers: what tells groups apart."""
    return frozenset(spec.name for spec in layout if "layer." in spec.block)


def _score(metrics: Metrics) -> float:
    """How good a model is; numbers are compared, and what is not one is the worst."""
    if "accuracy" not in metrics and "loss" not in metrics:
        raise ConfigError("fedadapter: nobody evaluates; the server needs data.path")
    score = metrics.get("accuracy", -metrics.get("loss", math.inf))
    return -math.inf if math.isnan(score) else score
