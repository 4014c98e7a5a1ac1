"""Gaussian noise for what leaves a device: from the seed in a simulation, else from a secret."""

import hashlib
from collections.abc import Sequence
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedloom.core.errors import require
from fedloom.core.seeds import stream

__all__ = ["Noise", "SecretNoise", "SeededNoise", "normals"]

Doubles: TypeAlias = NDArray[np.float64]
Words: TypeAlias = NDArray[np.uint64]

SECRET = 32
"""Bytes of a secret, at least."""


class Noise(Protocol):
    """Where noise comes from.

    Whoever knows it can take it off again. What is sent twice must get the same noise twice, else
    it averages out; two contents must never get the same, else their difference is bare.
    """

    def __call__(self, leg: str, step: int, row: int, values: Doubles) -> Doubles:
        """Standard normal numbers for one client's share of a leg.

        Args:
            leg: ``forward`` or ``backward``.
            step: number of the step.
            row: the client's place in the batch.
            values: ``[n, d]``, what the noise is for.

        Returns:
            As many, in the same shape.
        """
        ...


class SeededNoise:
    """Noise of a simulation, from the job's seed: it repeats, and so protects nothing.

    Args:
        seed: of the job.
        round: number of the round.
        names: of the clients, in the order of the rows; rows beyond them (copies of a client) have
            noise of their own.
    """

    def __init__(self, seed: int, round: int, names: Sequence[str]) -> None:
        self._seed, self._round, self._names = seed, round, tuple(names)

    def __call__(self, leg: str, step: int, row: int, values: Doubles) -> Doubles:
        """See `Noise`."""
        known = row < len(self._names)
        purpose = f"split.noise.{leg}.{step}" + ("" if known else f".{row}")
        name = self._names[row] if known else "+".join(self._names)
        draw = stream(self._seed, purpose, round=self._round, client=name)
        return normals(draw.words(_words(values)))[: values.size].reshape(values.shape)


class SecretNoise:
    """Noise of a device, from a secret that never leaves it.

    The stream is SHAKE-256, keyed by BLAKE2b of the leg, the step, the row and the content: as
    signatures are made without a random number (RFC 6979). The same leg sent again gets the same
    noise, with nothing kept; another content gets another.

    Args:
        secret: 32 bytes or more of the operating system's entropy, as of `secrets.token_bytes`.

    Raises:
        ConfigError: the secret is too short.
    """

    def __init__(self, secret: bytes) -> None:
        require(len(secret) >= SECRET, "secret", f"{len(secret)} bytes", f"{SECRET} or more")
        self._key = hashlib.blake2b(secret, digest_size=64, person=b"fedloom/noise/1").digest()

    def __call__(self, leg: str, step: int, row: int, values: Doubles) -> Doubles:
        """See `Noise`."""
        digest = hashlib.blake2b(f"{leg}\0{step}\0{row}\0{values.shape}\0".encode(), key=self._key)
        digest.update(values.astype("<f8").tobytes())
        body = hashlib.shake_256(digest.digest()).digest(8 * _words(values))
        words = np.frombuffer(body, "<u8").astype(np.uint64)
        return normals(words)[: values.size].reshape(values.shape)


def normals(words: Words) -> Doubles:
    """Standard normal numbers, one a word, of an even number of random 64-bit words.

    Box and Muller (Annals of Mathematical Statistics 29(2), 1958) on uniforms of 53 bits.
    """
    uniform = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    half = len(words) // 2
    radius = np.sqrt(-2 * np.log1p(-uniform[:half]))
    angle = 2 * np.pi * uniform[half:]
    return np.concatenate((radius * np.cos(angle), radius * np.sin(angle)))


def _words(values: Doubles) -> int:
    return values.size + values.size % 2
