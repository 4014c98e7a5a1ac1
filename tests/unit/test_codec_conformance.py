from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from fedloom.codecs.base import Codec
from fedloom.codecs.conformance import check_codec
from fedloom.codecs.dense import Float32
from fedloom.core.errors import CodecError
from fedloom.core.layout import Layout
from fedloom.core.registry import BUILT_IN, Component, create
from fedloom.core.types import Delta, Payload

VARIANTS = [
    *(Component(name) for name in BUILT_IN["codecs"]),
    Component("int8", {"block": 7, "stochastic": True}),
]


@pytest.mark.parametrize("component", VARIANTS, ids=str)
def test_every_built_in_codec_conforms(component: Component) -> None:
    check_codec(cast(Codec, create("codecs", component)))


class Wrapped:
    """A codec that behaves, to be broken in one place by the classes below."""

    name = "float32"

    def __init__(self) -> None:
        self.inner: Codec = Float32()

    def encode(self, delta: Delta, *, seed: int = 0) -> Payload:
        return self.inner.encode(delta, seed=seed)

    def decode(self, payload: Payload, layout: Layout) -> Delta:
        return self.inner.decode(payload, layout)

    def error_bound(self, delta: Delta) -> float:
        return self.inner.error_bound(delta)


class Lossy(Wrapped):
    def decode(self, payload: Payload, layout: Layout) -> Delta:
        return Delta(layout, super().decode(payload, layout).vector * np.float32(0.5))


class Misnamed(Wrapped):
    def encode(self, delta: Delta, *, seed: int = 0) -> Payload:
        return replace(super().encode(delta), codec="other")


class Random(Wrapped):
    count = 0

    def encode(self, delta: Delta, *, seed: int = 0) -> Payload:
        self.count += 1
        return super().encode(Delta(delta.layout, delta.vector + np.float32(self.count)))


class Writing(Wrapped):
    def encode(self, delta: Delta, *, seed: int = 0) -> Payload:
        payload = super().encode(delta)
        delta.vector[:] = 0
        return payload


class AcceptsNaN(Wrapped):
    def encode(self, delta: Delta, *, seed: int = 0) -> Payload:
        return super().encode(Delta(delta.layout, np.nan_to_num(delta.vector)))


class Trusting(Wrapped):
    def decode(self, payload: Payload, layout: Layout) -> Delta:
        vector = np.frombuffer(payload.frame, "<f4", layout.size, 24)
        return Delta(layout, vector)


@pytest.mark.parametrize(
    ("codec", "message"),
    [
        (Lossy(), "above its bound of 0"),
        (Misnamed(), "its payload says codec 'other'"),
        (Random(), "two frames of one delta differ"),
        (Writing(), "two frames of one delta differ"),
        (AcceptsNaN(), "encodes nan; it must raise CodecError"),
        (Trusting(), "raises ValueError; it must raise CodecError"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_broken_codec_is_named_with_its_fault(codec: Codec, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        check_codec(codec)
