import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedloom.core.layout import Layout, TensorSpec


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    shapes = draw(st.lists(st.lists(st.integers(0, 3), max_size=3), max_size=6))
    specs = (TensorSpec(f"t{i}", tuple(shape)) for i, shape in enumerate(shapes))
    return Layout(tuple(specs))


@st.composite
def parts(draw: st.DrawFn) -> tuple[Layout, Layout]:
    whole = draw(layouts())
    chosen = draw(st.permutations(whole.specs))
    return whole, Layout(tuple(chosen[: draw(st.integers(0, len(chosen)))]))


@given(parts())
def test_gather_takes_each_tensor(case: tuple[Layout, Layout]) -> None:
    whole, part = case
    vector = np.arange(whole.size, dtype=np.float32)
    gathered = whole.gather(vector, part)
    for name in part.names:
        assert np.array_equal(part.view(gathered, name), whole.view(vector, name))


@given(parts())
def test_scatter_undoes_gather(case: tuple[Layout, Layout]) -> None:
    whole, part = case
    vector = np.arange(whole.size, dtype=np.float32)
    zeros = np.zeros(whole.size, dtype=np.float32)
    put = whole.scatter(zeros, part, whole.gather(vector, part))
    for spec in whole:
        expected = whole.view(vector, spec.name) if spec.name in part else np.zeros(spec.shape)
        assert np.array_equal(whole.view(put, spec.name), expected)
    assert np.array_equal(whole.scatter(vector, part, whole.gather(vector, part)), vector)


@given(layouts())
def test_flatten_undoes_unflatten(layout: Layout) -> None:
    vector = np.arange(layout.size, dtype=np.float32)
    tensors = layout.unflatten(vector)
    assert [tensors[spec.name].shape for spec in layout] == [spec.shape for spec in layout]
    assert np.array_equal(layout.flatten(dict(tensors)), vector)


@given(layouts(), st.data())
def test_selecting_by_name_keeps_the_layouts_order(layout: Layout, data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(layout.names), unique=True)) if layout.names else []
    assert layout.select(tuple(names)).names == tuple(n for n in layout.names if n in names)
