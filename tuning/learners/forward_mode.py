"""Forward-mode differentiation for several threads: torch has one level of it for all of them."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from threading import Lock
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.nn.functional import dropout, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

__all__ = ["FORWARD_MODE", "ForwardMode", "PlainAttention"]


class ForwardMode:
    """A context in which tensors may carry derivatives.

    The level belongs to the process: the first thread that comes in opens it, and the last that
    leaves closes it. A tensor's derivative is its own, so threads inside at the same time do not
    see each other's, and whoever is outside notices nothing.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._set = Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._set.enter_context(forward_ad.dual_level())
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._set.close()


FORWARD_MODE = ForwardMode()
"""The process's own."""


class PlainAttention(TorchFunctionMode):
    """Attention by its plain form, as no fused form has a forward-mode derivative.

    For this thread only, unlike torch's own switch, which would change the last bits of what other
    threads compute.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call what was called, or the plain form of attention."""
        if func is scaled_dot_product_attention:
            return _plain(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _plain(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """``softmax(Q K^T scale + mask) V`` (https://arxiv.org/abs/1706.03762), in operations that have
    derivatives; arguments are those of torch's function."""
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = (t.repeat_interleave(groups, -3) for t in (key, value))
    scores = (query * (scale or query.shape[-1] ** -0.5)) @ key.transpose(-2, -1)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    weights = torch.softmax(scores, -1)
    # Where a query sees no key, torch's function gives zeros.
    weights = weights.masked_fill(torch.isneginf(scores).all(-1, keepdim=True), 0.0)
    return dropout(weights, dropout_p) @ value
