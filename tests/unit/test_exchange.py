import numpy as np
import pytest
from lora_rounds import start

from fedloom.codecs.base import Codec
from fedloom.codecs.dense import BFloat16, Float32
from fedloom.codecs.exchange import changed, client_update, received, sent_down, with_far
from fedloom.codecs.quantized import Int8
from fedloom.core.errors import CodecError
from fedloom.core.layout import Layout, TensorSpec
from fedloom.core.ranks import limited, of_rank
from fedloom.core.types import ClientTask, ClientUpdate, Cost, Delta, Params, Selectors

HEAD = TensorSpec("head", (2,), tags=frozenset({"head"}))
BODY = TensorSpec("body", (3,), tags=frozenset({"lora"}))
LAYOUT = Layout((BODY, HEAD))
PARAMS = Params(LAYOUT, np.arange(1, 6, dtype=np.float32))
TASK = ClientTask("ann", 3, 2, seed=7)


def test_what_any_stage_so_far_trains_travels() -> None:
    head, body = Selectors(train=("head",)), Selectors(train=("lora",))
    assert changed([head], LAYOUT).names == ("head",)
    assert changed([head, body], LAYOUT).names == ("body", "head")  # in their order
    assert changed([Selectors()], LAYOUT).digest == LAYOUT.digest
    assert changed([], LAYOUT).names == ()


def test_what_is_kept_or_not_sent_down_does_not_come_down() -> None:
    assert changed([Selectors(keep=("head",))], LAYOUT).names == ("body",)
    assert changed([Selectors(up=("lora",))], LAYOUT).names == ("body",)  # nobody changes the head
    assert changed([Selectors(down=("head",))], LAYOUT).names == ("head",)
    # Trained by all before it is kept: who comes new starts there.
    after = [Selectors(train=("head",)), Selectors(keep=("head",))]
    assert changed(after, LAYOUT).names == ("body", "head")


def test_a_model_comes_down_as_it_was_sent() -> None:
    part = changed([Selectors(train=("head",))], LAYOUT)
    payload = sent_down(PARAMS, Float32(), part, version=1)
    mine = Params(LAYOUT, np.zeros(5, dtype=np.float32))
    found, briefing = received(mine, Float32(), payload, part)
    assert not briefing
    assert found.vector.tolist() == [0.0, 0.0, 0.0, 4.0, 5.0]
    assert mine.vector.tolist() == [0.0] * 5
    with pytest.raises(CodecError, match="elements of layout"):
        received(mine, Float32(), payload, LAYOUT)


@pytest.mark.parametrize("codec", [Float32(), Int8()])
def test_a_part_of_the_rank_comes_down_as_that_and_the_rest_is_zero(codec: Codec) -> None:
    params = start(side=2)
    layout = params.layout
    part = Layout(tuple(spec for spec in layout if "v." not in spec.name))
    payload = sent_down(params, codec, part, version=1, rank=2)
    cut = of_rank(part, 2)
    assert codec.decode(payload, cut).layout == cut
    mine = Params(layout, np.ones(layout.size, dtype=np.float32))
    found, _ = received(mine, codec, payload, part, rank=2)
    assert np.array_equal(limited(found, 2).vector, found.vector)
    for spec in layout:
        came, sent = (layout.view(p.vector, spec.name) for p in (found, limited(params, 2)))
        if spec.name not in part:  # as it was, but for its rank
            assert np.array_equal(came, layout.view(limited(mine, 2).vector, spec.name))
        else:
            np.testing.assert_allclose(came, sent, atol=0.0 if codec.name == "float32" else 0.05)


def test_a_client_sends_the_rank_that_it_has_come_to_and_says_so() -> None:
    layout, task = start().layout, ClientTask("ann", 3, 2, rank=2)
    delta = np.ones(layout.size, dtype=np.float32)
    told = {"num_examples": 9, "metrics": {"loss": 7.0}, "cost": Cost(), "model": layout}
    for rank, sent, metrics in ((None, 2, {}), (1, 1, {"rank": 1.0})):
        found = client_update(task, layout, delta, Float32(), rank=rank, **told)  # type: ignore[arg-type]
        assert found.payload is not None
        assert Float32().decode(found.payload, of_rank(layout, sent)).vector.all()
        assert found.metrics == {"loss": 7.0, **metrics}


