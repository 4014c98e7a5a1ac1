"""Live rounds over a split model: what devices and server come to is what the simulator does."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hosted_federation import (
    ROUNDS,
    Device,
    bits,
    devices_of,
    live,
    opened,
    ports,
    rows_of,
    simulated,
    table_of,
)
from waiting import until

from fedloom.client.channel import Channel
from fedloom.client.span import RemoteFar
from fedloom.core.types import State
from fedloom.server.board import Offer
from fedloom.server.live_round import Stopped
from fedloom.server.records import Result


@pytest.mark.parametrize(
    "split",
    [
        {"codec_up": "int8", "codec_down": "bf16"},
        {"labels": "far"},
        {"recompute": True, "bottom": 0},
    ],
    ids=["home", "far", "recompute"],
)
def test_own_copies_end_where_the_simulators_do(
    text_model: dict[str, Path], tmp_path: Path, split: dict[str, Any]
) -> None:
    table = table_of(text_model["classify"], {"mode": "v1", **split})
    expected = simulated(table, tmp_path)
    with opened(table, tmp_path) as federation:
        devices = devices_of(federation, tmp_path)
        played = live(federation, devices)
        assert federation.counting.refused == {}
    assert bits(played[-1].state.params.vector) == bits(expected.params.vector)
    for name in ("up", "down"):
        found = [getattr(each.report.cost, f"bytes_{name}") for each in played]
        assert found == [int(n) for n in expected.history[f"bytes_{name}"][1:]]


@pytest.mark.parametrize("mode", ["v1", "v2", "concat", "sequential"])
def test_one_client_a_round_is_the_same_in_every_mode(
    text_model: dict[str, Path], tmp_path: Path, mode: str
) -> None:
    table = table_of(text_model["classify"], {"mode": mode}, 1)
    expected = simulated(table, tmp_path, 1)
    with opened(table, tmp_path) as federation:
        played = live(federation, devices_of(federation, tmp_path, 1))
    assert bits(played[-1].state.params.vector) == bits(expected.params.vector)


@pytest.mark.parametrize("labels", ["home", "far"])
def test_who_steps_together_ends_where_the_simulators_do(
    text_model: dict[str, Path], tmp_path: Path, labels: str
) -> None:
    # The far side's batches are the simulator's, in its order. At home three clients are there one
    # by one, where the simulator has them in one product: the last bits differ.
    split = {"mode": "concat", "labels": labels, "patience": 60.0}
    table = table_of(text_model["classify"], split, 3, local={"optimizer": "sgd", "lr": 0.1})
    expected = simulated(table, tmp_path, 3)
    with opened(table, tmp_path) as federation:
        devices = devices_of(federation, tmp_path, 3)
        played = live(federation, devices)
        assert federation.counting.refused == {}
    found, start = played[-1].state.params.vector, federation.plan.start.vector
    apart = np.linalg.norm(found - expected.params.vector)
    assert apart < 1e-5 * np.linalg.norm(expected.params.vector - start)


def test_clients_have_cuts_of_their_own(text_model: dict[str, Path], tmp_path: Path) -> None:
    table = table_of(text_model["classify"], {"mode": "v1", "bottom": 0})
    table["seed"] = 1  # which deals out both kinds
    table["tiers"] = [
        {"name": "wide", "share": 0.5, "bottom": 1},
        {"name": "narrow", "share": 0.5, "local": {"lr": 0.01, "batch_size": 3}},
    ]
    expected = simulated(table, tmp_path)
    population = expected.prepared.population
    with opened(table, tmp_path) as federation:
        devices = devices_of(federation, tmp_path)
        for number, device in enumerate(devices.values()):
            device.tier = population.client(number).tier
        assert {device.tier for device in devices.values()} == {"wide", "narrow"}
        played = live(federation, devices)
    assert {plan.first for device in devices.values() for plan in device.plans} == {0, 1}
    assert bits(played[-1].state.params.vector) == bits(expected.params.vector)


def test_the_latest_session_of_a_client_counts(text_model: dict[str, Path], tmp_path: Path) -> None:
    # A device that has trained and is killed, once before its session is over and once after.
    table = table_of(text_model["classify"], {"mode": "v1"})
    expected = simulated(table, tmp_path)
    with opened(table, tmp_path) as federation:
        devices = devices_of(federation, tmp_path)
        killed = Killed("c01", federation, tmp_path / "c01", rows_of(2))
        played = live(federation, devices | {"c01": killed})
    assert killed.times == 2 * ROUNDS
    assert bits(played[-1].state.params.vector) == bits(expected.params.vector)
    assert played[0].report.cost.bytes_up > int(expected.history["bytes_up"][1])


class Killed(Device):
    """Trains three times; the first two come to nothing, with and without a word to the server."""

    times = 0

    def trained(self, offer: Offer, channel: Channel) -> tuple[Result, bytes]:
        def fail(far: RemoteFar) -> None:
            raise InterruptedError

        self.between = fail
        with pytest.raises(InterruptedError):
            super().trained(offer, channel)
        self.between = lambda far: None
        super().trained(offer, channel)
        self.times += 2
        return super().trained(offer, channel)


@pytest.mark.parametrize("mode", ["v1", "v2", "concat"])
def test_a_round_goes_on_in_another_process(
    text_model: dict[str, Path], tmp_path: Path, mode: str
) -> None:
    # One client is done when the server is told to end; the other comes after it is there again.
    ends = set()
    for apart in (False, True):
        own = tmp_path / f"apart-{apart}"
        own.mkdir()
        ends.add(one_after_the_other(text_model["classify"], mode, own, apart))
    assert len(ends) == 1


def one_after_the_other(model: Path, mode: str, folder: Path, apart: bool) -> bytes:
    """The bits of the model after a round in which the second client waits for the first."""
    table = table_of(model, {"mode": mode, "patience": 0.2})
    over, started = threading.Event(), threading.Event()
    with ExitStack() as stack:
        federation = stack.enter_context(opened(table, folder))
        port = stack.enter_context(ports(federation))
        threads = stack.enter_context(ThreadPoolExecutor(3))
        stack.callback(over.set)
        devices, state = devices_of(federation, folder), State(federation.plan.start)
        for device in devices.values():
            device.folder.mkdir()
            federation.board.seen(device.name, 10)

        def play() -> State:
            started.set()
            return next(federation.live.play(0, state, first=1, last=1)).state

        playing = threads.submit(play)
        done = threads.submit(devices["c00"].work, port, over)
        until(lambda: federation.ledger.written(1), "a result")
        over.set()
        done.result(20)
        if apart:
            federation.stop()
            with pytest.raises(Stopped):
                playing.result(20)
            stack.close()
            federation = stack.enter_context(opened(table, folder))
            port = stack.enter_context(ports(federation))
            threads = stack.enter_context(ThreadPoolExecutor(3))
            devices = devices_of(federation, folder)
            playing = threads.submit(play)
        over.clear()
        stack.callback(over.set)
        done = threads.submit(devices["c01"].work, port, over)
        found = playing.result(60)
        over.set()
        assert devices["c01"].errors == devices["c00"].errors == []
    return bits(found.params.vector)
