import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedloom.codecs.dense import Float32
from fedloom.core.component import Component
from fedloom.core.errors import StrategyError, UpdateRefusedError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import (
    Client,
    ClientTask,
    ClientUpdate,
    Cohort,
    Cost,
    Delta,
    Metrics,
    Params,
    RoundReport,
    Selectors,
    State,
)
from fedloom.server.round import Dispatch, run_round
from fedloom.strategies.base import Strategy
from fedloom.strategies.fedavg import fedavg

LAYOUT = Layout((TensorSpec("a", (2,)), TensorSpec("head", (1,), tags=frozenset({"head"}))))
STATE = State(Params(LAYOUT, np.array([1, 2, 3], dtype=np.float32)), version=4)
COHORT = Cohort(5, (Client("x", 1), Client("y", 3)))


def delta(*values: float, layout: Layout = LAYOUT) -> Delta:
    return Delta(layout, np.array(values, dtype=np.float32))


def answers(*updates: ClientUpdate) -> Dispatch:
    async def dispatch(tasks: Mapping[str, ClientTask]) -> AsyncIterator[ClientUpdate]:
        for update in updates:
            yield update

    return dispatch


def play(
    *updates: ClientUpdate, strategy: Strategy | None = None, cohort: Cohort = COHORT
) -> tuple[State, RoundReport]:
    dispatch, decode = answers(*updates), Float32().decode
    return asyncio.run(run_round(strategy or fedavg(), STATE, cohort, dispatch, decode=decode))


def test_a_round_moves_the_model_by_the_weighted_mean() -> None:
    x = ClientUpdate("x", 5, 1, delta=delta(4, 0, 0), metrics={"loss": 1.0, "f1": 0.5})
    y = ClientUpdate("y", 5, 3, payload=Float32().encode(delta(0, 4, 8)), metrics={"loss": 3.0})
    after, report = play(x, y)
    assert after.params.vector.tolist() == [1 + 4 / 4, 2 + 12 / 4, 3 + 24 / 4]
    assert after.version == 5
    assert STATE.params.vector.tolist() == [1, 2, 3]
    assert (report.round, report.accepted, report.refused) == (5, 2, ())
    assert report.metrics["loss"] == (1 * 1.0 + 3 * 3.0) / 4
    assert report.metrics["f1"] == 0.5  # over the client that measured it
    assert "delta_norm" in report.metrics


def test_costs_are_summed_refused_updates_too() -> None:
    cost = Cost(bytes_up=10, bytes_down=3, flops=2.0, peak_memory=7, seconds=0.5, joules=1.0)
    _, report = play(
        ClientUpdate("x", 5, 1, delta=delta(0, 0, 0), cost=cost),
        ClientUpdate("y", 5, 1, cost=Cost(bytes_up=1, peak_memory=9)),
    )
    assert report.cost == Cost(11, 3, 2.0, 9, 0.5, 1.0)


def test_a_round_takes_as_long_as_its_slowest_client_and_the_others_wait() -> None:
    slow = Cost(joules=50.0, device_seconds=6.0, network_seconds=2.0, idle_watts=1.5)
    quick = Cost(joules=20.0, device_seconds=2.0, network_seconds=1.0, idle_watts=2.0)
    _, report = play(
        ClientUpdate("x", 5, 1, delta=delta(0, 0, 0), cost=slow),
        ClientUpdate("y", 5, 1, delta=delta(0, 0, 0), cost=quick),
    )
    assert report.slowest == 8.0
    # the quick one draws 2 W for the 8 - 3 seconds that it waits
    assert report.cost.joules == 50 + 20 + 2.0 * 5
    assert (report.cost.device_seconds, report.cost.network_seconds) == (8.0, 3.0)


def test_the_order_of_updates_changes_no_bit() -> None:
    x = ClientUpdate("x", 5, 1, delta=delta(0.1, 0.2, 0.3), metrics={"loss": 0.1})
    y = ClientUpdate("y", 5, 3, delta=delta(0.7, 1e-5, -3), metrics={"loss": 0.7})
    (one, report), (two, turned) = play(x, y), play(y, x)
    assert one.params.vector.tobytes() == two.params.vector.tobytes()
    assert report == turned


def test_a_client_may_send_a_part_of_the_model() -> None:
    head = LAYOUT.select(("head",))
    after, report = play(ClientUpdate("x", 5, 1, delta=delta(1, layout=head)))
    assert after.params.vector.tolist() == [1, 2, 4]
    assert report.accepted == 1


