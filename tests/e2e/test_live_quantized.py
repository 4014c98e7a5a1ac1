"""A live federation over a backbone in 4 bits: what devices fetch is small, and the bits agree."""

from pathlib import Path

from live_processes import Fleet, era_rows, table_of, tensors

from fedloom import simulate
from fedloom.progress import Quiet

CLIENTS = 2


def test_the_simulators_bits_over_a_backbone_in_4_bits(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    table = table_of(text_model["classify"], CLIENTS)
    table["backbone"] |= {"quantization": "int4", "kernel": "dequantize"}
    with Fleet.of(tmp_path, table, era_rows(CLIENTS)) as fleet:
        fleet.serve()
        for client in fleet.clients:
            fleet.join(client)
        assert fleet.ended() == 0, fleet.logs()
        assert set(fleet.gone()) == {0}
    simulate(tmp_path / "job.toml", settings={"run.directory": tmp_path / "sim"}, observer=Quiet())
    assert tensors(tmp_path / "live") == tensors(tmp_path / "sim")
    assert fleet.lines() == fleet.lines("sim")