def test_the_same_version_is_the_same_bytes() -> None:
    frames = [sent_down(PARAMS, Int8(), LAYOUT, version=v).frame for v in (1, 1, 2)]
    assert frames[0] == frames[1]


def test_an_update_is_the_delta_and_its_cost() -> None:
    delta = np.array([1, 2, 3, 4, 5], dtype=np.float32)
    update = client_update(
        TASK,
        LAYOUT,
        delta,
        BFloat16(),
        num_examples=9,
        metrics={"loss": 0.5},
        cost=Cost(flops=4.0, bytes_up=99),
        model=LAYOUT,
    )
    assert update.payload is not None
    assert BFloat16().decode(update.payload, LAYOUT).vector.tolist() == [1, 2, 3, 4, 5]
    assert (update.client, update.round, update.num_examples) == ("ann", 3, 9)
    assert update.cost == Cost(flops=4.0, bytes_up=update.payload.nbytes)


def test_only_what_is_asked_for_goes_up() -> None:
    task = ClientTask("ann", 3, 2, selectors=Selectors(up=("head",)))
    delta = np.array([1, 2, 3, 4, 5], dtype=np.float32)
    found = client_update(
        task, LAYOUT, delta, Float32(), num_examples=9, metrics={}, cost=Cost(), model=LAYOUT
    ).payload
    assert found is not None
    assert Float32().decode(found, LAYOUT.select(("head",))).vector.tolist() == [4.0, 5.0]


def test_what_is_kept_does_not_go_up() -> None:
    task = ClientTask("ann", 3, 2, selectors=Selectors(keep=("head",)))
    delta = np.array([1, 2, 3, 4, 5], dtype=np.float32)
    found = client_update(
        task, LAYOUT, delta, Float32(), num_examples=9, metrics={}, cost=Cost(), model=LAYOUT
    ).payload
    assert found is not None
    assert Float32().decode(found, LAYOUT.select(("lora",))).vector.tolist() == [1.0, 2.0, 3.0]


def test_tensors_go_up_in_the_models_order() -> None:
    # What has a gradient stands before what moved along directions, whatever the model's order.
    parts = [LAYOUT.select((spec.name,)) for spec in LAYOUT]
    other = Layout.concat(reversed(parts))
    delta = other.gather(np.array([4, 5, 1, 2, 3], dtype=np.float32), other)
    found = client_update(
        TASK, other, delta, Float32(), num_examples=9, metrics={}, cost=Cost(), model=LAYOUT
    ).payload
    assert found is not None
    assert Float32().decode(found, LAYOUT).vector.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_delta_that_is_not_finite_is_not_sent() -> None:
    delta = np.array([1, 2, np.nan, 4, 5], dtype=np.float32)
    told = {"num_examples": 9, "metrics": {"loss": 7.0}, "cost": Cost(), "model": LAYOUT}
    update = client_update(TASK, LAYOUT, delta, Float32(), **told)  # type: ignore[arg-type]
    assert (update.payload, update.cost.bytes_up, update.metrics) == (None, 0, {"loss": 7.0})


def test_what_moved_far_away_stands_beside_what_came() -> None:
    head, body = Layout((HEAD,)), Layout((BODY,))
    came = Delta(head, np.array([1, 2], dtype=np.float32))
    far = Delta(body, np.array([3, 4, 5], dtype=np.float32))
    update = ClientUpdate("ann", 3, 9)
    both = with_far(update, came, far).delta
    assert both is not None
    assert (both.layout.names, both.vector.tolist()) == (("head", "body"), [1, 2, 3, 4, 5])
    assert with_far(update, came, None).delta is came
