"""A Flower app as its folder has it: what its pyproject.toml names, and what that says of a run."""

import importlib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedloom.core.config import override, read_toml
from fedloom.core.errors import ConfigError
from fedloom.strategies.flower.hosting import flower

__all__ = ["FlowerApp", "flattened", "read_app"]


@dataclass(frozen=True)
class FlowerApp:
    """An app.

    Attributes:
        folder: of its pyproject.toml.
        name: of the project.
        server: ``module:attribute`` of the ServerApp.
        client: ``module:attribute`` of the ClientApp.
        config: ``run_config``: dotted keys and plain values.
    """

    folder: Path
    name: str
    server: str
    client: str
    config: Mapping[str, Any] = field(default_factory=dict)

    def server_app(self) -> Any:
        """The ServerApp; the app's code is run to get it.

        Raises:
            ConfigError: it cannot be imported, or is none.
        """
        return self._load("serverapp", self.server, flower().serverapp.ServerApp)

    def client_app(self) -> Any:
        """The ClientApp; as `server_app`."""
        return self._load("clientapp", self.client, flower().clientapp.ClientApp)

    def _load(self, key: str, target: str, kind: type) -> Any:
        where = f"{self.folder}: tool.flwr.app.components.{key} = {target!r}"
        module, _, attribute = target.partition(":")
        folder = str(self.folder)
        if folder not in sys.path:
            sys.path.insert(0, folder)
        try:
            found = importlib.import_module(module)
        except ImportError as error:
            raise ConfigError(f"{where}: cannot be imported: {error}") from None
        app = getattr(found, attribute, None)
        if not isinstance(app, kind):
            raise ConfigError(f"{where}: expected a {kind.__name__}, found {type(app).__name__}")
        return app


def read_app(folder: str | Path, changes: Iterable[str] = ()) -> FlowerApp:
    """The app of a folder.

    Args:
        folder: with a pyproject.toml.
        changes: ``key=value`` over ``[tool.flwr.app.config]``; only keys that stand there.

    Raises:
        ConfigError: there is no app, or it has no such key.
    """
    path = Path(folder).expanduser().resolve()
    table = read_toml(path / "pyproject.toml")
    app = table.get("tool", {}).get("flwr", {}).get("app")
    if not isinstance(app, Mapping) or "components" not in app:
        raise ConfigError(f"{path / 'pyproject.toml'}: no [tool.flwr.app.components]: not an app")
    components = app["components"]
    for key in ("serverapp", "clientapp"):
        if ":" not in str(components.get(key, "")):
            text = "expected 'module:attribute'"
            raise ConfigError(f"{path}: tool.flwr.app.components.{key}: {text}")
    config = flattened(app.get("config", {}))
    for key, value in flattened(override({}, changes)).items():
        if key not in config:
            known = ", ".join(sorted(config)) or "none"
            raise ConfigError(f"--run-config {key}: the app knows {known}")
        config[key] = value
    name = str(table.get("project", {}).get("name", path.name))
    return FlowerApp(path, name, components["serverapp"], components["clientapp"], config)


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
