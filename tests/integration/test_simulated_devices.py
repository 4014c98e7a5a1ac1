"""A run on modelled devices: what its rounds take, by hand from what its clients do."""

from pathlib import Path
from typing import Any

import pytest
from small_jobs import classify_table, labelled_rows

from fedloom.core.errors import ConfigError
from fedloom.core.job_devices import outgrown
from fedloom.progress import Quiet
from fedloom.results.history import line_from_json, line_to_json
from fedloom.simulation.simulator import Run, simulate
from fedloom.sources import job_of

WAYS = ("device", "network")
DEVICE = {
    "name": "custom",
    "flops": 1e6,
    "up": 1e4,
    "down": 1e5,
    "latency": 0.25,
    "watts_compute": 10.0,
    "watts_network": 2.0,
    "watts_idle": 0.0,
}


def ran(folder: Path, backbone: Path, **changes: Any) -> Run:
    table = classify_table(backbone, run={"directory": str(folder / "run"), "workers": 1})
    table |= changes
    return simulate(job_of(table), observer=Quiet(), data=labelled_rows())


def test_rounds_take_the_time_and_energy_of_the_slowest(
    tmp_path: Path, text_model: dict[str, Path]
) -> None:
    run = ran(tmp_path, text_model["classify"], device=DEVICE)
    for line in list(run.history)[1:]:
        # six clients, each of which computes flops / 1e6 s and sends at 1e4 bytes a second
        network = 6 * 0.25 + line.bytes_up / 1e4 + line.bytes_down / 1e5
        assert line.device_seconds == pytest.approx(line.flops / 1e6)
        assert line.network_seconds == pytest.approx(network)
        assert line.joules == pytest.approx(10 * line.device_seconds + 2 * line.network_seconds)
        busy = line.device_seconds + line.network_seconds
        assert busy / 6 <= line.round_seconds <= busy
        assert min(line.tokens, line.peak_memory, line.flops) > 0
        assert line_from_json(line_to_json(line)) == line
    last = run.history.last
    assert last is not None
    assert last.simulated_seconds == pytest.approx(sum(x.round_seconds for x in run.history))
    assert last.total_joules == pytest.approx(sum(x.joules for x in run.history))
    spent, tokens = run.summary.spent, sum(x.tokens for x in run.history)
    assert spent["eta_e"] == pytest.approx(tokens / last.total_joules)
    together = [sum(getattr(x, f"{kind}_seconds") for x in run.history) for kind in WAYS]
    assert spent["granularity"] == pytest.approx(together[0] / together[1])


def test_a_kind_of_device_has_its_own(tmp_path: Path, text_model: dict[str, Path]) -> None:
    slow = {"name": "slow", "share": 1.0, "device": {**DEVICE, "flops": 1e3}}
    run = ran(tmp_path, text_model["classify"], device=DEVICE, tiers=[slow])
    for line in list(run.history)[1:]:
        assert line.device_seconds == pytest.approx(line.flops / 1e3)


def test_nothing_is_said_of_time_and_energy_without_a_device(
    tmp_path: Path, text_model: dict[str, Path]
) -> None:
    run = ran(tmp_path, text_model["classify"])
    last = run.history.last
    assert last is not None
    assert min(last.tokens, last.peak_memory) > 0
    assert (last.simulated_seconds, last.total_joules, last.network_seconds) == (0.0, 0.0, 0.0)
    assert not {"eta_e", "granularity", "simulated_seconds"} & set(run.summary.spent)


def test_an_unknown_device_is_refused_before_anything_is_trained(
    tmp_path: Path, text_model: dict[str, Path]
) -> None:
    with pytest.raises(ConfigError, match="devices: unknown name 'rpi9'"):
        ran(tmp_path, text_model["classify"], device="rpi9")
    assert not (tmp_path / "run").exists()


def test_a_device_that_is_too_small_is_told_of() -> None:
    small = {"name": "custom", "memory_mb": 2.0}
    job = job_of({"device": small, "tiers": [{"name": "a", "device": {**small, "memory_mb": 3.0}}]})
    assert outgrown(job, 3 * 2**20) == ""
    assert outgrown(job, 5 * 2**20) == "a client held 5 MiB; its device has 3"
    assert outgrown(job_of({}), 2**60) == ""
