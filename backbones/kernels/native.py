"""The few lines of C that unpack codes, where the installation could compile them."""

import ctypes

import torch
from torch import Tensor

from fedloom.backbones.formats import NF4, Scheme
from fedloom.backbones.schemes import Packed
from fedloom.core.compiled import compiled

__all__ = ["unpack", "unpack_rows", "unpacks"]

_MODULE = "fedloom.backbones.kernels._native"
_POINTER, _COUNT = ctypes.c_void_p, ctypes.c_int64
_DTYPES = (torch.float32, torch.bfloat16)
_INT4 = ("int4-32", "int4-64", "int4-128")
_LEVELS = (ctypes.c_float * 16)(*NF4)


def _library() -> ctypes.CDLL | None:
    return compiled(_MODULE, _declare_all)


def _declare_all(library: ctypes.CDLL) -> None:
    three, counts = (_POINTER,) * 3, (_COUNT, _COUNT)
    for dtype in ("float32", "bfloat16"):
        for kind in ("int4", "nf4"):
            _declare(library, f"fedloom_{kind}_{dtype}", *three, *counts, _POINTER)
        for kind in ("wide4", "wide8"):
            wide = *three, _POINTER, *counts, ctypes.c_int32
            _declare(library, f"fedloom_{kind}_{dtype}", *wide)
    _declare(library, "fedloom_int4_int8", *(_POINTER,) * 4, *(_COUNT,) * 3)


def _declare(library: ctypes.CDLL, name: str, *arguments: type) -> None:
    function = getattr(library, name)
    function.argtypes, function.restype = arguments, None


def unpacks(scheme: Scheme, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `unpack` works for that format, on that device, to numbers of that type."""
    there = device.type == "cpu" and dtype in _DTYPES and _library() is not None
    levels = scheme.kind == "nf4" and scheme.wide
    return there and bool(scheme.group) and not levels


def unpack(packed: Packed, out: Tensor) -> None:
    """Write ``W~`` of a format with groups to `out`: the very bits of `Packed.whole`.

    Args:
        packed: on the CPU, its tensors contiguous.
        out: float32 or bfloat16 ``[d_out, d_in]``, contiguous.

    Raises:
        TypeError: a tensor is not contiguous, or `out` is of another type or shape.
    """
    scheme, library = packed.scheme, _library()
    fits = unpacks(scheme, out.device, out.dtype) and out.shape == packed.shape
    whole = all(tensor.is_contiguous() for tensor in (*packed.tensors, out))
    if library is None or not fits or not whole:
        raise TypeError("unpack: contiguous tensors on the CPU that fit each other are needed")
    dtype = str(out.dtype).removeprefix("torch.")
    counts = packed.scale.numel(), scheme.group
    if packed.scale.dtype == torch.bfloat16 and not scheme.raised:
        pointers = (tensor.data_ptr() for tensor in (packed.codes, packed.scale, out))
        getattr(library, f"fedloom_{scheme.kind}_{dtype}")(*pointers, *counts, _LEVELS)
        return
    scale, least = packed.scale.float(), None if packed.least is None else packed.least.float()
    lows = None if least is None else least.data_ptr()
    zero = 8 if scheme.kind == "int4" else 0
    function = getattr(library, f"fedloom_wide{scheme.bits}_{dtype}")
    function(packed.codes.data_ptr(), scale.data_ptr(), lows, out.data_ptr(), *counts, zero)


def unpack_rows(packed: Packed, codes: Tensor, steps: Tensor) -> None:
    """Write a matrix in int4 as one in int8, with one step a row.

    A row's step is 8 times its largest scale, / 127; numbers are rounded to the nearest step, but
    for 1/64 of one.

    Args:
        packed: int4, on the CPU, its tensors contiguous.
        codes: int8 ``[d_out, d_in]``, contiguous.
        steps: float32 ``[d_out]``.

    Raises:
        TypeError: a tensor is not contiguous, or of another type or shape.
    """
    library, rows = _library(), packed.shape[0]
    tensors = packed.codes, packed.scale, codes, steps
    fits = (codes.shape, codes.dtype) == (packed.shape, torch.int8) and (
        (steps.shape, steps.dtype) == ((rows,), torch.float32)
    )
    whole = all(tensor.is_contiguous() and tensor.device.type == "cpu" for tensor in tensors)
    plain = packed.scheme.name in _INT4 and packed.scale.dtype == torch.bfloat16
    if library is None or not plain or not fits or not whole:
        raise TypeError("unpack_rows: int4 on the CPU and contiguous tensors that fit are needed")
    pointers = (tensor.data_ptr() for tensor in tensors)
    library.fedloom_int4_int8(*pointers, rows, packed.scale.shape[1], packed.scheme.group)
