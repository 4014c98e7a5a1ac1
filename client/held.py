"""The model that a device keeps, to be sent what happened since instead of all of it."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fedloom.client.logs import log
from fedloom.core.checkpoint import load_state, save_state
from fedloom.core.errors import RunError
from fedloom.core.layout import Layout
from fedloom.core.step_ledger import digest_of
from fedloom.core.types import Params, State

__all__ = ["Coming", "HeldModel"]

_END = ".safetensors"


@dataclass(frozen=True)
class Coming:
    """What the server says of a model that comes down.

    Attributes:
        base: number of the version that it starts from; None where it starts from nothing.
        keeps: number of the version that this device is to keep; 0 for none: it can make that.
        digest: of the model; empty where devices keep none.
    """

    base: int | None = None
    keeps: int = 0
    digest: bytes = b""


class HeldModel:
    """One version of a job's model, in memory and in a folder.

    Args:
        folder: where; made when missing. Models of other jobs in it are deleted.
        job: address of the job's manifest.

    Attributes:
        version: number of the version; 0 for none.
        digest: of its numbers.
        resync: whether the server is to be asked for all of the model: what this device made of it
            last was not the server's.
    """

    def __init__(self, folder: Path, job: str) -> None:
        self._folder, self._job = folder, job[:16]
        self._params: Params | None = None
        self.version, self.digest, self.resync = 0, b"", False
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            self._find(path)

    def params(self, layout: Layout) -> Params | None:
        """The model; None where there is none, or it cannot be read."""
        if self._params is None and self.version:
            try:
                self._params = load_state(self._path, layout)[0].params
            except RunError as error:
                log.warning("the model that was kept cannot be read: %s", error)
                self.drop()
        return self._params

    def keep(self, version: int, params: Params) -> None:
        """Keep a model instead of the one before; version 0 is kept by making it.

        Where the disk does not take it, it is kept as long as this process works.
        """
        self.resync = False
        digest = digest_of(params.vector) if version else b""
        if (version, digest) == (self.version, self.digest):
            return
        self._delete(self._path)
        self.version, self.digest, self._params = version, digest, params if version else None
        if version:
            try:
                save_state(self._path, State(params, version), {})
            except RunError as error:
                log.warning("the model is kept in memory only: %s", error)

    def drop(self) -> None:
        """Keep nothing, and ask for all of the model."""
        self._delete(self._path)
        self.version, self.digest, self._params, self.resync = 0, b"", None, True

    @property
    def _path(self) -> Path:
        return self._folder / f"{self._job}.{self.version}.{self.digest.hex()}{_END}"

    def _find(self, path: Path) -> None:
        """Take the newest model of this job; everything else is deleted."""
        with suppress(ValueError):
            job, version, digest = path.name.removesuffix(_END).split(".")
            if job == self._job and int(version) > self.version:
                self._delete(self._path)
                self.version, self.digest = int(version), bytes.fromhex(digest)
        if path != self._path:
            self._delete(path)

    def _delete(self, path: Path) -> None:
        with suppress(OSError):
            path.unlink()
