"""QA-LoRA: its gradients, and that it merges into a stored weight whose codes stay."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fedloom.backbones.base import Linear
from fedloom.backbones.formats import SCHEMES
from fedloom.backbones.quantize import quantize
from fedloom.backbones.schemes import Packed, pack
from fedloom.core.errors import ConfigError
from fedloom.core.layout import Layout
from fedloom.core.registry import Component
from fedloom.core.types import Params
from fedloom.tuning.attach import attach
from fedloom.tuning.base import Catalog, Frozen, Task
from fedloom.tuning.build import build_model
from fedloom.tuning.qa_lora import QaLora, QaLoraPart
from fedloom.tuning.store import Store

K, LENGTH, D_IN, D_OUT, RANK, SCALING = 3, 5, 128, 7, 2, 0.5
LINEAR = Linear("layer.0.up", "layer.0", D_IN, D_OUT)


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def part(group: int) -> QaLoraPart:
    return QaLoraPart(LINEAR, D_IN // group, RANK, SCALING)


def rows(one: QaLoraPart) -> Store:
    layout = Layout(one.specs)
    store = Store(Params(layout, drawn(layout.size, seed=1).numpy()), ("*",), clients=K)
    store.values.add_(drawn(*store.values.shape, seed=2))
    return store


def products(store: Store, one: QaLoraPart) -> tuple[Tensor, Tensor]:
    a, b = (store.view(spec.name).clone().requires_grad_() for spec in one.specs)
    return a, b


@pytest.mark.parametrize("group", [32, 64])
def test_it_is_a_low_rank_change_of_groups(group: int) -> None:
    one = part(group)
    store = rows(one)
    a, b = products(store, one)
    x, dy = drawn(K, LENGTH, D_IN, seed=3), drawn(K, LENGTH, D_OUT, seed=4)
    y = drawn(K, LENGTH, D_OUT, seed=5)
    leaf = x.clone().requires_grad_()
    # A's column of a group stands for every input of it: a LoRA whose A is repeated.
    expected = y + SCALING * leaf @ a.repeat_interleave(group, -1).mT @ b.mT
    (expected * dy).sum().backward()
    own = x.clone().requires_grad_()
    found = attach(own, y, one.attach(store), store.anchor)
    (found * dy).sum().backward()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    for mine, other in ((own, leaf), *zip(_grads(store, one), (a, b), strict=True)):
        grad = mine.grad if mine is own else mine
        torch.testing.assert_close(grad, other.grad, rtol=1e-4, atol=1e-3)


def _grads(store: Store, one: QaLoraPart) -> list[Tensor]:
    found = [store.grad_view(spec.name) for spec in one.specs]
    return [grad for grad in found if grad is not None]


def merged(packed: Packed, change: Tensor) -> Packed:
    """The same codes and scales with one number added in each group: ``s B A``."""
    scheme = SCHEMES[f"uint4-{packed.scheme.group}"]
    scale = packed.scale.float()
    low = (packed.least.float() if packed.least is not None else -8 * scale) + change
    return Packed(scheme, packed.codes, packed.scale, low)


@pytest.mark.parametrize("name", ["int4-32", "int4-128", "uint4-64"])
def test_it_merges_and_the_codes_stay(name: str) -> None:
    packed = pack(drawn(D_OUT, D_IN, seed=6), SCHEMES[name])
    one = part(packed.scheme.group)
    store = rows(one)
    a, b = products(store, one)
    x = drawn(K, LENGTH, D_IN, seed=3)
    out, _ = one.attach(store).forward(x, x @ packed.whole().t())
    for client in range(K):
        whole = merged(packed, SCALING * b[client].detach() @ a[client].detach())
        assert torch.equal(whole.codes, packed.codes)
        assert torch.equal(whole.scale, packed.scale)
        torch.testing.assert_close(out[client], x[client] @ whole.whole().t(), rtol=1e-4, atol=1e-3)


def test_a_symmetric_format_has_no_place_for_it() -> None:
    # A change of less than half a step, as training makes: with the same scales and no least
    # values the nearest matrix is the one from before, and all of the change is lost.
    packed = pack(drawn(D_OUT, D_IN, seed=6), SCHEMES["int4-32"])
    change = 0.4 * packed.scale.float().abs() * drawn(D_OUT, D_IN // 32, seed=7).tanh()
    whole = merged(packed, change).whole()
    steps = whole.view(D_OUT, -1, 32) / packed.scale.float()[..., None]
    kept = (steps.round().clamp(-8, 7) * packed.scale.float()[..., None]).flatten(1)
    assert torch.equal(kept, packed.whole())
    assert float((kept - whole).norm() / whole.norm()) > 0.01


def test_it_starts_as_the_identity() -> None:
    one = part(32)
    start = one.initial(3)
    assert one.is_identity(start)
    assert {s.name: s.shape for s in one.specs} == {
        "layer.0.up.qa_lora_A.weight": (RANK, D_IN // 32),
        "layer.0.up.qa_lora_B.weight": (D_OUT, RANK),
    }
    assert np.abs(start[one.specs[0].name]).max() <= D_IN**-0.5


def test_it_needs_integers_in_groups() -> None:
    def catalog(name: str) -> Catalog:
        packed = pack(drawn(D_OUT, D_IN, seed=6), SCHEMES[name])
        frozen = Frozen(torch.zeros(1), None)
        return Catalog(
            "bert", (LINEAR,), (), ("layer.0",), lambda name: frozen, lambda name: packed
        )

    assert len(QaLora().parts(catalog("q8_0"))) == 1
    for name in ("int8", "nf4-64"):
        with pytest.raises(ConfigError, match=f"stored as {name}; it needs integers in groups"):
            QaLora().parts(catalog(name))


def test_a_model_has_it(model_folder: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    folder = model_folder["llama", "AutoModelForCausalLM"]
    with pytest.raises(ConfigError, match=r"intermediate|down_proj|48"):
        quantize(folder, tmp_path / "odd", SCHEMES["int4-32"])  # 48 inputs are no whole groups
    folder = quantize(model_folder["bert", "AutoModel"], tmp_path / "small", SCHEMES["int4-32"])
    task, cpu = Task("classify", 3), torch.device("cpu")
    model = build_model(
        folder, Component("qa-lora", {"rank": 4}), task, dtype=torch.float32, device=cpu
    )
    widths = {s.name.rpartition(".qa")[0][-12:]: s.shape[1] for s in model.layout if "A" in s.tags}
    assert widths["output.dense"] in (1, 2)  # 32 or 64 inputs
    assert set(widths.values()) == {1, 2}
