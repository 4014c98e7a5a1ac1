"""One version of the model for download: for each client the smallest form of what it lacks."""

import threading
from collections.abc import Collection
from dataclasses import dataclass

from fedloom.codecs.downlink import Downlink, Form
from fedloom.core.types import ClientId, Payload
from fedloom.server.contents import Content, Contents

__all__ = ["Given", "Holding", "Models"]


@dataclass(frozen=True)
class Holding:
    """The version of the model that a client says it holds, and the digest of its numbers."""

    version: int
    digest: bytes


@dataclass(frozen=True)
class Given:
    """What a client is to download.

    Attributes:
        content: its address.
        base: the version that it starts from; None where it starts from nothing.
        keeps: the version that the client is to keep.
        digest: of the model that comes of it; empty where clients keep none.
        resync: whether the client has a model that is not the server's, and says so first now.
    """

    content: Content
    base: int | None
    keeps: int
    digest: bytes
    resync: bool = False


class Models:
    """A version of the model, on offer until it is forgotten. Any thread may use it.

    Args:
        downlink: makes the forms.
        contents: where they are offered.

    Attributes:
        content: the form for those who hold nothing.
    """

    def __init__(self, downlink: Downlink, contents: Contents) -> None:
        self._downlink, self._contents = downlink, contents
        self._lock = threading.Lock()
        self._sizes: dict[ClientId, int] = {}
        self._resynced: set[ClientId] = set()
        self._whole = downlink.form(None)
        self.content = contents.put_bytes(bytes(self._whole.payload.frame))
        self._addresses: set[str] | None = {self.content.sha256}

    def given(self, client: ClientId, holding: Holding | None, *, resync: bool = False) -> Given:
        """What a client is to download.

        Args:
            client: who.
            holding: what it says it holds; None for the model before the first round, which it can
                make.
            resync: whether what it made of an earlier form is not the server's model.
        """
        with self._lock:
            known = b"" if holding is None else self._downlink.digest_of(holding.version)
            other = holding is not None and bool(known) and known != holding.digest
            held = 0 if holding is None else holding.version
            form = self._whole if resync or other else self._downlink.form(held)
            content = self._offered(form)
            if content is None:
                form, content = self._whole, self.content
            first = (resync or other) and client not in self._resynced
            if first:
                self._resynced.add(client)
            self._sizes[client] = content.size
        return Given(content, form.base, form.keeps, self._downlink.digest, first)

    def cut(self, rank: int | None) -> Content | None:
        """What clients of a rank download; None for those who are given the whole adapter.

        Args:
            rank: of the adapter, what the clients have; None for all of it.
        """
        payload = None if rank is None else self._downlink.cut(rank)
        if payload is None:
            return None
        with self._lock:
            return self._put(payload)

    def size(self, client: ClientId) -> int:
        """Bytes that a client was given; of the whole model where that is not known any more."""
        return self._sizes.get(client, self.content.size)

    def forget(self, but: Collection[str] = ()) -> None:
        """Offer it no longer, but what is also at one of these addresses."""
        with self._lock:
            addresses, self._addresses = self._addresses or set(), None
        for sha256 in addresses.difference(but):
            self._contents.forget(sha256)

    def _offered(self, form: Form) -> Content | None:
        """The address of a form; None where it is too late to offer it."""
        return None if form is self._whole else self._put(form.payload)

    def _put(self, payload: Payload) -> Content | None:
        if self._addresses is None:
            return None
        content = self._contents.put_bytes(bytes(payload.frame))
        self._addresses.add(content.sha256)
        return content
