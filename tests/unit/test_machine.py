"""Memory as the system tells it, from files as Linux writes them."""

from pathlib import Path

import pytest

from fedloom.core import machine
from fedloom.core.machine import free_memory, limited_memory, peak_memory, resident_memory


def group(folder: Path, names: tuple[str, str], limit: str, used: int, stat: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(limit + "\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(stat)


V2 = ("memory.max", "memory.current")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")


def test_the_tightest_of_nested_groups(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("0::/user.slice/client.service\n")
    root = tmp_path / "fs"
    group(root / "user.slice" / "client.service", V2, "max", 10, "inactive_file 0\n")
    assert limited_memory(own, root) is None
    group(root / "user.slice", V2, "1000", 700, "anon 600\ninactive_file 100\n")
    assert limited_memory(own, root) == 1000 - 700 + 100  # the page cache is given back
    group(root / "user.slice" / "client.service", V2, "300", 200, "inactive_file 0\n")
    assert limited_memory(own, root) == 100


def test_version_1_and_a_container_s_own_mount(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("5:cpu:/docker/abc\n4:memory:/docker/abc\n0::/\n")
    root = tmp_path / "fs"
    stat = "total_inactive_file 50\n"
    group(root / "memory", V1, "4000", 1000, stat)  # the outside's path is not there
    assert limited_memory(own, root) == 3050
    group(root / "memory", V1, str(2**63 - 4096), 1000, stat)
    assert limited_memory(own, root) is None


def test_a_group_that_is_over_its_limit_leaves_nothing(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("0::/\n")
    group(tmp_path / "fs", V2, "100", 150, "inactive_file 0\n")
    assert limited_memory(own, tmp_path / "fs") == 0


def test_no_groups(tmp_path: Path) -> None:
    assert limited_memory(tmp_path / "none", tmp_path) is None


def test_free_is_what_the_groups_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "meminfo"
    path.write_text("MemTotal:  8000 kB\nMemAvailable:   4000 kB\n")
    for left, free in ((None, 4000 * 1024), (1000, 1000), (2**40, 4000 * 1024)):
        monkeypatch.setattr(machine, "limited_memory", lambda left=left: left)
        assert free_memory(path) == free


def test_what_this_process_holds(tmp_path: Path) -> None:
    assert 2**20 < resident_memory() <= peak_memory() + 2**20
    assert resident_memory(tmp_path / "none") == pytest.approx(peak_memory(), abs=2**20)
    assert peak_memory(tmp_path / "none") >= peak_memory() - 2**20
    path = tmp_path / "status"
    path.write_text("Name:\tpython\nVmHWM:\t    2000 kB\n")
    assert peak_memory(path) == 2000 * 1024
