import numpy as np
import pytest

from fedloom.core.errors import LayoutError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import Params
from fedloom.tuning.cut import Cut, own_train

WHOLE = Layout(
    (
        TensorSpec("a", (1,), "layer.0", frozenset({"lora"})),
        TensorSpec("b", (2,), "layer.1", frozenset({"lora"})),
        TensorSpec("h", (1,), "head", frozenset({"head"})),
    )
)


def test_what_lies_where() -> None:
    assert Cut(1, 2).far(3) == {"layer.1"}
    assert Cut(1, 2).home(3) == {"embeddings", "layer.0", "layer.2", "final", "head"}
    assert Cut(1, 3, "far").far(3) == {"layer.1", "layer.2", "final", "head"}
    assert Cut(1, 3, "far").home(3) == {"embeddings", "layer.0"}


def test_one_side_s_tensors() -> None:
    params = Params(WHOLE, np.arange(4, dtype=np.float32))
    side = Layout(WHOLE.specs[1:])
    assert params.only(side).vector.tolist() == [1, 2, 3]
    assert own_train(WHOLE, ("lora",), side) == ("b",)
    assert own_train(WHOLE, ("a",), side) == ()
    with pytest.raises(LayoutError, match="selector 'c' matches nothing"):
        own_train(WHOLE, ("c",), side)