def test_a_payload_is_decoded_as_what_was_asked_for() -> None:
    head = LAYOUT.select(("head",))
    payload = Float32().encode(delta(1, layout=head))
    cohort = Cohort(5, COHORT.clients, selectors=Selectors(up=("head",)))
    after, _ = play(ClientUpdate("x", 5, 1, payload=payload), cohort=cohort)
    assert after.params.vector.tolist() == [1, 2, 4]
    _, report = play(ClientUpdate("x", 5, 1, payload=payload))
    assert "CodecError: float32: a frame of 1 elements" in report.refused[0].reason


FOREIGN = Layout((TensorSpec("z", (3,)),))
USELESS = [
    (ClientUpdate("z", 5, 1, delta=delta(0, 0, 0)), "no task was given to this client"),
    (ClientUpdate("y", 4, 1, delta=delta(0, 0, 0)), "of round 4; this is round 5"),
    (ClientUpdate("y", 5, 0, delta=delta(0, 0, 0)), "num_examples = 0: above 0 is allowed"),
    (ClientUpdate("y", 5, 1, delta=delta(0, np.nan, 0)), "the delta is not finite"),
    (ClientUpdate("y", 5, 1, delta=delta(0, 0, -np.inf)), "the delta is not finite"),
    (ClientUpdate("y", 5, 1, delta=delta(0, 0, 0, layout=FOREIGN)), "not the model's tensors: "),
    (ClientUpdate("y", 5, 1, metrics={"loss": float("nan")}), "no delta; it reports loss = nan"),
    (ClientUpdate("y", 5, 1), "the client sent no delta; it reports nothing"),
    (ClientUpdate("x", 5, 1, delta=delta(0, 0, 0)), "an update of this client is already counted"),
    (ClientUpdate("y", 5, 1, delta=delta(0, 0, 1e30)), "the sum could overflow"),
]


@pytest.mark.parametrize(("useless", "reason"), USELESS, ids=[reason for _, reason in USELESS])
def test_an_unusable_update_is_refused_and_the_round_goes_on(
    useless: ClientUpdate, reason: str
) -> None:
    good = ClientUpdate("x", 5, 1, delta=delta(1, 1, 1), metrics={"loss": 2.0})
    after, report = play(good, useless)
    assert after.params.vector.tolist() == [2, 3, 4]
    assert report.accepted == 1
    assert report.metrics["loss"] == 2.0
    assert [r.client for r in report.refused] == [useless.client]
    assert reason in report.refused[0].reason


def test_a_refused_client_may_try_again() -> None:
    failed = ClientUpdate("x", 5, 1)
    after, report = play(failed, ClientUpdate("x", 5, 1, delta=delta(1, 1, 1), attempt=2))
    assert after.params.vector.tolist() == [2, 3, 4]
    assert (report.accepted, len(report.refused)) == (1, 1)


def test_a_metric_that_is_not_a_number_does_not_spoil_the_mean() -> None:
    x = ClientUpdate("x", 5, 1, delta=delta(0, 0, 0), metrics={"loss": float("nan")})
    y = ClientUpdate("y", 5, 1, delta=delta(0, 0, 0), metrics={"loss": 4.0})
    assert play(x, y)[1].metrics["loss"] == 4.0


def test_a_round_without_updates_keeps_the_model() -> None:
    after, report = play()
    assert after.params is STATE.params
    assert (after.version, report.accepted, report.metrics) == (5, 0, {})


class Broken:
    """FedAvg with one hook that misbehaves."""

    def __init__(self, hook: str, does: object) -> None:
        self.hook, self.does, self.inner = hook, does, fedavg()

    def answer(self, hook: str, ordinary: Any) -> Any:
        if hook != self.hook:
            return ordinary
        if isinstance(self.does, Exception):
            raise self.does
        return self.does

    def init(self, params: Params) -> State:
        return self.inner.init(params)

    def configure(self, state: State, cohort: Cohort) -> Mapping[str, ClientTask]:
        tasks: Mapping[str, ClientTask] = self.answer(
            "configure", self.inner.configure(state, cohort)
        )
        return tasks

    def accumulate(self, total: Any | None, update: ClientUpdate) -> Any:
        return self.answer("accumulate", self.inner.accumulate(total, update))

    def apply(self, state: State, total: Any | None) -> tuple[State, Metrics]:
        after: tuple[State, Metrics] = self.answer("apply", self.inner.apply(state, total))
        return after


NAN = Params(LAYOUT, np.full(3, np.nan, dtype=np.float32))
NOWHERE = Component("no-such")


def after(**changes: Any) -> State:
    return replace(STATE, version=5, **changes)


