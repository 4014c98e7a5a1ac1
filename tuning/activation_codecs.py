"""How hidden states and their gradients travel between the sides of a split model.

Each codec states the largest error of an element, and is used in both directions. Bodies are
little-endian, in the order of the elements.
"""

from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fedloom.core.errors import CodecError, SplitError, UnknownNameError, nearest
from fedloom.core.seeds import Stream
from fedloom.tuning.finite import is_finite

__all__ = [
    "ACTIVATION_CODECS",
    "ActivationCodec",
    "Bfloat16",
    "Blocks8",
    "Octets",
    "Plain",
    "codec_named",
]

Floats = NDArray[np.float32]
Octets: TypeAlias = bytes | memoryview
"""Bytes, one by one."""

LARGEST = float(np.finfo(np.float32).max) / 127
"""A scale above it has steps beyond float32."""


class ActivationCodec(Protocol):
    """Packs hidden states, or a gradient to them."""

    @property
    def name(self) -> str:
        """What both sides call it."""
        ...

    def nbytes(self, elements: int) -> int:
        """Bytes that so many elements take."""
        ...

    def encode(self, values: Tensor, draw: Stream) -> Octets:
        """Pack a tensor of any shape.

        Args:
            values: floats.
            draw: where rounding takes its random numbers, if it takes any.

        Returns:
            The body; it may be the tensor's own memory, where that is as it is sent.

        Raises:
            SplitError: a value is not finite, or too large for the codec.
        """
        ...

    def decode(self, body: Octets, shape: tuple[int, ...]) -> Tensor:
        """Unpack into float32 (float64 where it was), of the given shape.

        Returns:
            The numbers; they may lie in the body's own memory, where that can be written to.

        Raises:
            CodecError: the body is of another size, or cannot have been written so.
        """
        ...

    def error_bound(self, values: Tensor) -> float:
        """The largest absolute error of an element of these values."""
        ...


