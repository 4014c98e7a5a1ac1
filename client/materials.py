"""What a job is made of on this device: its manifest and backbone, fetched, and the data, read."""

import hashlib
import json
from pathlib import Path

from fedloom.client.contents import Contents, Source
from fedloom.client.holdings import read_holdings, stamp
from fedloom.client.logs import log
from fedloom.client.manifest import Manifest, read_manifest
from fedloom.client.settings import ClientSettings
from fedloom.core.errors import DataError, TransferError
from fedloom.protos.federation_pb2 import Blob
from fedloom.tuning.data import Corpus

__all__ = ["Materials"]


class Materials:
    """A job's, on this device.

    Args:
        folder: for contents.
        settings: the owner's.
        federation: that the device has joined; empty for whatever the server says.

    Attributes:
        contents: what was fetched.
        job: SHA-256 of the manifest that was last made ready, or could not be; empty where
            it is to be tried again.
        manifest: None before there is one.
        backbone: the folder of its files.
        corpus: None while the data do not fit the job.
    """

    def __init__(self, folder: Path, settings: ClientSettings, federation: str) -> None:
        self.contents = Contents(folder)
        self.job = ""
        self.manifest: Manifest | None = None
        self.backbone = Path()
        self.corpus: Corpus | None = None
        self._settings, self._federation = settings, federation
        self._stamp = stamp(settings.data)

    @property
    def num_examples(self) -> int:
        """Training examples; 0 while the job is not known or the data do not fit it."""
        return len(self.corpus.train) if self.corpus is not None else 0

    def refresh(self) -> bool:
        """Forget what was read of a file that has changed since; whether it has."""
        found = stamp(self._settings.data)
        if found == self._stamp:
            return False
        log.info("%s has changed: it is read again", self._settings.data)
        self._stamp, self.job, self.corpus = found, "", None
        return True

    def fetch(self, job: Blob, source: Source) -> Manifest:
        """Fetch the manifest and the backbone that it names; what was read for another job goes.

        Raises:
            FedloomError: the owner's settings do not allow the job.
            TransferError: it is of another federation (code ``wrong-federation``), or something
                did not come; trying again goes on.
        """
        self.corpus = None
        data = self.contents.fetch(job.sha256, job.size, source).read_bytes()
        manifest = read_manifest(data, allow=self._settings.allow)
        if self._federation and manifest.federation != self._federation:
            text = f"the job is of federation {manifest.federation}, this device of another"
            raise TransferError(text, code="wrong-federation")
        self.manifest = manifest
        self.backbone = self._arranged(manifest, source)
        return manifest

    def read(self, manifest: Manifest) -> Corpus:
        """Read the device's data as the job that was fetched has it.

        Raises:
            DataError: they do not fit the job.
        """
        self.corpus = read_holdings(self._settings.data, manifest, self.backbone)
        return self.corpus

    def ready(self) -> tuple[Manifest, Corpus]:
        """The job and the data.

        Raises:
            DataError: there are none.
        """
        if self.manifest is None or self.corpus is None:
            raise DataError("this device is not ready for the job")
        return self.manifest, self.corpus

    def clean(self) -> None:
        """Remove what was fetched for other jobs, where all takes more of the disk than it may."""
        files = self.manifest.files if self.manifest else ()
        keep = {self.job, *(file.sha256 for file in files)}
        self.contents.clean(keep, limit=int(self._settings.disk_gb * 2**30))

    def _arranged(self, manifest: Manifest, source: Source) -> Path:
        for file in manifest.files:
            if not self.contents.has(file.sha256, file.size):
                log.info("fetching %s (%.1f MB), once", file.name, file.size / 1e6)
            self.contents.fetch(file.sha256, file.size, source)
        names = {file.name: file.sha256 for file in manifest.files}
        key = hashlib.sha256(json.dumps(names, sort_keys=True).encode()).hexdigest()
        return self.contents.arrange(key[:32], names)