def own_way(**changes: Any) -> dict[str, ClientTask]:
    return {"x": ClientTask("x", 5, 4, **changes)}


@pytest.mark.parametrize(
    ("hook", "does", "message"),
    [
        ("configure", ValueError("no"), "configure, round 5: raised ValueError: no"),
        ("configure", None, "configure, round 5: returned NoneType; expected a mapping"),
        ("configure", {"q": None}, "configure, round 5: a task for 'q', who is not in the cohort"),
        ("configure", {"x": None}, "configure, round 5: NoneType for 'x'; expected a ClientTask"),
        ("configure", {"x": ClientTask("y", 5, 4)}, "the task of 'x' says client 'y', round 5"),
        ("configure", {"x": ClientTask("x", 5, 9)}, "says version 9; expected 0 to 4"),
        (
            "configure",
            {"x": ClientTask("x", 5, 4, selectors=Selectors(train=("hed",)))},
            "configure, round 5: selector 'hed' matches nothing",
        ),
        ("configure", UpdateRefusedError("x"), "configure, round 5: raised UpdateRefusedError"),
        ("configure", own_way(codec=NOWHERE), "configure, round 5: codecs: unknown name 'no-such'"),
        ("configure", own_way(learner=NOWHERE), "configure, round 5: learners: unknown name"),
        (
            "configure",
            own_way(learner=Component("black-box"), selectors=Selectors(keep=("head",))),
            r"configure, round 5: keep = \['head'\]: the learner 'black-box' moves all tensors",
        ),
        ("configure", ValueError("one\ntwo"), r"raised ValueError: one two \(.*test_round.py:\d+"),
        ("accumulate", ZeroDivisionError("by 0"), "accumulate, round 5: raised ZeroDivisionError"),
        ("accumulate", None, "accumulate, round 5: returned None; expected the total"),
        ("apply", KeyError("m"), "apply, round 5: raised KeyError: 'm'"),
        ("apply", STATE, "apply, round 5: returned State; expected a state and metrics"),
        ("apply", (STATE, {}), "apply, round 5: returned version 4; expected 5"),
        ("apply", (after(), None), "apply, round 5: metrics are NoneType"),
        ("apply", (after(), {"a": "b"}), "apply, round 5: metric 'a' is str; expected a number"),
        ("apply", (after(slots={"m": [1]}), {}), "apply, round 5: slot 'm' is list; expected an"),
        ("apply", (after(notes={"m": STATE}), {}), "apply, round 5: note 'm' is State; expected"),
        ("apply", (State(NAN, 5), {}), "apply, round 5: returned parameters that are not finite"),
        (
            "apply",
            (State(Params(FOREIGN, STATE.params.vector), 5), {}),
            "apply, round 5: returned another layout",
        ),
    ],
)
def test_a_strategy_that_breaks_its_contract_is_named(
    hook: str, does: object, message: str
) -> None:
    good = ClientUpdate("x", 5, 1, delta=delta(1, 1, 1))
    with pytest.raises(StrategyError, match=message):
        play(good, strategy=Broken(hook, does))
    assert STATE.params.vector.tolist() == [1, 2, 3]


@pytest.mark.parametrize("hook", ["configure", "apply"])
def test_a_state_is_not_written_to(hook: str) -> None:
    class Writes(Broken):
        def answer(self, name: str, given: Any) -> Any:
            if name == hook:
                STATE.params.vector[0] = 7
            return given

    with pytest.raises(StrategyError, match=f"{hook}, round 5: raised ValueError: .*read-only"):
        play(ClientUpdate("x", 5, 1, delta=delta(1, 1, 1)), strategy=Writes("", None))
    assert STATE.params.vector.tolist() == [1, 2, 3]
    assert STATE.params.vector.flags.writeable


def test_metrics_become_plain_numbers() -> None:
    class Measures(Broken):
        def answer(self, name: str, given: Any) -> Any:
            return (given[0], {"a": np.float32(2), "b": np.int64(3)}) if name == "apply" else given

    _, report = play(strategy=Measures("", None))
    assert (report.metrics["a"], report.metrics["b"]) == (2.0, 3.0)
    assert {type(report.metrics[name]) for name in "ab"} == {float}


def test_a_strategy_may_refuse_an_update() -> None:
    refuses = Broken("accumulate", UpdateRefusedError("too far from the others"))
    _, report = play(ClientUpdate("x", 5, 1, delta=delta(1, 1, 1)), strategy=refuses)
    assert [r.reason for r in report.refused] == ["too far from the others"]
