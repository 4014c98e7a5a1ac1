"""A second reading of docs/protocol.md: directions, scalars and what advances do to a model.

Nothing of fedloom is imported; numpy's generator is not used either.
"""

import hashlib
import struct
import zlib
from statistics import NormalDist
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from reference_wire import Floats, Reader, Specs, body_of, decode, layout_digest, size_of

_M0, _M1 = 0xD2E7470EE14C6C93, 0xCA5A826395121157
_W0, _W1 = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B
_WORD = 2**64 - 1
SHARED = 2**64 - 1
SCHEMES = ("distinct", "shared", "pool", "candidates")
Sums: TypeAlias = NDArray[np.int64]


def philox(key: int, counter: int) -> bytes:
    """Philox4x64-10: 32 bytes."""
    c = [counter >> 64 * i & _WORD for i in range(4)]
    k0, k1 = key & _WORD, key >> 64
    for _ in range(10):
        first, second = _M0 * c[0], _M1 * c[2]
        c = [second >> 64 ^ c[1] ^ k0, second & _WORD, first >> 64 ^ c[3] ^ k1, first & _WORD]
        k0, k1 = k0 + _W0 & _WORD, k1 + _W1 & _WORD
    return struct.pack("<4Q", *c)


def stream(key: int, count: int, channel: int = 0) -> bytes:
    """The first bytes of a key's stream."""
    blocks = range(-(-count // 32))
    return b"".join(philox(key, (channel << 192) + block + 1) for block in blocks)[:count]


def run_id(seed: int) -> bytes:
    text = str(seed).encode()
    return hashlib.blake2b(text, digest_size=16, person=b"fedloom/run/1").digest()


def client_number(name: str) -> int:
    raw = hashlib.blake2b(name.encode(), digest_size=8, person=b"fedloom/client/1").digest()
    return int.from_bytes(raw, "little")


def group_key(seed: int, round: int, owner: int, group: int) -> int:
    text = b"fedloom-zo/1" + run_id(seed) + struct.pack("<QQI", round, owner, group)
    return int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")


def normal_table() -> list[int]:
    normal = NormalDist()
    upper = [round(4096.0448 * normal.inv_cdf((w + 0.5) / 65536)) for w in range(32768, 65536)]
    return [-value for value in reversed(upper)] + upper


def direction(family: str, key: int, number: int, size: int) -> Sums:
    """Direction `number` of a group, in units: of 1, or of 2^-12 for gaussian ones."""
    if family == "rademacher":
        packed = np.frombuffer(stream(key, size), np.uint8).astype(np.int64)
        return (packed >> number & 1) * 2 - 1
    table: Sums = np.array(normal_table())
    values: Sums = table[np.frombuffer(stream(key, 2 * size, number + 1), "<u2")]
    return values


def change(scalars: Sums, *, family: str, seed: int, round: int, owner: int, size: int) -> Sums:
    """The sum of scalar times direction, in units."""
    total = np.zeros(size, dtype=np.int64)
    for i in np.flatnonzero(scalars):
        key = group_key(seed, round, owner, int(i) // 8)
        total += int(scalars[i]) * direction(family, key, int(i) % 8, size)
    return total


def scaled(total: Sums, coefficient: float, family: str) -> Floats:
    unit = 1.0 if family == "rademacher" else 2.0**-12
    return total.astype(np.float32) * np.float32(coefficient * unit)


def owner_of(scheme: str, client: str) -> int:
    return {"pool": 0, "shared": SHARED}.get(scheme, client_number(client))


def scalars_frame(
    frame: bytes, exact: Specs, moved: Specs, options: dict[str, Any]
) -> tuple[Sums, float, Floats]:
    """Scalars, what one step is worth, and the rest."""
    reader = Reader(body_of("scalars", frame, exact + moved))
    worth, count = reader.unpack("d"), reader.unpack("I")
    pooled = options.get("scheme") in ("pool", "candidates")
    numbers = reader.array("<u2", count) if pooled else np.arange(count)
    bits = options["bits"]
    read = reader.signs(count) if bits == 1 else reader.array(f"<i{bits // 8}", count)
    scalars = np.zeros(options["pool"] if pooled else count, dtype=np.int64)
    scalars[numbers] = read
    _, rest = decode(options.get("rest", "float32"), reader.take(reader.left), exact)
    return scalars, worth, rest


def where(specs: Specs, part: Specs) -> list[slice]:
    """Where each tensor of `part` lies in the vector of `specs`."""
    starts = {spec[0]: size_of(specs[:i]) for i, spec in enumerate(specs)}
    return [slice(starts[spec[0]], starts[spec[0]] + size_of([spec])) for spec in part]


def advanced(data: bytes, specs: Specs, model: Floats, seed: int) -> Floats:
    """The model after an advance: what is added number by number, then each move."""
    reader, model = Reader(data), model.copy()
    assert reader.take(4) == layout_digest(specs)[:4]
    rest = reader.tensors(specs)
    for span in where(specs, rest):
        model[span] += reader.array("<f4", span.stop - span.start)
    for _ in range(reader.unpack("B")):
        _move(reader, specs, model, seed)
    for _ in range(reader.unpack("B")):
        reader.take(reader.unpack("B"))
        reader.unpack("d")
    reader.end()
    return model


def _move(reader: Reader, specs: Specs, model: Floats, seed: int) -> None:
    moved = reader.tensors(specs)
    scheme = SCHEMES[reader.unpack("B")]
    family = ("rademacher", "gaussian")[reader.unpack("B")]
    _, round = reader.varint(), reader.varint()
    alike = reader.unpack("B")
    worth = [reader.unpack("d") for _ in range(1 if alike else len(moved))]
    form, count = reader.unpack("B"), reader.varint()
    fixed = {"shared": SHARED, "pool": 0}.get(scheme)
    owners = [reader.unpack("Q") if fixed is None else fixed for _ in range(count)]
    weights = [reader.varint() for _ in range(count)]
    lengths = [reader.varint() for _ in range(1 if form & 2 else count)]
    lengths = lengths * count if form & 2 else lengths
    size, total = size_of(moved), np.zeros(size_of(moved), dtype=np.int64)
    read = _numbered(reader, lengths) if form & 1 else _all(reader, lengths)
    for owner, weight, own in zip(owners, weights, read, strict=True):
        at = 0 if scheme == "pool" else round
        total += weight * change(own, family=family, seed=seed, round=at, owner=owner, size=size)
    start = 0
    for i, span in enumerate(where(specs, moved)):
        stop = start + span.stop - span.start
        model[span] += scaled(total[start:stop], worth[0 if alike else i], family)
        start = stop


def _all(reader: Reader, lengths: list[int]) -> list[Sums]:
    flat = reader.integers(sum(lengths))
    return np.split(flat, np.cumsum(lengths)[:-1])


def _numbered(reader: Reader, lengths: list[int]) -> list[Sums]:
    counts = [reader.varint() for _ in lengths]
    numbers = reader.array("<u2", sum(counts))
    flat, found, start = reader.integers(sum(counts)), list[Sums](), 0
    for length, used in zip(lengths, counts, strict=True):
        own = np.zeros(length, dtype=np.int64)
        own[numbers[start : start + used]] = flat[start : start + used]
        found, start = [*found, own], start + used
    return found


def followed(frame: bytes, specs: Specs, model: Floats, seed: int) -> Floats:
    """The model after a downlink of advances alone."""
    assert struct.unpack("<I", frame[-4:])[0] == zlib.crc32(frame[:-4])
    reader = Reader(frame[:-4])
    assert reader.take(4) == b"FLA1"
    assert reader.unpack("B") == 0  # neither a model first, nor one to keep
    given = [
        (s, reader.array("<f4", s.stop - s.start)) for s in where(specs, reader.tensors(specs))
    ]
    lengths = [reader.varint() for _ in range(reader.varint())]
    for length in lengths:
        model = advanced(reader.take(length), specs, model, seed)
    reader.end()
    for span, numbers in given:
        model[span] = numbers
    return model


def model_digest(model: Floats) -> str:
    raw = model.astype("<f4").tobytes()
    return hashlib.blake2b(raw, digest_size=16, person=b"fedloom/model/1").hexdigest()
