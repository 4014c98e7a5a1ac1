"""What an app's folder may say, and what is wrong with one that says something else."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("flwr")

from fedloom.core.errors import ConfigError, RunError
from fedloom.flower.app import assigned, read_app
from fedloom.flower.folder import folder_for

PARTS = (
    '[tool.flwr.app.components]\nserverapp = "own_app:server"\nclientapp = "own_app:apps.client"\n'
)
CONFIG = '[tool.flwr.app.config]\nrounds = 3\nlr = 1.0\nname = "x"\nfast = false\n'
DEEP = "[tool.flwr.app.config.deep]\ner = 1\n"
MODULE = """
import types
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
server, apps = ServerApp(), types.SimpleNamespace(client=ClientApp())
"""


def written(folder: Path, text: str) -> Path:
    (folder / "pyproject.toml").write_text(text)
    return folder


def test_an_app_and_changes_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_app.py").write_text(MODULE)
    monkeypatch.setattr(sys, "path", list(sys.path))
    changes = ["lr=2 name='two words' fast=true", "deep.er=4"]
    app = read_app(written(tmp_path, PARTS + CONFIG + DEEP), changes)

    assert app.name == tmp_path.name
    assert app.config == {"rounds": 3, "lr": 2.0, "name": "two words", "fast": True, "deep.er": 4}
    assert type(app.client_app()).__name__ == "ClientApp"
    assert type(app.server_app()).__name__ == "ServerApp"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[project]\n", r"no \[tool.flwr.app.components\]: not an app"),
        ("tool = 3\n", r"no \[tool.flwr.app.components\]: not an app"),
        ('[tool.flwr.app]\ncomponents = "x"\n', r"components\.serverapp: expected 'module:attr"),
        ('[tool.flwr.app.components]\nserverapp = "m:"\n', "serverapp: expected 'module:attr"),
        (PARTS.partition("clientapp")[0], "clientapp: expected 'module:attribute'"),
        (
            PARTS + "[tool.flwr.app.config]\nlayers = [1, 2]\n",
            r"config\.layers = \[1, 2\]: expected",
        ),
        ("[tool", "not valid TOML"),
    ],
)
def test_what_is_no_app(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        read_app(written(tmp_path, text))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("rounds=many", "--run-config rounds = 'many': expected a whole number"),
        ("rounds=2.5", "rounds = 2.5: expected a whole number"),
        ("fast=1", "fast = 1: expected true or false"),
        ("name=1", "name = 1: expected a string"),
        ("deep.est=1", "--run-config deep.est: the app knows deep.er, fast, lr, name, rounds"),
        ("rounds", "--run-config 'rounds': 'rounds': expected key=value"),
        ("rounds=3 lr", "'lr': expected key=value"),
    ],
)
def test_what_cannot_be_changed(change: str, message: str, tmp_path: Path) -> None:
    written(tmp_path, PARTS + CONFIG + DEEP)
    with pytest.raises(ConfigError, match=message):
        read_app(tmp_path, [change])


def test_assignments_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text('[deep]\ner = "x y"\n')
    assert assigned([str(tmp_path / "own.toml"), "a=1"], "--x") == {"deep.er": "x y", "a": 1}


def test_what_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    parts = '[tool.flwr.app.components]\nserverapp = "absent_app:x"\nclientapp = "json:loads"\n'
    app = read_app(written(tmp_path, parts))
    with pytest.raises(ConfigError, match="serverapp = 'absent_app:x': cannot import 'absent_app'"):
        app.server_app()
    with pytest.raises(ConfigError, match="expected a ClientApp, found function"):
        app.client_app()


def test_what_raises_as_it_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    parts = '[tool.flwr.app.components]\nserverapp = "broken_app:x"\nclientapp = "broken_app:y"\n'
    app = read_app(written(tmp_path, parts))
    (tmp_path / "broken_app.py").write_text("import json\n\njson.loads('no')\n")
    line = r"serverapp = 'broken_app:x': raised JSONDecodeError: .*broken_app\.py:3\)$"
    with pytest.raises(ConfigError, match=line):
        app.server_app()


def test_a_folder_and_the_run_in_it(tmp_path: Path) -> None:
    app = read_app(written(tmp_path, PARTS + CONFIG))
    out = str(tmp_path / "out")
    live = folder_for(app, out, live=True, nodes=2, most=10)
    live = folder_for(app, out, live=True, nodes=2, most=10)  # nothing had begun
    (tmp_path / "out" / "metrics.jsonl").touch()
    with pytest.raises(RunError, match="holds a run; --overwrite runs it again, --out elsewhere"):
        folder_for(app, out)
    with pytest.raises(RunError, match="kept no journal, and cannot go on"):
        folder_for(app, out, resume=True, live=True, nodes=2)
    live.journal.touch()
    with pytest.raises(RunError, match="holds a run; --resume goes on, --overwrite"):
        folder_for(app, out)
    assert folder_for(app, out, resume=True, live=True, nodes=2, most=10) == live
    with pytest.raises(RunError, match="holds another run: nodes = 2, not 3"):
        folder_for(app, out, resume=True, live=True, nodes=3)
    other = read_app(tmp_path, ["lr=3"])
    with pytest.raises(RunError, match="holds another run: run_config = "):
        folder_for(other, out, resume=True, live=True, nodes=2)
    (tmp_path / "out" / "summary.json").write_text("{}")
    with pytest.raises(RunError, match="holds this run, finished"):
        folder_for(app, out, resume=True, live=True, nodes=2)
    again = folder_for(app, out, overwrite=True, live=True, nodes=2)
    assert again.number != live.number
    assert not (tmp_path / "out" / "summary.json").exists()


def test_folders_that_are_none(tmp_path: Path) -> None:
    app = read_app(written(tmp_path, PARTS + CONFIG))
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot be written: Not a directory; choose another"):
        folder_for(app, str(tmp_path / "file"))
    with pytest.raises(RunError, match="is not empty, --out elsewhere"):
        folder_for(app, str(tmp_path), overwrite=True)
