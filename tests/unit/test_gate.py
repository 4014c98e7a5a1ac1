from dataclasses import replace

import numpy as np
import pytest
from small_server import LAYOUT, frame_of, gate_of, result_of

from fedloom.codecs.frame import OVERHEAD, write_frame
from fedloom.core.devices import Device
from fedloom.core.errors import UpdateRefusedError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import ClientTask, Cost, LocalWork
from fedloom.server.gate import check_weight
from fedloom.server.records import Ticket

TICKET = Ticket("a" * 32, 1, "ann", attempt=2)
FRAME = frame_of(1.0)
NAN = bytes(write_frame("float32", LAYOUT, np.full(4, np.nan, "<f4").tobytes()).frame)
OTHER = frame_of(1.0, Layout((TensorSpec("v", (4,)),)))


def refusal(frame: bytes | None, ticket: Ticket = TICKET, **changes: object) -> str:
    result = result_of(frame or b"", **changes)
    with pytest.raises(UpdateRefusedError) as caught:
        gate_of(["ann"], norm_bound=10.0).admit(ticket, result, frame)
    return caught.value.code


def test_an_update_that_can_be_used_is_decoded_and_its_cost_completed() -> None:
    result = result_of(FRAME, metrics={"loss": 0.5}, cost=Cost(flops=9.0, bytes_up=1))
    for payload in (FRAME, bytearray(FRAME)):
        update = gate_of(["ann"]).admit(TICKET, result, payload)
        assert update.delta is not None
        assert update.delta.vector.tolist() == [1.0] * 4
        assert (update.client, update.round, update.attempt) == ("ann", 1, 2)
        assert (update.num_examples, update.metrics) == (3, {"loss": 0.5})
        assert update.cost == Cost(flops=9.0, bytes_up=4 * 4 + OVERHEAD, bytes_down=7)


def test_the_energy_of_measured_seconds_is_the_devices() -> None:
    device = Device(watts_compute=10.0, watts_network=2.0, watts_idle=0.5)
    result = result_of(FRAME, cost=Cost(device_seconds=3.0, network_seconds=4.0))
    known = {"ann": device, "bob": None}
    gate = replace(gate_of(["ann", "bob"]), device_of=known.__getitem__)
    cost = gate.admit(TICKET, result, FRAME).cost
    assert (cost.joules, cost.idle_watts) == (10.0 * 3.0 + 2.0 * 4.0, 0.5)
    assert (cost.device_seconds, cost.network_seconds) == (3.0, 4.0)
    other = gate.admit(Ticket("b" * 32, 1, "bob"), result, FRAME).cost
    assert (other.joules, other.idle_watts) == (0.0, 0.0)


def test_each_fault_has_its_code() -> None:
    assert refusal(FRAME, size=1001) == "too-large"
    assert refusal(FRAME, num_examples=0) == "weight"
    assert refusal(FRAME, num_examples=101) == "weight"
    assert refusal(None) == "no-delta"
    assert refusal(FRAME, codec="zip") == "codec"
    assert refusal(FRAME[:-1]) == "codec"
    assert refusal(OTHER) == "layout"
    assert refusal(NAN) == "not-finite"
    assert refusal(frame_of(6.0)) == "norm"  # 6 * sqrt(4) = 12
    assert refusal(frame_of(3e38)) == "norm"
    assert refusal(FRAME, Ticket("a" * 32, 2, "ann")) == "round-over"
    assert refusal(FRAME, Ticket("a" * 32, 1, "bob")) == "ticket-unknown"


def test_the_norm_may_be_the_bound() -> None:
    gate_of(["ann"], norm_bound=10.0).admit(TICKET, result_of(frame_of(5.0)), frame_of(5.0))
    huge = frame_of(3e38)
    gate_of(["ann"]).admit(TICKET, result_of(huge), huge)  # without a bound, any finite one


def test_what_is_refused_is_named() -> None:
    with pytest.raises(UpdateRefusedError, match="size = 1001: at most 1000 bytes are asked for"):
        gate_of(["ann"]).size(result_of(FRAME, size=1001))
    with pytest.raises(UpdateRefusedError, match="num_examples = 8: from 1 to 7"):
        check_weight(8, 7)
    with pytest.raises(UpdateRefusedError, match="norm = 12: at most 10"):
        gate_of(["ann"], norm_bound=10.0).admit(TICKET, result_of(frame_of(6.0)), frame_of(6.0))


def test_the_seconds_of_the_model_stand_beside_the_measured_ones() -> None:
    device = Device(latency=0.5, up=10.0, down=7.0, step_seconds=(0.0, 3.0))
    result = result_of(FRAME, cost=Cost(device_seconds=3.0, network_seconds=4.0))
    task = ClientTask("ann", 1, 0, work=LocalWork(batch_size=2))
    gate = gate_of(["ann"], tasks={"ann": task}, device_of=lambda client: device)
    update = replace(gate, examples_of=lambda client: 5).update(TICKET, result, FRAME)
    cost = update.cost
    assert (cost.device_seconds, cost.network_seconds) == (3.0, 4.0)
    # Three steps of the one layer; latency; what went up; seven bytes down.
    assert cost.modelled_seconds == pytest.approx(3 * 3.0 + 0.5 + len(FRAME) / 10.0 + 1.0)
