import numpy as np
import pytest
from numpy.typing import NDArray

from fedloom.core.errors import LayoutError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.types import Cost, Delta, Params, Payload

LAYOUT = Layout((TensorSpec("a", (3,)),))


@pytest.mark.parametrize("kind", [Params, Delta])
@pytest.mark.parametrize(
    ("vector", "got"),
    [
        (np.zeros(2, dtype=np.float32), r"float32 \[2\]"),
        (np.zeros(3), r"float64 \[3\]"),
        (np.zeros((1, 3), dtype=np.float32), r"float32 \[1, 3\]"),
    ],
)
def test_a_vector_must_fit_its_layout(
    kind: type[Params] | type[Delta], vector: NDArray[np.float32], got: str
) -> None:
    with pytest.raises(LayoutError, match=rf"vector: expected float32 \[3\], got {got}"):
        kind(LAYOUT, vector)


def test_costs_add_and_memory_is_the_larger() -> None:
    total = Cost(1, 2, 3.0, 10, 0.5, 0.25) + Cost(10, 20, 30.0, 4, 1.5, 0.5)
    assert total == Cost(11, 22, 33.0, 10, 2.0, 0.75)


def test_a_payload_weighs_its_frame() -> None:
    assert Payload("x", b"12345").nbytes == 5


def test_a_model_having_tensors_of_another() -> None:
    layout = Layout((TensorSpec("a", (1,)), TensorSpec("b", (2,))))
    part = Params(layout.select(("b",)), np.array([8, 9], dtype=np.float32))
    whole = Params(layout, np.array([1, 2, 3], dtype=np.float32))
    assert whole.having(part).vector.tolist() == [1.0, 8.0, 9.0]
    assert whole.vector.tolist() == [1.0, 2.0, 3.0]
