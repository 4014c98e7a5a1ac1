"""What the owner of a device says: a TOML file, the environment, and flags, which win."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from fedloom.core.config import build, read_toml
from fedloom.core.errors import ConfigError, require
from fedloom.core.sizes import bytes_of

__all__ = ["AUTO", "PREFIX", "ClientSettings", "is_callable", "settings_from"]

PREFIX = "FEDLOOM_"
"""Of the environment's names: ``FEDLOOM_DATA`` is `ClientSettings.data`."""

AUTO = "auto"
"""Of `ClientSettings.tier`: the first tier of the job that the device's memory holds."""

_HOURS = re.compile(r"([01]?\d|2[0-4])-([01]?\d|2[0-4])")


@dataclass(frozen=True)
class ClientSettings:
    """How a device takes part.

    Attributes:
        directory: the device's key, certificate, downloads and results; empty for
            ``~/.fedloom/<federation>``.
        data: its own examples: a CSV, JSONL, Parquet or NPZ file, or ``module:callable``.
        join: token of the federation to join; not needed again once it has joined.
        insecure: ``HOST:PORT`` of a server without TLS, instead of joining.
        server: host of a server that has moved since the device joined, or ``HOST:PORT``.
        name: proposed when it joins; empty for the token's name, or else the host's.
        tier: what kind of device it is, one of the job's ``[[tiers]]``; ``auto`` for the first of
            them that its memory holds; empty for none.
        engine: what runs the model: ``torch``, ``onnx`` (onnxruntime: finite differences and
            evaluation, in a third of the memory), or ``auto``: torch where it is installed.
        device: ``cpu``, ``cuda``, or ``auto``.
        threads: of training (0: one per core); with one, the bits are those of a simulation.
        memory: that this process may take in all, such as ``900MB``, ``1.5GB`` or bytes; empty for
            half of what is free.
        cache_gb: memory for frozen activations (0: none).
        disk_gb: disk for contents that are no longer needed, kept in case they are again.
        only_on_power: work only while plugged in.
        only_unmetered: work only on a network that does not charge by volume, as far as known.
        hours: work only then, local time, such as ``22-6``; empty for always.
        wait: seconds that a check-in waits for work, at most 60.
        allow: components outside fedloom that a job may name, such as ``my_module:MyLearner``;
            installed plug-ins need no mention.
    """

    directory: str = ""
    data: str = ""
    join: str = field(default="", repr=False)
    insecure: str = ""
    server: str = ""
    name: str = ""
    tier: str = ""
    engine: str = "auto"
    device: str = "auto"
    threads: int = 0
    memory: str = ""
    cache_gb: float = 1.0
    disk_gb: float = 0.25
    only_on_power: bool = False
    only_unmetered: bool = False
    hours: str = ""
    wait: float = 60.0
    allow: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(self.device in ("auto", "cpu", "cuda"), "device", self.device, "auto, cpu or cuda")
        engines = ("auto", "torch", "onnx")
        require(self.engine in engines, "engine", self.engine, "auto, torch or onnx")
        require(len(self.tier) <= 100, "tier", self.tier, "at most 100 characters")
        for name in ("threads", "cache_gb", "disk_gb"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        bytes_of("memory", self.memory)
        require(0 < self.wait <= 60, "wait", self.wait, "above 0, at most 60 seconds")
        text = "two hours of the day, such as 22-6, or empty for always"
        require(not self.hours or bool(_HOURS.fullmatch(self.hours)), "hours", self.hours, text)

    @property
    def span(self) -> tuple[int, int] | None:
        """First hour of work and first hour of rest; None for always."""
        found = _HOURS.fullmatch(self.hours)
        if not found:
            return None
        first, last = int(found[1]) % 24, int(found[2]) % 24
        return None if first == last else (first, last)


def settings_from(
    path: Path | None, environment: Mapping[str, str], flags: Mapping[str, Any]
) -> ClientSettings:
    """The settings of a device.

    Args:
        path: a TOML file, or None. A relative `data` or `directory` in it is relative to it.
        environment: such as ``os.environ``; only names of settings are read.
        flags: values by name; None for a flag that was not given.

    Raises:
        ConfigError: a key is unknown or a value is not allowed; the message says where it stands.
    """
    table = read_toml(path) if path else {}
    if type(table.get("memory")) is int:  # bytes
        table["memory"] = str(table["memory"])
    try:
        settings = build(ClientSettings, table)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    if path:
        settings = _anchored(settings, path.parent)
    told = {name: value for name, value in flags.items() if value is not None}
    return build(ClientSettings, {**_table(settings), **_told_by(environment), **told})


def _table(settings: ClientSettings) -> dict[str, Any]:
    return {f.name: getattr(settings, f.name) for f in fields(settings)}


def _anchored(settings: ClientSettings, folder: Path) -> ClientSettings:
    data, directory = settings.data, settings.directory
    if data and not is_callable(data):
        data = str(folder / Path(data).expanduser())
    if directory:
        directory = str(folder / Path(directory).expanduser())
    return replace(settings, data=data, directory=directory)


def is_callable(data: str) -> bool:
    """Whether `data` reads as ``module:callable``."""
    return bool(re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", data))


def _told_by(environment: Mapping[str, str]) -> dict[str, Any]:
    """The settings that the environment gives, as the types that they have."""
    found: dict[str, Any] = {}
    for name, default in _table(ClientSettings()).items():
        text = environment.get(PREFIX + name.upper())
        if text is not None:
            found[name] = _typed(PREFIX + name.upper(), text, default)
    return found


def _typed(variable: str, text: str, default: object) -> object:
    words = {
        "1": True,
        "true": True,
        "yes": True,
        "0": False,
        "false": False,
        "no": False,
        "": False,
    }
    try:
        if isinstance(default, bool):
            return words[text.strip().lower()]
        if isinstance(default, tuple):
            return tuple(part.strip() for part in text.split(",") if part.strip())
        return type(default)(text) if isinstance(default, int | float) else text
    except (KeyError, ValueError):
        kind = {bool: "1 or 0", int: "a whole number", float: "a number"}[type(default)]
        raise ConfigError(f"{variable} = {text!r}: expected {kind}") from None
