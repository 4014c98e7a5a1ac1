from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from fedloom.codecs.block_drop import BlockDrop
from fedloom.codecs.conformance import check_codec
from fedloom.codecs.dense import Float32
from fedloom.codecs.frame import OVERHEAD, write_frame
from fedloom.core.errors import CodecError, ConfigError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.registry import Component, Option, create
from fedloom.core.types import ClientUpdate, Delta, Params
from fedloom.strategies.aggregate import WeightedMean

# Blocks of 4, 2 and 3 numbers; the tensors of the second stand around those of the third.
LAYOUT = Layout(
    (
        TensorSpec("a", (4,), "one"),
        TensorSpec("b", (1,), "two"),
        TensorSpec("c", (3,), "three"),
        TensorSpec("d", (1,), "two"),
    )
)
HEADS = 3 * (OVERHEAD + 1) + 2
"""Of three float32 frames: each has a header and a length before it, and two bytes say whose."""


def delta(*values: float) -> Delta:
    return Delta(LAYOUT, np.array(values, dtype=np.float32))


def dense(**options: Option) -> BlockDrop:
    table: dict[str, Option] = {"inner": "float32", **options}
    return cast(BlockDrop, create("codecs", Component("block-drop", table)))


CHANGE = delta(8, 0, 0, 0, 3, 3, 0, 0, 0)
"""Mean block differences 8 / 4 = 2, 3 / 2 = 1.5, 3 / 3 = 1."""


def sent(codec: BlockDrop, change: Delta) -> tuple[str, ...]:
    return codec.decode(codec.encode(change), LAYOUT).layout.names


def test_the_blocks_that_changed_most_are_sent_while_they_fit() -> None:
    whole = OVERHEAD + HEADS + 4 * 9
    assert dense(rate=0).encode(CHANGE).nbytes == whole
    assert sent(dense(budget=whole), CHANGE) == ("a", "b", "d", "c")
    assert sent(dense(budget=whole - 1), CHANGE) == ("a", "b", "d")
    # With room for 16 + 8 bytes less one, the second does not fit, and so does not the third (12).
    two = whole - 4 * 3 - OVERHEAD - 1
    assert sent(dense(budget=two), CHANGE) == ("a", "b", "d")
    assert sent(dense(budget=two - 1), CHANGE) == ("a",)


def test_a_block_that_does_not_fit_is_passed_over() -> None:
    # Mean differences 3, 4 and 1: after the second (8 bytes), the first (16) is four too many in a
    # budget for the second and the third (12).
    two = OVERHEAD + HEADS - (OVERHEAD + 1) + 4 * 5
    codec = dense(budget=two)
    payload = codec.encode(delta(12, 0, 0, 0, 8, 3, 0, 0, 0))
    assert payload.nbytes == two
    back = codec.decode(payload, LAYOUT)
    assert back.layout.names == ("b", "d", "c")
    assert back.vector.tolist() == [8, 0, 3, 0, 0]


def test_the_rate_is_a_share_of_the_bytes_of_the_whole_update() -> None:
    whole = dense(rate=0).encode(CHANGE).nbytes
    for rate in (0.1, 0.3, 0.5, 0.9):
        assert dense(rate=rate).encode(CHANGE).nbytes <= max(whole * (1 - rate), OVERHEAD + 2)


@pytest.mark.parametrize("inner", ["float32", "nnadq", "int8", "blockwise"])
def test_the_budget_is_never_exceeded(inner: str) -> None:
    layout = Layout(tuple(TensorSpec(f"t{i}", (i + 1,), f"layer.{i % 7}") for i in range(30)))
    draws = np.random.default_rng(0)
    for budget in (OVERHEAD + 5, 100, 300, 700, 2000):
        codec = BlockDrop(budget=budget, inner=Component(inner))
        vector = draws.normal(size=layout.size).astype(np.float32)
        assert codec.encode(Delta(layout, vector)).nbytes <= budget


