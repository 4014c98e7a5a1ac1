"""Attention in plain operations, and derivatives in several threads."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch.autograd import forward_ad
from torch.nn.functional import scaled_dot_product_attention

from fedloom.tuning.learners.forward_mode import ForwardMode, PlainAttention

MASK = torch.ones(5, 7, dtype=torch.bool).tril(1)
HIDDEN = torch.zeros(5, 7).masked_fill(~MASK, -torch.inf)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"attn_mask": MASK},
        {"attn_mask": HIDDEN},
        {"is_causal": True},
        {"scale": 0.3},
        {"enable_gqa": True},
        {"attn_mask": MASK & (torch.arange(5) > 0)[:, None]},  # the first query sees nothing
    ],
)
def test_plain_attention_is_torchs(options: dict[str, Any]) -> None:
    heads = 2 if options.get("enable_gqa") else 4
    draw = torch.Generator().manual_seed(0)
    q = torch.randn(3, 4, 5, 8, generator=draw)
    k, v = (torch.randn(3, heads, 7, 8, generator=draw) for _ in range(2))
    want = scaled_dot_product_attention(q, k, v, **options)
    with PlainAttention():
        found = scaled_dot_product_attention(q, k, v, **options)
        derivative = torch.func.jvp(
            lambda x: scaled_dot_product_attention(x, k, v, **options), (q,), (torch.ones_like(q),)
        )[1]
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-6)
    step = 1e-3
    ahead, behind = (
        scaled_dot_product_attention(q + s * torch.ones_like(q), k, v, **options)
        for s in (step, -step)
    )
    torch.testing.assert_close(derivative, (ahead - behind) / (2 * step), rtol=1e-2, atol=1e-3)


def test_threads_share_a_level_and_keep_their_derivatives() -> None:
    mode = ForwardMode()

    def cube(i: int) -> float:
        for _ in range(50):
            with mode:
                x = forward_ad.make_dual(torch.tensor(float(i)), torch.tensor(1.0))
                slope = forward_ad.unpack_dual(x**3).tangent
            assert slope is not None
        return float(slope)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(cube, range(8))) == [3.0 * i**2 for i in range(8)]
    with forward_ad.dual_level():  # nobody has left one open
        pass
