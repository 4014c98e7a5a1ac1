import numpy as np
import pytest

from fedloom.core.errors import LayoutError
from fedloom.core.layout import ALL, NONE, Layout, TensorSpec

Q = TensorSpec("layer.0.q.lora_A.weight", (2, 3), "layer.0", frozenset({"lora", "A"}))
V = TensorSpec("layer.0.v.lora_B.weight", (3, 2), "layer.0", frozenset({"lora", "B"}))
BIAS = TensorSpec("layer.1.bias", (4,), "layer.1", frozenset({"bias"}))
HEAD = TensorSpec("head.weight", (), "head", frozenset({"head"}))
LAYOUT = Layout((Q, V, BIAS, HEAD))
VECTOR = np.arange(LAYOUT.size, dtype=np.float32)


def test_tensors_lie_end_to_end() -> None:
    assert LAYOUT.size == 6 + 6 + 4 + 1
    assert LAYOUT.span(V.name) == slice(6, 12)
    assert LAYOUT.view(VECTOR, V.name).tolist() == [[6, 7], [8, 9], [10, 11]]
    assert LAYOUT.view(VECTOR, HEAD.name).shape == ()
    assert V.name in LAYOUT
    assert "w" not in LAYOUT
    assert list(LAYOUT) == [Q, V, BIAS, HEAD]


def test_a_view_writes_through() -> None:
    vector = VECTOR.copy()
    LAYOUT.view(vector, BIAS.name)[:] = np.float32(0)
    assert vector[12:16].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("selector", "chosen"),
    [
        (ALL, (Q, V, BIAS, HEAD)),
        (NONE, ()),
        (("lora",), (Q, V)),
        (("head", "A"), (Q, HEAD)),
        (("layer.0",), (Q, V)),
        (("layer.*", "!B"), (Q, BIAS)),
        (("*", "!lora", "A"), (Q, BIAS, HEAD)),
        (("*.bias",), (BIAS,)),
        (("!head",), ()),
    ],
    ids=lambda value: "-".join(value) if value and isinstance(value[0], str) else "",
)
def test_selectors_name_tags_blocks_and_globs(
    selector: tuple[str, ...], chosen: tuple[TensorSpec, ...]
) -> None:
    assert LAYOUT.select(selector).specs == chosen


def test_a_pattern_without_a_match_says_what_there_is() -> None:
    with pytest.raises(LayoutError, match=r"selector 'loar' matches nothing; blocks: head, layer"):
        LAYOUT.select(("loar",))
    with pytest.raises(LayoutError, match=r"'!hed' matches nothing.*tags: A, B, bias, head, lora"):
        LAYOUT.select(("*", "!hed"))


def test_many_names_are_not_all_told() -> None:
    many = Layout(tuple(TensorSpec(f"t{i}", (1,)) for i in range(9)))
    with pytest.raises(LayoutError, match=r"no tensor 'x'; it has t0, .*, t5, \.\.\. \(9 in all\)"):
        many.span("x")


def test_spans_merge_neighbours_that_are_neighbours_on_both_sides() -> None:
    assert LAYOUT.spans(Layout((Q, V, HEAD))) == [
        (slice(0, 12), slice(0, 12)),
        (slice(16, 17), slice(12, 13)),
    ]
    assert LAYOUT.spans(Layout((V, Q))) == [
        (slice(6, 12), slice(0, 6)),
        (slice(0, 6), slice(6, 12)),
    ]
    assert LAYOUT.spans(Layout((Q, V, BIAS, HEAD))) == [(slice(0, 17), slice(0, 17))]
    assert LAYOUT.spans(Layout(())) == []


def test_spans_refuse_a_tensor_that_does_not_fit() -> None:
    with pytest.raises(LayoutError, match=r"tensor 'x': expected no such tensor, got \(1,\)"):
        LAYOUT.spans(Layout((TensorSpec("x", (1,)),)))
    with pytest.raises(LayoutError, match=r"'layer.1.bias': expected \(4,\), got \(2, 2\)"):
        LAYOUT.spans(Layout((TensorSpec("layer.1.bias", (2, 2)),)))


def test_scatter_leaves_its_arguments_alone() -> None:
    part = Layout((BIAS,))
    out = LAYOUT.scatter(VECTOR, part, np.zeros(4, dtype=np.float32))
    assert out[12:16].tolist() == [0, 0, 0, 0]
    assert VECTOR[12:16].tolist() == [12, 13, 14, 15]


def test_the_digest_is_of_names_shapes_and_order() -> None:
    bare = Layout(tuple(TensorSpec(spec.name, spec.shape) for spec in LAYOUT))
    assert bare.digest == LAYOUT.digest
    assert Layout((V, Q, BIAS, HEAD)).digest != LAYOUT.digest
    assert Layout((TensorSpec("a", (2,)),)).digest != Layout((TensorSpec("a", (2, 1)),)).digest
    # SHA-256 of '[["a", [2]]]': a checkpoint or frame written today is read tomorrow.
    assert Layout((TensorSpec("a", (2,)),)).digest.startswith("0cb71186c5a4a8f5")


def test_flatten_refuses_what_is_missing_or_misshapen() -> None:
    with pytest.raises(LayoutError, match=r"tensor 'layer.1.bias': expected \(4,\), got none"):
        Layout((BIAS,)).flatten({})
    with pytest.raises(LayoutError, match=r"expected \(4,\), got \(2, 2\)"):
        Layout((BIAS,)).flatten({BIAS.name: np.zeros((2, 2))})


def test_names_are_unique() -> None:
    with pytest.raises(LayoutError, match=r"the name 'head.weight' occurs twice"):
        Layout.concat((LAYOUT, Layout((HEAD,))))
