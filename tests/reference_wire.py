"""A second reading of docs/protocol.md: frames, codecs and messages.

Nothing of fedloom is imported: what stands here is what a client in another language has to do.
"""

import hashlib
import json
import struct
import zlib
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Specs: TypeAlias = list[list[Any]]
"""Name, shape and block of each tensor."""
Floats: TypeAlias = NDArray[np.float32]


class Reader:
    """Bytes from front to back."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        assert 0 <= count <= self.left
        self.at += count
        return self.data[self.at - count : self.at]

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def unpack(self, kind: str) -> Any:
        (value,) = struct.unpack(f"<{kind}", self.take(struct.calcsize(f"<{kind}")))
        return value

    def varint(self) -> int:
        number = shift = 0
        while True:
            (byte,) = self.take(1)
            number |= (byte & 127) << shift
            if byte < 128:
                return number
            shift += 7

    def array(self, kind: str, count: int) -> NDArray[Any]:
        dtype = np.dtype(kind)
        return np.frombuffer(self.take(count * dtype.itemsize), dtype)

    def signs(self, count: int) -> NDArray[np.int64]:
        packed = np.frombuffer(self.take(-(-count // 8)), np.uint8)
        return np.unpackbits(packed, count=count, bitorder="little").astype(np.int64) * 2 - 1

    def integers(self, count: int) -> NDArray[np.int64]:
        bits = self.unpack("B")
        return self.signs(count) if bits == 1 else self.array(f"<i{bits // 8}", count).astype("i8")

    def tensors(self, specs: Specs) -> Specs:
        if self.unpack("B"):
            return [specs[self.varint()] for _ in range(self.varint())]
        mask = np.frombuffer(self.take(-(-len(specs) // 8)), np.uint8)
        return [specs[i] for i in np.flatnonzero(np.unpackbits(mask, bitorder="little"))]

    def end(self) -> None:
        assert not self.left


def size_of(specs: Specs) -> int:
    return sum(int(np.prod(shape, dtype=int)) for _, shape, _ in specs)


def layout_digest(specs: Specs) -> bytes:
    text = json.dumps([[name, shape] for name, shape, _ in specs])  # ", " between, ASCII
    return hashlib.sha256(text.encode()).digest()


def body_of(codec: str, frame: bytes, specs: Specs) -> bytes:
    magic, version, writer, layout, count = struct.unpack_from("<3sB4s8sQ", frame)
    assert (magic, version) == (b"FLD", 1)
    person = b"fedloom/codec"
    assert writer == hashlib.blake2b(codec.encode(), digest_size=4, person=person).digest()
    assert layout == layout_digest(specs)[:8]
    assert count == size_of(specs)
    assert struct.unpack("<I", frame[-4:])[0] == zlib.crc32(frame[:-4])
    return frame[24:-4]


def decode(codec: str, frame: bytes, specs: Specs) -> tuple[list[str], Floats]:
    """Names of the tensors that came, and their numbers."""
    body, names = body_of(codec, frame, specs), [name for name, *_ in specs]
    if codec == "block-drop":
        return dropped(body, specs)
    found = _DECODERS[codec](body, specs)
    assert found.dtype == np.float32
    return names, found


def float32(body: bytes, specs: Specs) -> Floats:
    return np.frombuffer(body, "<f4").astype(np.float32)


def bf16(body: bytes, specs: Specs) -> Floats:
    return (np.frombuffer(body, "<u2").astype(np.uint32) << 16).view(np.float32)


def fp16(body: bytes, specs: Specs) -> Floats:
    return np.frombuffer(body, "<f2").astype(np.float32)


def int8(body: bytes, specs: Specs) -> Floats:
    reader, total = Reader(body), size_of(specs)
    block = reader.unpack("I")
    scales, steps = reader.array("<f4", -(-total // block)), reader.array("i1", total)
    reader.end()
    return np.array([scales[i // block] * np.float32(s) for i, s in enumerate(steps)], "f4")


def blockwise(body: bytes, specs: Specs) -> Floats:
    block, most = struct.unpack_from("<IB", body)
    base, total, share = 2 * most + 1, size_of(specs), 1
    while base ** (share + 1) <= 256:
        share += 1
    block = min(block, total)
    count, data = -(-total // block), zlib.decompress(body[5:], -15)
    assert len(data) == 2 * count + -(-total // share)
    codes = [data[i] << 3 | data[count + i] for i in range(count)]
    scales = (np.array(codes, dtype=np.uint32) << 20).view(np.float32)
    found = np.empty(total, dtype=np.float32)
    for i in range(total):
        digit = data[2 * count + i // share] // base ** (share - 1 - i % share) % base
        found[i] = scales[i // block] * np.float32(digit - most)
    return found


def nnadq(body: bytes, specs: Specs) -> Floats:
    reader, parts = Reader(body), []
    heads = [struct.unpack("<ffI", reader.take(12)) for _ in specs]
    for (_, shape, _), (largest, moved, levels) in zip(specs, heads, strict=True):
        total = int(np.prod(shape, dtype=int))
        values = np.zeros(total)
        if levels:
            negative = reader.signs(total) > 0
            for bit in range(levels.bit_length()):
                values += (reader.signs(total) > 0) * 2.0**bit
            values *= largest / levels
            values[negative] *= -1
        parts.append((values - moved).astype(np.float32))
    reader.end()
    return np.concatenate(parts)


def dropped(body: bytes, specs: Specs) -> tuple[list[str], Floats]:
    reader, blocks = Reader(body), dict[str, Specs]()
    for spec in reader.tensors(specs):
        blocks.setdefault(spec[2] or spec[0], []).append(spec)
    names, parts = list[str](), list[Floats]()
    for block in blocks.values():
        own, vector = decode("nnadq", reader.take(reader.varint()), block)
        names, parts = names + own, [*parts, vector]
    reader.end()
    return names, np.concatenate(parts)


_DECODERS = {
    "float32": float32,
    "bf16": bf16,
    "fp16": fp16,
    "int8": int8,
    "blockwise": blockwise,
    "nnadq": nnadq,
}


def message(data: bytes, fields: list[list[Any]]) -> list[list[Any]]:
    """A message's fields, read by protobuf's rules and the types of the fields that are expected.

    Only fields that are set travel, in the order of their numbers.
    """
    reader, found = Reader(data), list[list[Any]]()
    known = {field[0]: field for field in fields}
    while reader.left:
        tag = reader.varint()
        number, name, kind, value = known[tag >> 3]
        raw = _plain(reader, tag & 7)
        if kind.startswith("map"):
            entry = dict(_entry(raw))
            if found and found[-1][0] == number:
                found[-1][3] |= entry
                continue
            found.append([number, name, kind, entry])
        else:
            found.append([number, name, kind, _value(kind, raw, value)])
    return found


def _plain(reader: Reader, wire: int) -> Any:
    """What stands behind a tag: a number, or bytes."""
    if wire == 0:
        return reader.varint()
    return reader.take({1: 8, 5: 4}[wire] if wire != 2 else reader.varint())


def _value(kind: str, raw: Any, value: Any) -> Any:
    if kind == "message":
        return message(raw, value)
    if kind == "string":
        return raw.decode()
    if kind == "bytes":
        return raw.hex()
    if kind == "bool":
        return bool(raw)
    return struct.unpack(_NUMBERS[kind], raw)[0] if kind in _NUMBERS else raw


_NUMBERS = {"double": "<d", "fixed32": "<I"}


def _entry(raw: bytes) -> list[tuple[str, float]]:
    (_, _, _, name), (_, _, _, value) = message(raw, [[1, "", "string", 0], [2, "", "double", 0]])
    return [(name, value)]
