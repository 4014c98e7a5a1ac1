"""FedPerfix's model: shared layers in full, and beside them what each client keeps."""

import numpy as np
import pytest
from cohorts import CASES, Folders, Ragged, apart, train_at_once, train_one_by_one

from fedloom.core.errors import ConfigError
from fedloom.core.registry import Component, create
from fedloom.core.types import LocalWork, Selectors

WORK = LocalWork(epochs=1, batch_size=4, lr=0.05, momentum=0.9)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_both_engines_at_once_and_alone(model_folder: Folders, ragged: Ragged, name: str) -> None:
    case, adapter = CASES[name], Component("fedperfix", {"mid": 4, "layers": (-1,)})
    examples = case.examples(ragged)
    fused = case.build(model_folder, adapter, engine="fused")
    generic = case.build(model_folder, adapter, engine="transformers")
    assert fused.layout == generic.layout
    np.testing.assert_array_equal(fused.initial(3).vector, generic.initial(3).vector)
    alone = train_one_by_one(fused, examples, WORK)
    assert apart(train_at_once(fused, examples, WORK), alone) < 1e-5
    assert apart(train_at_once(generic, examples, WORK), alone) < 1e-5


def test_the_layer_is_sent_and_the_adapter_and_the_head_are_kept(model_folder: Folders) -> None:
    adapter = Component("fedperfix", {"mid": 4, "layers": (-1,)})
    layout = CASES["bert"].build(model_folder, adapter).layout
    selectors = Selectors(keep=("kv", "head"))
    sent, kept = selectors.sent(layout), selectors.kept(layout)
    assert sent.names == layout.select(("full",)).names
    assert {spec.block for spec in sent} == {"layer.2"}
    assert sent.size + kept.size == layout.size


def test_options_are_looked_at() -> None:
    with pytest.raises(ConfigError, match=r"adapter\.mid = 0: .*1 or more"):
        create("adapters", Component("fedperfix", {"mid": 0}))
