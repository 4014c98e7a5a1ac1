"""Addresses of random directions: what a client and the server must agree on, as 128-bit keys.

FLZ-1. A key names a **group** of eight directions (`fedloom.core.perturbations` makes them):

    key = BLAKE2b-128(b"fedloom-zo/1" | run id, 16 bytes | round, 64 bits | client, 64 bits
                      | group, 32 bits), all little-endian, the digest as well

Directions are sent as nothing but these numbers: seeds in place of vectors, as in FedKSeed (Qin et
al., ICML 2024, section 3), and from a hash of the address, so that no generator's state is shared.
"""

import hashlib
import struct

from fedloom.core.errors import require

__all__ = ["DIRECTIONS", "client_number", "key", "keys", "pool_keys", "run_id"]

DIRECTIONS = 8  # of a group
_DOMAIN = b"fedloom-zo/1"


def key(run: bytes, *, round: int, client: int, group: int) -> int:
    """The 128-bit key of a group of directions.

    Args:
        run: 16 bytes that name the run, as `run_id` makes them.
        round: from 0, below 2^64.
        client: its number below 2^64, as `client_number` makes it.
        group: from 0, below 2^32.

    Raises:
        ConfigError: a number has another length or range.

    >>> f"{key(b'run0' + bytes(12), round=3, client=7, group=0):032x}"
    '58b9eca1118cb4f77fd330ed16cebda8'
    """
    require(len(run) == 16, "run", run, "16 bytes")
    require(0 <= round < 2**64, "round", round, "0 to 2^64 - 1")
    require(0 <= client < 2**64, "client", client, "0 to 2^64 - 1")
    require(0 <= group < 2**32, "group", group, "0 to 2^32 - 1")
    text = _DOMAIN + run + struct.pack("<QQI", round, client, group)
    return int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")


def keys(run: bytes, directions: int, *, round: int, client: int) -> list[int]:
    """Keys of the groups that hold `directions`: direction k is number ``k % 8`` of ``k // 8``.

    Raises:
        ConfigError: as `key` does, or there is no direction.
    """
    require(directions > 0, "directions", directions, "1 or more")
    groups = -(-directions // DIRECTIONS)
    return [key(run, round=round, client=client, group=group) for group in range(groups)]


def pool_keys(run: bytes, size: int, *, epoch: int = 0) -> list[int]:
    """Keys of FedKSeed's fixed pool of `size` directions, which all clients share.

    A pool stands at client 0, a number that `client_number` gives no name in practice, and at the
    round 0; a later `epoch`, which starts from new directions, stands at the round of its number.

    Raises:
        ConfigError: the pool is empty, or the epoch out of range.
    """
    return keys(run, size, round=epoch, client=0)


def run_id(seed: int) -> bytes:
    """The 16 bytes that name the run with `seed`: BLAKE2b of its decimal digits."""
    text = str(seed).encode()
    return hashlib.blake2b(text, digest_size=16, person=b"fedloom/run/1").digest()


def client_number(name: str) -> int:
    """The 64-bit number of a client: BLAKE2b of its name, little-endian."""
    digest = hashlib.blake2b(name.encode(), digest_size=8, person=b"fedloom/client/1").digest()
    return int.from_bytes(digest, "little")
