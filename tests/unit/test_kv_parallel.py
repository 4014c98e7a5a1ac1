"""FedPerfix's branch against its formula, and the tensors that it has."""

import numpy as np
import pytest
import torch

from fedloom.backbones.base import Linear
from fedloom.core.errors import ConfigError
from fedloom.core.layout import Layout
from fedloom.core.types import Params
from fedloom.tuning.base import Catalog, Frozen
from fedloom.tuning.kv_parallel import KvParallel, KvPart
from fedloom.tuning.store import Store

K, LENGTH, WIDTH, MID, SCALE = 3, 5, 6, 2, 1.5
NAMES = ("query", "key", "value")


def catalog(family: str = "bert", names: tuple[str, ...] = NAMES, wide: int = 1) -> Catalog:
    linears = tuple(
        Linear(f"layer.{i}.self.{name}", f"layer.{i}", WIDTH, wide * WIDTH)
        for i in range(2)
        for name in names
    )
    blocks = ("layer.0", "layer.1", "head")
    return Catalog(family, linears, (), blocks, lambda name: Frozen(torch.zeros(1), None))


def parts(made: Catalog | None = None, **options: object) -> list[KvPart]:
    adapter = KvParallel(mid=MID, **options)  # type: ignore[arg-type]
    found = [part for part in adapter.parts(made or catalog()) if isinstance(part, KvPart)]
    assert found
    return found


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_keys_and_values_share_the_map_down() -> None:
    shapes = {s.name: s.shape for part in parts(layers=(1,)) for s in part.specs}
    assert shapes == {
        "layer.1.self.kv.down.weight": (MID, WIDTH),
        "layer.1.self.kv.down.bias": (MID,),
        "layer.1.self.kv.up.key.weight": (WIDTH, MID),
        "layer.1.self.kv.up.key.bias": (WIDTH,),
        "layer.1.self.kv.up.value.weight": (WIDTH, MID),
        "layer.1.self.kv.up.value.bias": (WIDTH,),
    }
    tags = {tag for part in parts() for spec in part.specs for tag in spec.tags}
    assert tags == {"kv", "personal"}


def test_one_map_of_all_three_gets_keys_and_values() -> None:
    (part, _) = parts(catalog("gpt2", ("c_attn",), wide=3))
    assert part.specs[2].shape == (2 * WIDTH, MID)


def test_it_starts_as_the_identity_and_the_same_everywhere() -> None:
    for part in parts():
        start = part.initial(5)
        assert part.is_identity(start)
        assert all(np.array_equal(t, part.initial(5)[n]) for n, t in start.items())
        moved = {n: t + np.float32(n.endswith("up.value.bias")) for n, t in start.items()}
        assert part.is_identity(moved) == (part.linear.name.rpartition(".")[2] != "value")
    bound = 1 / WIDTH**0.5
    down = parts()[0].initial(5)["layer.0.self.kv.down.weight"]
    assert 0.1 * bound < np.abs(down).max() <= bound


def test_the_formula_and_its_gradients() -> None:
    key, value = parts(layers=(0,))
    layout = Layout((*key.specs, *value.specs))
    store = Store(Params(layout, drawn(layout.size, seed=1).numpy()), ("*",), clients=K)
    store.values.add_(0.5 * drawn(*store.values.shape, seed=2))
    leaves = {n: store.view(n).clone().requires_grad_() for n in layout.names}
    x, y, dy = (drawn(K, LENGTH, WIDTH, seed=s) for s in (3, 4, 5))
    x_leaf = x.clone().requires_grad_()

    def branch(which: str) -> torch.Tensor:
        base = "layer.0.self.kv"
        down, up = leaves[f"{base}.down.weight"], leaves[f"{base}.up.{which}.weight"]
        inner = torch.einsum("kld,krd->klr", x_leaf, down) + leaves[f"{base}.down.bias"][:, None]
        out = torch.einsum("klr,kwr->klw", inner.tanh(), up)
        return y + SCALE * (out + leaves[f"{base}.up.{which}.bias"][:, None])

    (branch("key") * dy + branch("value") * 2 * dy).sum().backward()
    dx = torch.zeros_like(x)
    for part, factor in ((key, 1.0), (value, 2.0)):
        attachment = part.attach(store)
        out, saved = attachment.forward(x, y.clone())
        want = branch(part.linear.name.rpartition(".")[2])
        torch.testing.assert_close(out, want.detach(), rtol=1e-5, atol=2e-6)
        through, add = attachment.backward(saved, factor * dy)
        assert torch.equal(through, factor * dy)
        assert add is not None
        dx = add(dx)
    assert x_leaf.grad is not None
    torch.testing.assert_close(dx, x_leaf.grad, rtol=1e-5, atol=1e-5)
    for name, leaf in leaves.items():
        found = store.grad_view(name)
        assert found is not None
        assert leaf.grad is not None
        torch.testing.assert_close(found, leaf.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("option", "value"), [("mid", 0), ("scale", 0.0)])
def test_bad_options(option: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"adapter\.{option}"):
        KvParallel(**{option: value})  # type: ignore[arg-type]


def test_a_family_whose_keys_are_not_known() -> None:
    with pytest.raises(ConfigError, match="no default for 'opt' models; name the modules of keys"):
        parts(catalog("opt"))
    assert len(parts(catalog("opt"), targets=("key", "value"))) == 4
