"""The channel to the server, and the certificate that it shows, renewed in the background."""

import threading
from collections.abc import Callable, Generator, Iterator
from datetime import UTC, datetime
from weakref import WeakSet

from fedloom.client.channel import Channel, Credentials
from fedloom.client.enrol import readmitted
from fedloom.client.logs import Rarely, log
from fedloom.client.stopping import Stop
from fedloom.core.errors import FedloomError
from fedloom.security.identity import Identity

__all__ = ["Connection"]

_LOOK = 30.0
"""Seconds between two looks at the certificate."""


class Connection:
    """A device's way to its server.

    Args:
        host: of the server.
        port: of the Federation service.
        stop: ends what is going on.
        identity: of the device; None for a server without TLS.
        name: of the device, where it has no identity.
    """

    def __init__(
        self, host: str, port: int, *, stop: Stop, identity: Identity | None = None, name: str = ""
    ) -> None:
        self.host, self.port = host, port
        self.name = identity.client if identity else name
        self._identity, self._stop = identity, stop
        self._lock = threading.Lock()
        self._old: list[Channel] = []
        self._beside: WeakSet[Channel] = WeakSet()
        self._channel = self._open(self.host, self.port)
        self._thread: threading.Thread | None = None
        stop.tell(self.abandon)
        if identity is not None:
            self._thread = threading.Thread(target=self._keep, name="fedloom-renew", daemon=True)
            self._thread.start()

    def channel(self) -> Channel:
        """The channel to use for the next call; the caller has no other call going on.

        A certificate that ended, while the server could not be reached, is replaced first.

        Raises:
            IdentityError: the server does not know this device any more, or shuts it out.
            TransferError: the server cannot be reached.
        """
        with self._lock:
            old, self._old = self._old, []
        for each in old:
            each.close()
        identity = self._identity
        if identity is not None and identity.not_after <= datetime.now(UTC):
            self._replace(readmitted(identity))
        return self._channel

    def split(
        self, parts: Iterator[bytes], begun: Callable[[Callable[[], object]], object]
    ) -> Generator[bytes, None, None]:
        """As `Channel.split`, over the channel to use now.

        Raises:
            FedloomError: as `channel` and `Channel.split`.
        """
        yield from self.channel().split(parts, begun)

    def beside(self, host: str, port: int) -> Channel:
        """A channel to another machine of the federation, such as a stage of frozen blocks.

        It shows the certificate that the device has now. Whoever asked for it closes it.
        """
        with self._lock:
            channel = self._open(host, port)
            self._beside.add(channel)
        return channel

    def renew(self, now: datetime) -> bool:
        """Renew the certificate where it is due; whether it was.

        Raises:
            TransferError: the server cannot be reached.
            IdentityError: the server refuses, or gives what is not this device's.
        """
        identity = self._identity
        if identity is None or not identity.renew_due(now):
            return False
        if identity.not_after <= now:
            return False  # the next call asks for another
        self._replace(identity.renewed(self._channel.renew(identity.csr())))
        return True

    def _replace(self, identity: Identity) -> None:
        with self._lock:
            self._identity = identity
            self._old.append(self._channel)
            self._channel = self._open(self.host, self.port)
        log.info("the certificate is renewed until %s UTC", f"{identity.not_after:%Y-%m-%d %H:%M}")

    def abandon(self) -> None:
        """End what is going on."""
        for channel in self._all():
            channel.abandon()

    def close(self) -> None:
        """End everything. The stop is set before."""
        if self._thread is not None:
            self._thread.join(timeout=5)
        for channel in self._all():
            channel.close()

    def _all(self) -> list[Channel]:
        with self._lock:
            return [*self._old, self._channel, *self._beside]

    def _open(self, host: str, port: int) -> Channel:
        identity = self._identity
        if identity is None:
            return Channel(host, port, name=self.name)
        credentials = Credentials(identity.authority, identity.key, identity.certificate)
        return Channel(host, port, credentials=credentials)

    def _keep(self) -> None:
        rarely = Rarely(every=600.0)
        while not self._stop.wait(_LOOK):
            try:
                self.renew(datetime.now(UTC))
            except FedloomError as error:
                if rarely.is_due() and not self._stop.is_set():
                    log.warning("the certificate could not be renewed: %s", error)
