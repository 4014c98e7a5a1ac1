"""A Flower app as its folder has it: what its pyproject.toml names, and what that says of a run."""

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedloom.core.config import convert, override, read_toml
from fedloom.core.errors import ConfigError
from fedloom.core.modules import imported
from fedloom.flower.randomness import seeded
from fedloom.strategies.flower.hosting import flower

__all__ = ["FlowerApp", "assigned", "flattened", "read_app"]

_ASSIGNMENT = re.compile(r"""[^\s=]+=(?:'[^']*'|"[^"]*"|[^\s'"]\S*)""")


@dataclass(frozen=True)
class FlowerApp:
    """An app.

    Attributes:
        folder: of its pyproject.toml.
        name: of the project.
        server: ``module:attribute`` of the ServerApp.
        client: ``module:attribute`` of the ClientApp.
        config: ``run_config``: dotted keys and plain values.
        resumes_itself: it saves its own state and goes on from there: ``[tool.fedloom]
            resumes-itself = true``; nothing is to be told it again.
    """

    folder: Path
    name: str
    server: str
    client: str
    config: Mapping[str, Any] = field(default_factory=dict)
    resumes_itself: bool = False

    def server_app(self) -> Any:
        """The ServerApp; the app's code is run to get it.

        Raises:
            ConfigError: it cannot be imported, raised when it was, or is none.
        """
        return self._load("serverapp", self.server, flower().serverapp.ServerApp)

    def client_app(self) -> Any:
        """The ClientApp; as `server_app`."""
        return self._load("clientapp", self.client, flower().clientapp.ClientApp)

    def _load(self, key: str, target: str, kind: type) -> Any:
        where = f"{self.folder}: tool.flwr.app.components.{key} = {target!r}"
        module, _, attributes = target.partition(":")
        folder = str(self.folder)
        if folder not in sys.path:
            sys.path.insert(0, folder)
        with seeded(0, "import", target):
            app: Any = imported(module, where)
        for attribute in attributes.split("."):
            app = getattr(app, attribute, None)
        if not isinstance(app, kind):
            raise ConfigError(f"{where}: expected a {kind.__name__}, found {type(app).__name__}")
        return app


def read_app(folder: str | Path, changes: Iterable[str] = ()) -> FlowerApp:
    """The app of a folder.

    Args:
        folder: with a pyproject.toml.
        changes: ``key=value`` over ``[tool.flwr.app.config]``, several in one text as Flower has
            it; only keys that stand there, and values of the same type.

    Raises:
        ConfigError: there is no app, it has no such key, or a value is of another type.
    """
    path = Path(folder).expanduser().resolve()
    file = path / "pyproject.toml"
    if not file.exists():
        raise ConfigError(f"{file}: no such file: not an app")
    table = read_toml(file)
    app = _table(table, "tool", "flwr", "app")
    if "components" not in app:
        raise ConfigError(f"{file}: no [tool.flwr.app.components]: not an app")
    components = _table(app, "components")
    for key in ("serverapp", "clientapp"):
        if not all(str(components.get(key, "")).partition(":")[::2]):
            text = "expected 'module:attribute'"
            raise ConfigError(f"{path}: tool.flwr.app.components.{key}: {text}")
    config = flattened(_table(app, "config"))
    for key, value in config.items():
        if not isinstance(value, str | int | float):
            text = "expected a text, a number, or true or false"
            raise ConfigError(f"{file}: tool.flwr.app.config.{key} = {value!r}: {text}")
    for key, value in assigned(changes, "--run-config").items():
        if key not in config:
            known = ", ".join(sorted(config)) or "none"
            raise ConfigError(f"--run-config {key}: the app knows {known}")
        config[key] = convert(type(config[key]), value, f"--run-config {key}")
    name = str(_table(table, "project").get("name", path.name))
    itself = _table(table, "tool", "fedloom").get("resumes-itself") is True
    return FlowerApp(path, name, components["serverapp"], components["clientapp"], config, itself)


def assigned(texts: Iterable[str], option: str) -> dict[str, Any]:
    """``key=value`` as a plain table: several in one text, separated by blanks, or a TOML file.

    >>> assigned(['lr=0.1 name="two words"', "deep.er=true"], "--run-config")
    {'lr': 0.1, 'name': 'two words', 'deep.er': True}

    Raises:
        ConfigError: something is no such assignment.
    """
    out: dict[str, Any] = {}
    for text in texts:
        if text.endswith(".toml") and "=" not in text:
            out |= flattened(read_toml(Path(text).expanduser()))
            continue
        rest = _ASSIGNMENT.sub("", text).strip()
        if rest:
            raise ConfigError(f"{option} {text!r}: {rest!r}: expected key=value")
        out |= flattened(override({}, (found[0] for found in _ASSIGNMENT.finditer(text))))
    return out


def _table(table: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """A table within a table; empty where there is none."""
    for key in keys:
        found = table.get(key, {})
        table = found if isinstance(found, Mapping) else {}
    return table


def flattened(table: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """A table with dotted keys in the place of tables.

    >>> flattened({"lr": 0.1, "model": {"depth": 2}})
    {'lr': 0.1, 'model.depth': 2}
    """
    out: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            out |= flattened(value, f"{before}{key}.")
        else:
            out[before + key] = value
    return out