class Plain:
    """Numbers as they are: float32, or float64.

    Args:
        dtype: of the body.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self.name = str(dtype).removeprefix("torch.")
        self._packed = np.dtype(f"<f{dtype.itemsize}")

    def nbytes(self, elements: int) -> int:
        """Four bytes (or eight) an element."""
        return elements * self._dtype.itemsize

    def encode(self, values: Tensor, draw: Stream) -> Octets:
        """The numbers themselves."""
        found = values.detach().cpu().to(self._dtype)
        _check(self.name, values, found)
        return _octets(found.contiguous().numpy().astype(self._packed, copy=False))

    def decode(self, body: Octets, shape: tuple[int, ...]) -> Tensor:
        """The numbers themselves."""
        _sized(self, body, shape)
        numbers = np.frombuffer(body, self._packed)
        own = not (numbers.flags.writeable and numbers.dtype.isnative)
        if own:
            numbers = numbers.astype(self._packed.newbyteorder("="))
        return torch.from_numpy(numbers).view(shape)

    def error_bound(self, values: Tensor) -> float:
        """Zero, unless float64 numbers are rounded to float32: then ``2^-24`` of the largest."""
        exact = values.dtype.itemsize <= self._dtype.itemsize
        return 0.0 if exact else _peak(values) * 2.0**-24 + 2.0**-150


class Bfloat16:
    """The upper half of a float32, rounded to nearest: two bytes an element."""

    name: ClassVar[str] = "bf16"

    def nbytes(self, elements: int) -> int:
        """Two bytes an element."""
        return 2 * elements

    def encode(self, values: Tensor, draw: Stream) -> Octets:
        """Rounded to nearest, ties to even."""
        packed = values.detach().cpu().bfloat16()
        _check(self.name, values, packed)
        return _octets(packed.contiguous().view(torch.int16).numpy().astype("<i2", copy=False))

    def decode(self, body: Octets, shape: tuple[int, ...]) -> Tensor:
        """As float32, exactly."""
        _sized(self, body, shape)
        numbers = np.frombuffer(body, "<i2").astype(np.int16)
        return torch.from_numpy(numbers).view(torch.bfloat16).float().view(shape)

    def error_bound(self, values: Tensor) -> float:
        """Half of a last place, ``2^-8`` of the largest; half of the smallest number near zero."""
        return _peak(values) * 2.0**-8 + 2.0**-134


class Blocks8:
    """A byte an element and a float32 scale for each 64: ``x = q * absmax / 127``.

    Blockwise absmax quantization (Dettmers et al., ICLR 2022, section 2.1), rounded up or down at
    random in proportion, so that what comes out is unbiased (Alistarh et al., NIPS 2017, section
    3.1). Zero stays zero.
    """

    name: ClassVar[str] = "int8"
    block: ClassVar[int] = 64

    def nbytes(self, elements: int) -> int:
        """A byte an element and four a block."""
        return elements + 4 * -(-elements // self.block)

    def encode(self, values: Tensor, draw: Stream) -> Octets:
        """Scales, then steps from -127 to 127."""
        flat = values.detach().cpu().float().flatten()
        _check(self.name, values, flat)
        size = flat.numel()
        blocks = functional.pad(flat, (0, -size % self.block)).view(-1, self.block)
        # torch finds the largest of a row six times as fast.
        scales = blocks.abs().amax(1).numpy() / np.float32(127)
        if (scales > LARGEST).any():
            raise _too_large(self.name)
        ratios = blocks.numpy() / np.where(scales == 0, np.float32(1), scales)[:, None]
        words = draw.words((ratios.size + 1) // 2).astype("<u8", copy=False).view("<u4")
        # 24 bits are what float32 holds exactly, so that the fraction stays below one.
        part = (words[: ratios.size] >> 8).astype(np.float32)
        part *= np.float32(2.0**-24)
        steps = ratios.reshape(-1)
        steps += part
        np.clip(np.floor(steps, out=steps), -127, 127, out=steps)
        return scales.astype("<f4").tobytes() + steps[:size].astype(np.int8).tobytes()

    def decode(self, body: Octets, shape: tuple[int, ...]) -> Tensor:
        """Steps times scales, float32."""
        _sized(self, body, shape)
        size = int(np.prod(shape))
        count = -(-size // self.block)
        scales = np.frombuffer(body, "<f4", count).astype(np.float32)
        if not ((scales >= 0) & (scales <= LARGEST)).all():
            raise CodecError("int8: a scale is negative or not finite")
        steps = np.frombuffer(body, np.int8, size, 4 * count)
        if size and steps.min() < -127:
            raise CodecError("int8: a step of -128; expected -127 to 127")
        found: Floats = np.repeat(scales, self.block)[:size] * steps
        return torch.from_numpy(found).view(shape)

    def error_bound(self, values: Tensor) -> float:
        """A whole step of the widest block, and float32's rounding of the ratio (``2^-15`` of it).

        ``2^-142`` covers scales so small that float32 no longer divides by 127.
        """
        return _peak(values) / 127 * (1 + 2.0**-15) + 2.0**-142


ACTIVATION_CODECS: dict[str, ActivationCodec] = {
    codec.name: codec
    for codec in (Plain(torch.float64), Plain(torch.float32), Bfloat16(), Blocks8())
}
"""By name."""


def codec_named(name: str) -> ActivationCodec:
    """The codec of a name.

    Raises:
        UnknownNameError: there is none.
    """
    try:
        return ACTIVATION_CODECS[name]
    except KeyError:
        known = nearest(name, ACTIVATION_CODECS)
        raise UnknownNameError(f"activation codec {name!r}: {known}") from None


def _octets(numbers: NDArray[Any]) -> memoryview:
    """The memory of an array that lies in one piece."""
    return numbers.reshape(-1).view(np.uint8).data


def _check(codec: str, values: Tensor, rounded: Tensor) -> None:
    """Refuse values that are no numbers, or no numbers once they are rounded."""
    if is_finite(rounded):
        return
    if not is_finite(values):
        raise SplitError(f"{codec}: a value is not finite", code="not-finite")
    raise _too_large(codec)


def _too_large(codec: str) -> SplitError:
    return SplitError(f"{codec}: a value is too large for it", code="not-finite")


def _sized(codec: ActivationCodec, body: Octets, shape: tuple[int, ...]) -> None:
    expected = codec.nbytes(int(np.prod(shape)))
    if len(body) != expected:
        text = f"a body of {len(body)} bytes; {list(shape)} takes {expected}"
        raise CodecError(f"{codec.name}: {text}")


def _peak(values: Tensor) -> float:
    return float(values.detach().abs().max()) if values.numel() else 0.0
