"""Small arrays beside the model, in one frame with it.

| bytes | what                                                                                 |
|-------|--------------------------------------------------------------------------------------|
| 4     | ``FLB1``                                                                             |
| 2     | how many arrays                                                                      |
| ...   | each: length of its name (1), its name, its type (1), axes (1), their lengths (4 each), |
|       | its numbers, little-endian                                                           |
| ...   | the frame of the model                                                               |

A frame without such arrays is the model's alone.
"""

import struct
from math import prod

import numpy as np
from numpy.typing import NDArray

from fedloom.core.errors import CodecError
from fedloom.core.types import BRIEFING_TYPES, Briefing

__all__ = ["with_briefing", "without_briefing"]

_MAGIC = b"FLB1"
_AXES = 4


def with_briefing(frame: bytes, briefing: Briefing) -> bytes:
    """The model's frame with arrays before it; alone where there are none.

    Raises:
        CodecError: an array is of another type, or has more than 4 axes.
    """
    if not briefing:
        return frame
    parts = [_MAGIC, struct.pack("<H", len(briefing))]
    for name, array in sorted(briefing.items()):
        if array.dtype.name not in BRIEFING_TYPES or array.ndim > _AXES:
            text = f"{array.dtype.name} {list(array.shape)}"
            raise CodecError(
                f"briefing {name!r}: {text}; {', '.join(BRIEFING_TYPES)} of 0 to {_AXES} axes"
            )
        label, kind = name.encode(), BRIEFING_TYPES.index(array.dtype.name)
        head = struct.pack(f"<BB{array.ndim}I", kind, array.ndim, *array.shape)
        raw = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        parts += [bytes([len(label)]), label, head, raw.tobytes()]
    return b"".join((*parts, frame))


def without_briefing(frame: bytes) -> tuple[bytes, Briefing]:
    """The model's frame, and the arrays before it.

    Raises:
        CodecError: the arrays are cut.
    """
    if not frame.startswith(_MAGIC):
        return frame, {}
    found: dict[str, NDArray[np.generic]] = {}
    try:
        (count,) = struct.unpack_from("<H", frame, len(_MAGIC))
        place = len(_MAGIC) + 2
        for _ in range(count):
            name, array, place = _array(frame, place)
            found[name] = array
    except (struct.error, IndexError, ValueError) as error:
        raise CodecError(f"briefing: {len(frame)} bytes: cut or damaged") from error
    return frame[place:], found


def _array(frame: bytes, place: int) -> tuple[str, NDArray[np.generic], int]:
    """The array that begins at `place`, its name, and where it ends."""
    start = place + 1 + frame[place]
    name = frame[place + 1 : start].decode()
    kind, axes = struct.unpack_from("<BB", frame, start)
    shape = struct.unpack_from(f"<{min(axes, _AXES)}I", frame, start + 2)
    begin = start + 2 + 4 * len(shape)
    dtype = np.dtype(BRIEFING_TYPES[kind]).newbyteorder("<")
    values = np.frombuffer(frame, dtype, count=prod(shape), offset=begin)
    native = values.astype(BRIEFING_TYPES[kind], copy=False).reshape(shape)
    return name, native, begin + values.nbytes
