import pytest

from fedloom.core.cost import Cost
from fedloom.core.devices import Device, depth
from fedloom.core.errors import ConfigError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.registry import BUILT_IN, Component, create

SLOW = Device(
    flops=1e9,
    up=1000.0,
    down=4000.0,
    latency=0.5,
    watts_compute=10.0,
    watts_network=4.0,
    watts_idle=1.0,
)


def test_an_update_takes_the_time_and_energy_of_the_device() -> None:
    # computes 3e9 / 1e9 = 3 s; 0.5 + 2000/1000 + 6000/4000 = 4 s on the network
    found = SLOW.spent(Cost(bytes_up=2000, bytes_down=6000, flops=3e9, seconds=0.1))
    assert (found.device_seconds, found.network_seconds, found.busy) == (3.0, 4.0, 7.0)
    assert found.joules == 10.0 * 3 + 4.0 * 4
    assert (found.seconds, found.idle_watts) == (0.1, 1.0)  # what was measured stays


@pytest.mark.parametrize(("blocks", "seconds"), [(0, 0.1), (1, 1.0), (2, 3.0), (9, 3.0)])
def test_measured_steps_stand_in_place_of_operations(blocks: int, seconds: float) -> None:
    # five steps of 0.02, 0.2 or 0.6 s
    device = Device(step_seconds=(0.02, 0.2, 0.6))
    assert device.compute_seconds(1e15, steps=5, blocks=blocks) == pytest.approx(seconds)


def test_depth_counts_the_blocks_from_the_lowest_that_trains() -> None:
    blocks = ("layer.0", "layer.1", "layer.2", "head")
    whole = Layout(tuple(TensorSpec(block, (1,), block) for block in blocks))
    found = {name: depth(whole.select((name,)), whole) for name in ("layer.0", "layer.1", "head")}
    assert found == {"layer.0": 3, "layer.1": 2, "head": 0}


def test_fedadapters_table_of_a_tx2() -> None:
    device = create("devices", Component("tx2"))
    assert isinstance(device, Device)
    want = (0.02, 0.09, 0.18, 0.27, 0.36, 0.45, 0.54, 0.63, 0.72, 0.81, 0.9, 0.99, 1.08)
    assert (device.step_seconds, device.up) == (want, 1e6)


@pytest.mark.parametrize("name", sorted(BUILT_IN["devices"]))
def test_every_named_device_is_one(name: str) -> None:
    found = create("devices", Component(name))
    assert isinstance(found, Device) == (name != "none")


def test_figures_can_be_changed() -> None:
    changed = create("devices", Component("rpi5", {"watts_compute": 9, "up": 2e6}))
    assert isinstance(changed, Device)
    assert (changed.watts_compute, changed.up, changed.flops) == (9.0, 2e6, 36.7e9)


@pytest.mark.parametrize(
    ("component", "message"),
    [
        (Component("rpi6"), "did you mean 'rpi5'|rpi4"),
        (Component("rpi5", {"flop": 1.0}), r"devices.rpi5.flop: unknown key; .*flops"),
        (Component("rpi5", {"flops": "fast"}), "devices.rpi5.flops = 'fast': expected a number"),
        (Component("custom", {"up": 0.0}), r"device.up = 0.0: .*above 0"),
        (Component("custom", {"watts_idle": -1.0}), "device.watts_idle"),
        (Component("custom", {"step_seconds": (0.1, -1.0)}), "device.step_seconds"),
    ],
)
def test_mistakes_are_told(component: Component, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create("devices", component)
