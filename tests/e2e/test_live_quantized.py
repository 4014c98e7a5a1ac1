"""A live federation over a backbone in 4 bits: what devices fetch is small, and the bits agree."""

from pathlib import Path

from live_processes import Fleet, era_rows, table_of

CLIENTS = 2


def test_the_simulators_bits_over_a_backbone_in_4_bits(
    text_model: dict[str, Path], tmp_path: Path
) -> None:
    table = table_of(text_model["classify"], CLIENTS)
    table["backbone"] |= {"quantization": "int4", "kernel": "dequantize"}
    with Fleet.of(tmp_path, table, era_rows(CLIENTS)) as fleet:
        fleet.play()
    fleet.compare()
