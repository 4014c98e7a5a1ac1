"""Live devices that are cut apart by the memory that they say they have."""

from pathlib import Path

from hosted_federation import ROUNDS, at_work, bits, devices_of, opened, ports, simulated, table_of

from fedloom.core.types import State


def test_a_devices_own_memory_says_where_it_is_cut(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    split = {"mode": "v1", "bottom": 0, "top": 0, "most_bottom": 2}
    # Each side clips its own gradients: with a bound, where a client is cut would tell; and rates
    # that differ from tensor to tensor round otherwise than a single one.
    table = table_of(text_model["classify"], split, local={"clip_norm": 0.0, "head_lr": 0.0})
    expected = simulated(table, tmp_path)  # with no block below the far ones, for everybody
    with opened(table, tmp_path) as federation:
        devices = devices_of(federation, tmp_path)
        with ports(federation) as port, at_work(devices, port):
            there = {client.id: client.num_examples for client in federation.board.present(60.0)}
            federation.board.seen("c01", there["c01"], memory=2**30)
            state = State(federation.plan.start)
            *_, last = federation.live.play(0, state, first=1, last=ROUNDS)
        assert [device.errors for device in devices.values()] == [[], []]
    firsts = {name: {plan.first for plan in device.plans} for name, device in devices.items()}
    assert firsts == {"c00": {0}, "c01": {2}}
    assert bits(last.state.params.vector) == bits(expected.params.vector)
