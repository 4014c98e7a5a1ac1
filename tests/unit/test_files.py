import importlib.util
from pathlib import Path

import pytest

from fedloom.backbones.fetch import folder_of
from fedloom.backbones.files import resolve
from fedloom.core.errors import ModelError


def test_a_registered_name_is_its_folder_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDLOOM_CACHE", str(tmp_path))
    folder_of("minilm").mkdir(parents=True)
    assert resolve("minilm") == folder_of("minilm")


def test_a_folder_is_itself_if_it_holds_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json: not a model folder"):
        resolve(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert resolve(str(tmp_path)) == tmp_path


def test_a_missing_folder_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none: no such folder"):
        resolve(str(tmp_path / "none"))
    with pytest.raises(ModelError, match=r"none: no such folder"):
        resolve("./none")


hub = importlib.util.find_spec("huggingface_hub") is not None


@pytest.mark.skipif(not hub, reason="needs huggingface_hub")
def test_a_hub_name_that_cannot_be_had_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    message = r"backbone 'nobody/minilm': not a folder here, and the hub does not give it \(.+\); "
    with pytest.raises(ModelError, match=message):
        resolve("nobody/minilm")


@pytest.mark.skipif(hub, reason="huggingface_hub is here")
def test_without_the_extra_a_hub_name_says_what_to_install() -> None:
    with pytest.raises(ModelError, match=r"a hub name needs: pip install 'fedloom\[models\]'"):
        resolve("nobody/minilm")
