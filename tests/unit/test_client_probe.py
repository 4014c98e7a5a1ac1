from pathlib import Path

import pytest

from fedloom.client.memory import bare
from fedloom.client.probe import check, device, instruction_sets, probe, table
from fedloom.client.settings import ClientSettings
from fedloom.core.machine import free_memory


def test_what_a_device_without_torch_can_run(tmp_path: Path) -> None:
    rows = dict(probe(ClientSettings(engine="onnx"), tmp_path))
    assert "torch" not in rows
    assert rows["can run"].startswith("learner finite-difference, and evaluation;")
    assert rows["backbones"].startswith("bert, llama, qwen2, gpt2: ")
    assert rows["adapters"] == "lora, ia3, bottleneck, head"


def test_what_the_server_is_told() -> None:
    given = ClientSettings(threads=3, memory="2GB")
    found = device(given, "phone")
    assert (found.cores, found.memory) == (3, 2 * 10**9 - bare(given))
    assert found.machine
    assert found.system
    assert found.tier == "phone"
    assert device(ClientSettings(), "").memory > 0


def test_free_memory(tmp_path: Path) -> None:
    path = tmp_path / "meminfo"
    path.write_text("MemTotal:  8000 kB\nMemAvailable:   4000 kB\n")
    assert free_memory(path) == 4000 * 1024
    assert free_memory(tmp_path / "none") > 0


def test_instruction_sets(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text("processor : 0\nflags : fpu avx2 avx512f amx_bf16\n")
    assert instruction_sets(path) == ("avx2", "avx512f", "amx_bf16")
    path.write_text("processor : 0\nFeatures : fp asimd asimddp\n")
    assert instruction_sets(path) == ("asimd", "asimddp")
    assert instruction_sets(tmp_path / "none") == ()


def test_a_look_at_this_device(tmp_path: Path) -> None:
    data = tmp_path / "own.csv"
    data.write_text("text,label\na,b\n")
    given = ClientSettings(data=str(data), threads=1, device="cpu", hours="0-24")
    found = dict(probe(given, tmp_path / "not" / "made"))
    assert found["data"].endswith("readable")
    assert found["may work now"] == "yes"
    assert "GFLOP/s" in found["float32"]
    assert "GFLOP/s" in found["bfloat16"]
    assert not (tmp_path / "not").exists()
    missing = dict(probe(ClientSettings(data="no.csv", threads=1, device="cpu"), tmp_path))
    assert "cannot be read: No such file" in missing["data"]


def test_a_table() -> None:
    assert table([("cores", "4"), ("may work", "yes")]) == "cores     4\nmay work  yes"


def test_the_exit_status_of_a_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ClientSettings(directory=str(tmp_path), threads=1, device="cpu")
    assert check(given) == 0
    assert "none given: --data FILE" in capsys.readouterr().out
    assert check(ClientSettings(**{**vars(given), "data": "no.csv"})) == 2
