"""The few lines of C that unpack 4-bit codes, where the installation could compile them."""

import ctypes
import functools
import importlib.util

import torch
from torch import Tensor

from fedloom.backbones.schemes import NF4, Packed

__all__ = ["unpack", "unpack_rows", "unpacks"]

_MODULE = "fedloom.backbones.kernels._native"
_POINTER, _COUNT = ctypes.c_void_p, ctypes.c_int64
_DTYPES = (torch.float32, torch.bfloat16)
_LEVELS = (ctypes.c_float * 16)(*NF4)


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The compiled code; None where there is none, or it was compiled for another processor."""
    spec = importlib.util.find_spec(_MODULE)
    if spec is None or spec.origin is None:
        return None
    try:
        found = ctypes.CDLL(spec.origin)
        for kind in ("int4", "nf4"):
            for dtype in ("float32", "bfloat16"):
                function = getattr(found, f"fedloom_{kind}_{dtype}")
                function.argtypes = (*(_POINTER,) * 3, _COUNT, _COUNT, _POINTER)
                function.restype = None
        found.fedloom_int4_int8.argtypes = (*(_POINTER,) * 4, *(_COUNT,) * 3)
        found.fedloom_int4_int8.restype = None
    except (OSError, AttributeError):  # the latter: of other sources than these
        return None
    return found


def unpacks(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `unpack` works for tensors of that device, to numbers of that type."""
    return device.type == "cpu" and dtype in _DTYPES and _library() is not None


def unpack(packed: Packed, out: Tensor) -> None:
    """Write ``W~`` of a 4-bit format to `out`: the very bits of `Packed.whole`.

    Args:
        packed: on the CPU, its tensors contiguous.
        out: float32 or bfloat16 ``[d_out, d_in]``, contiguous.

    Raises:
        TypeError: a tensor is not contiguous, or `out` is of another type or shape.
    """
    scheme, library = packed.scheme, _library()
    tensors = packed.codes, packed.scale, out
    fits = out.shape == packed.shape and out.dtype in _DTYPES
    if library is None or not fits or not all(tensor.is_contiguous() for tensor in tensors):
        raise TypeError("unpack: contiguous tensors on the CPU that fit each other are needed")
    name = f"fedloom_{scheme.kind}_{str(out.dtype).removeprefix('torch.')}"
    pointers = (tensor.data_ptr() for tensor in tensors)
    getattr(library, name)(*pointers, packed.scale.numel(), scheme.group, _LEVELS)


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
    if library is None or packed.scheme.kind != "int4" or not fits or not whole:
        raise TypeError("unpack_rows: int4 on the CPU and contiguous tensors that fit are needed")
    pointers = (tensor.data_ptr() for tensor in tensors)
    library.fedloom_int4_int8(*pointers, rows, packed.scale.shape[1], packed.scheme.group)
