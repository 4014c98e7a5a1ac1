"""What every codec must satisfy, built in or not: `check_codec` in a test of your own.

>>> from fedloom.codecs.dense import Float32
>>> check_codec(Float32())
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from fedloom.codecs.base import Codec
from fedloom.core.errors import CodecError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.seeds import stream
from fedloom.core.types import Delta, Payload

__all__ = ["check_codec"]

_LAYOUT = Layout((TensorSpec("a", (3, 50)), TensorSpec("b", (1,)), TensorSpec("c", (7, 11))))
_OTHER = Layout((TensorSpec("a", (50, 3)), TensorSpec("b", (1,)), TensorSpec("c", (7, 11))))


def check_codec(codec: Codec) -> None:
    """Try a codec on ordinary, extreme and broken input.

    Raises:
        CodecError: the codec breaks a promise of `codecs.base.Codec`; the message says which.
    """
    for delta in _deltas():
        _check_round_trip(codec, delta)
    _check_refusals(codec)
    _check_malformed(codec)


def _deltas() -> Iterator[Delta]:
    noise = stream(0, "conformance").uniform(_LAYOUT.size).astype(np.float32) - np.float32(0.5)
    for scale in (0.0, 1e-45, 1e-38, 1e-4, 1.0, 1e4):
        yield Delta(_LAYOUT, noise * np.float32(scale))
    spike = np.zeros_like(noise)
    spike[70] = -3.0
    yield Delta(_LAYOUT, spike)
    yield Delta(Layout((TensorSpec("one", ()),)), np.ones(1, dtype=np.float32))
    yield Delta(Layout(()), np.zeros(0, dtype=np.float32))


def _check_round_trip(codec: Codec, delta: Delta) -> None:
    before = delta.vector.copy()
    payload = codec.encode(delta, seed=1)
    _promise(codec, payload.codec == codec.name, f"its payload says codec {payload.codec!r}")
    _promise(codec, codec.encode(delta, seed=1) == payload, "two frames of one delta differ")
    back = codec.decode(payload, delta.layout)
    delta.layout.spans(back.layout)
    _promise(codec, np.array_equal(before, delta.vector), "encode or decode wrote into the delta")
    kept = delta.layout.gather(delta.vector, back.layout).astype(np.float64)
    error = float(np.abs(kept - back.vector).max(initial=0.0))
    bound = codec.error_bound(delta)
    _promise(codec, error <= bound, f"an error of {error:.3g}, above its bound of {bound:.3g}")


def _check_refusals(codec: Codec) -> None:
    for value in (np.nan, np.inf, -np.inf):
        vector = np.zeros(_LAYOUT.size, dtype=np.float32)
        vector[-1] = value
        try:
            codec.encode(Delta(_LAYOUT, vector))
        except CodecError:
            continue
        raise CodecError(f"codec {codec.name!r}: encodes {value}; it must raise CodecError")


def _check_malformed(codec: Codec) -> None:
    vector = np.linspace(-1, 1, _LAYOUT.size, dtype=np.float32)
    payload = codec.encode(Delta(_LAYOUT, vector))
    frame = payload.frame
    for length in {0, 1, len(frame) // 2, len(frame) - 1}:
        _must_refuse(codec, replace(payload, frame=frame[:length]), f"cut to {length} bytes")
    _must_refuse(codec, replace(payload, frame=frame + b"\0"), "with a byte too many")
    for at in range(0, len(frame), max(1, len(frame) // 64)):
        changed = frame[:at] + bytes([frame[at] ^ 0x10]) + frame[at + 1 :]
        _must_refuse(codec, replace(payload, frame=changed), f"with byte {at} changed")
    _must_refuse(codec, replace(payload, codec=codec.name + "?"), "of another codec")
    _must_refuse(codec, payload, "of another layout", _OTHER)


def _must_refuse(codec: Codec, payload: Payload, what: str, layout: Layout = _LAYOUT) -> None:
    try:
        codec.decode(payload, layout)
    except CodecError:
        return
    except Exception as error:
        text = f"codec {codec.name!r}: a frame {what} raises {type(error).__name__}"
        raise CodecError(f"{text}; it must raise CodecError") from error
    raise CodecError(f"codec {codec.name!r}: decodes a frame {what}")


def _promise(codec: Codec, kept: bool, otherwise: str) -> None:
    if not kept:
        raise CodecError(f"codec {codec.name!r}: {otherwise}")
