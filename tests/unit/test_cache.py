import threading
from pathlib import Path

import pytest

from fedloom.backbones.cache import cache_root, install
from fedloom.core.errors import ModelError


def test_the_environment_names_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEDLOOM_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    monkeypatch.setenv("FEDLOOM_CACHE", "")
    assert cache_root() == Path.home() / ".cache" / "fedloom"


def write(folder: Path) -> None:
    (folder / "file").write_text("x")


def test_a_folder_is_filled_once(tmp_path: Path) -> None:
    target = tmp_path / "new" / "model"
    assert install(target, write) == target
    (target / "file").write_text("changed")
    install(target, write)
    assert (target / "file").read_text() == "changed"


def test_a_failure_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        write(folder)
        raise ModelError("no luck")

    with pytest.raises(ModelError, match="no luck"):
        install(tmp_path / "model", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["model.lock"]
    assert install(tmp_path / "model", write).is_dir()


def test_a_second_one_waits_and_finds_it_made(tmp_path: Path) -> None:
    entered, go = threading.Event(), threading.Event()
    calls = []

    def slow(folder: Path) -> None:
        calls.append(folder)
        entered.set()
        go.wait(20)
        write(folder)

    threads = [threading.Thread(target=install, args=(tmp_path / "model", slow)) for _ in range(2)]
    threads[0].start()
    entered.wait(20)
    threads[1].start()
    go.set()
    for thread in threads:
        thread.join(20)
    assert len(calls) == 1


def test_a_cache_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match=r"Not a directory; \$FEDLOOM_CACHE names another"):
        install(tmp_path / "file" / "models" / "m", write)
