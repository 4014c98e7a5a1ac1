"""From a join token to an identity, and where identities are kept."""

import platform
from pathlib import Path

from cryptography import x509

from fedloom.client.channel import enrol as call_enrol
from fedloom.client.logs import log
from fedloom.core.contract import PROTOCOL
from fedloom.core.errors import IdentityError
from fedloom.protos.federation_pb2 import EnrolRequest
from fedloom.security.certificates import pin_of
from fedloom.security.identity import Identity
from fedloom.security.pinning import fetch_authority
from fedloom.security.tokens import JoinToken

__all__ = ["default_root", "enrol", "find_folder", "identity_for", "readmitted"]

_USED = "token"
"""File with the id of the token by which the device joined."""


def default_root() -> Path:
    """Where a device keeps its federations."""
    return Path.home() / ".fedloom"


def find_folder(directory: str, token: JoinToken | None, *, root: Path) -> Path:
    """The folder of the federation that is meant.

    Args:
        directory: what the owner says; empty for a folder of `root`.
        token: given to join, or None.
        root: as `default_root`.

    Raises:
        IdentityError: without token or directory, there is not exactly one federation in `root`.
    """
    if directory:
        return Path(directory).expanduser()
    folders = sorted(p.parent for p in root.glob("*/federation.json"))
    if token is not None:
        same = [folder for folder in folders if _pin(folder) == token.pin]
        return same[0] if same else root / f"joining-{token.id}"
    if len(folders) == 1:
        return folders[0]
    if not folders:
        text = f"{root}: this device has joined no federation; --join TOKEN joins one"
    else:
        text = f"{root}: federations {', '.join(f.name for f in folders)}: which? say --directory"
    raise IdentityError(text, code="not-enrolled")


def identity_for(folder: Path, token: JoinToken | None, *, name: str, root: Path) -> Identity:
    """The identity in a folder; the device enrols first, where it has to.

    A token that has been used here before is not used again, so that the same command may be
    given at every start.

    Args:
        folder: as `find_folder` says.
        token: given to join, or None.
        name: proposed; empty for the host's.
        root: where a folder that was only for joining is renamed to its federation's.

    Raises:
        IdentityError: the device is not enrolled and has no token, or the server refuses it.
        TransferError: the server cannot be reached.
    """
    if token is None:
        return Identity.load(folder)
    found = _load(folder)
    if found is not None and _read(folder / _USED) == token.id:
        return found
    try:
        identity = enrol(token, folder, name=name)
    except IdentityError as error:
        if found is None or error.code != "token-used":
            raise
        identity = found  # it was stopped after it had joined, and before that was written down
    (folder / _USED).write_text(token.id, encoding="utf-8")
    target = root / identity.federation
    if folder.parent == root and folder.name.startswith("joining-") and not target.exists():
        folder.rename(target)
        identity = Identity.load(target)
    return identity


def enrol(token: JoinToken, folder: Path, *, name: str = "") -> Identity:
    """Exchange a join token for a certificate.

    The authority is checked by the token's pin before anything secret is said; the key is made on
    this device and stays here.

    Args:
        token: from the federation's operator.
        folder: for key and certificates.
        name: proposed, where the token names nobody; empty for the host's.

    Raises:
        IdentityError: the server is another, or refuses the token, the name or the key.
        TransferError: the server cannot be reached.
    """
    from fedloom import __version__

    authority = fetch_authority(token.host, token.port, token.pin)
    draft = Identity.create(folder)
    request = EnrolRequest(
        protocol=PROTOCOL,
        version=__version__,
        token_id=token.id,
        secret=token.secret,
        name=name or platform.node(),
        csr=draft.csr(),
    )
    reply = call_enrol(token.host, token.port, authority, request)
    identity = draft.save(
        reply.certificate,
        authority,
        client=reply.client,
        host=token.host,
        port=reply.port,
        enrol_port=token.port,
    )
    log.info("joined the federation %s as %s", identity.federation, identity.client)
    return identity


def readmitted(identity: Identity) -> Identity:
    """The identity with a new certificate for its key, after the one it has ended.

    The key is what the server knows the device by: no token is needed.

    Raises:
        IdentityError: the server knows the key no more, or has shut the device out.
        TransferError: the server cannot be reached.
    """
    from fedloom import __version__

    request = EnrolRequest(protocol=PROTOCOL, version=__version__, csr=identity.csr())
    reply = call_enrol(identity.host, identity.enrol_port, identity.authority, request)
    return identity.renewed(reply.certificate)


def _load(folder: Path) -> Identity | None:
    try:
        return Identity.load(folder)
    except IdentityError:
        return None


def _pin(folder: Path) -> str:
    try:
        return pin_of(x509.load_pem_x509_certificate((folder / "authority.pem").read_bytes()))
    except (OSError, ValueError):
        return ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