def test_what_is_not_sent_is_absent_and_not_zero() -> None:
    back = dense(rate=0.5).decode(dense(rate=0.5).encode(CHANGE), LAYOUT)
    assert "c" not in back.layout


def reference(
    vectors: Mapping[str, NDArray[np.float32]], updates: list[tuple[int, Delta]]
) -> dict[str, NDArray[np.float64]]:
    """FedOBD's server: a block that a client dropped is unchanged for that client."""
    found = {}
    for name, w in vectors.items():
        total, weights = np.zeros_like(w, dtype=np.float64), 0
        for n, update in updates:
            own = update.layout.unflatten(update.vector).get(name)
            total += n * (w + (own if own is not None else 0))
            weights += n
        found[name] = total / weights
    return found


def test_unchanged_is_what_the_reference_says() -> None:
    draws = np.random.default_rng(1)
    params = Params(LAYOUT, draws.normal(size=9).astype(np.float32))
    mean, total, updates = WeightedMean("unchanged"), None, []
    for i, codec in enumerate((dense(rate=0.3), dense(rate=0.6), dense(rate=0))):
        change = delta(*draws.normal(size=9))
        back = codec.decode(codec.encode(change), LAYOUT)
        updates.append((i + 2, back))
        total = mean.add(total, ClientUpdate(f"c{i}", 1, i + 2, delta=back))
    assert len({update.layout.names for _, update in updates}) > 1  # blocks are missing
    assert total is not None
    vector = params.vector + mean.mean(params, total).vector
    expected = reference(LAYOUT.unflatten(params.vector), updates)
    for name, values in LAYOUT.unflatten(vector).items():
        np.testing.assert_allclose(values, expected[name], atol=1e-6)


def test_a_budget_below_the_smallest_block_is_refused_by_name() -> None:
    # The second block is the smallest: 2 numbers, a header, a length, and the frame around it.
    least = OVERHEAD + 2 + OVERHEAD + 1 + 8
    dense(budget=least).check(LAYOUT)
    message = f"budget = {least - 1}: .*the smallest block, 'two', takes some {least} bytes"
    with pytest.raises(ConfigError, match=message):
        dense(budget=least - 1).check(LAYOUT)
    with pytest.raises(ConfigError, match=r"rate = 0.95: an update of .* bytes; the smallest"):
        dense(rate=0.95).check(LAYOUT)
    dense(rate=0.3).check(Layout(()))


@pytest.mark.parametrize("inner", ["float32", "nnadq", "blockwise", "block-drop"])
def test_promises_of_a_codec_are_kept(inner: str) -> None:
    for rate in (0.0, 0.3, 0.9):
        check_codec(BlockDrop(rate, inner=Component(inner)))


def test_frames_that_no_encoder_writes() -> None:
    codec, frame = dense(), Float32().encode(Delta(LAYOUT.select(("two",)), np.ones(2, np.float32)))
    head = b"\x00\x0a" + bytes([frame.nbytes])  # the second and the fourth tensor
    good = write_frame("block-drop", LAYOUT, head + frame.frame)
    assert codec.decode(good, LAYOUT).layout.names == ("b", "d")
    for body, message in (
        (head + frame.frame[:-1], "things of 1 bytes are said to come"),
        (head + frame.frame + b"x", "1 bytes too many"),
        (b"\x00\x08" + head[2:] + frame.frame, "float32: a frame of 2 elements"),
        (b"\x00\xf0", "one twice, or beyond the 4"),
        (b"", "0 do"),
    ):
        with pytest.raises(CodecError, match=message):
            codec.decode(write_frame("block-drop", LAYOUT, body), LAYOUT)


def test_options_are_looked_at() -> None:
    with pytest.raises(ConfigError, match=r"codecs.block-drop: rate = 1.0: .*below 1"):
        dense(rate=1.0)
    with pytest.raises(ConfigError, match="unknown name 'zip'"):
        replace(dense(), inner=Component("zip"))
    with pytest.raises(ConfigError, match=r"codecs.block-drop.inner = 3: expected a name"):
        create("codecs", Component("block-drop", {"inner": 3}))
