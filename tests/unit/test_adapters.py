import math

import pytest
import torch

from fedloom.backbones.base import Linear
from fedloom.core.component import Option
from fedloom.core.errors import ConfigError
from fedloom.core.registry import Component, create
from fedloom.tuning.adapters import BitFit, Bottleneck, HeadOnly, Ia3
from fedloom.tuning.base import Catalog, Frozen
from fedloom.tuning.lora import Lora
from fedloom.tuning.parts import LoraPart

WIDTHS = {
    "attention.self.query": (8, 8),
    "attention.self.key": (8, 8),
    "attention.self.value": (8, 8),
    "attention.output.dense": (8, 8),
    "intermediate.dense": (8, 16),
    "output.dense": (16, 8),
}


def bert(family: str = "bert", *, biased: bool = True) -> Catalog:
    """Three layers of a BERT-like backbone with a pooler and a head."""
    linears = [
        Linear(f"bert.encoder.layer.{i}.{name}", f"layer.{i}", *widths)
        for i in range(3)
        for name, widths in WIDTHS.items()
    ]
    linears += [Linear("bert.pooler.dense", "pooler", 8, 8), Linear("classifier", "head", 8, 2)]
    norms = [
        Linear(f"bert.encoder.layer.{i}.output.LayerNorm", f"layer.{i}", 8, 8) for i in range(3)
    ]
    widths = {linear.name: linear.d_out for linear in (*linears, *norms)}
    return Catalog(
        family,
        tuple(linears),
        tuple(norms),
        ("layer.0", "layer.1", "layer.2", "head"),
        lambda name: Frozen(torch.zeros(1), torch.zeros(widths[name]) if biased else None),
    )


def modules(adapter: object, catalog: Catalog | None = None) -> list[str]:
    assert isinstance(adapter, Lora | Ia3 | BitFit | Bottleneck | HeadOnly)
    parts = adapter.parts(catalog or bert())
    return [part.module.removeprefix("bert.encoder.layer.") for part in parts]


def test_lora_goes_to_queries_and_values() -> None:
    assert modules(Lora()) == [
        f"{i}.attention.self.{name}" for i in range(3) for name in ("query", "value")
    ]


def test_layers_are_chosen_from_the_bottom_or_the_top() -> None:
    assert modules(Lora(targets=("key",), layers=(0, -1))) == [
        "0.attention.self.key",
        "2.attention.self.key",
    ]


def test_a_target_is_the_end_of_a_module_path() -> None:
    assert modules(Lora(targets=("output.dense",), layers=(1,))) == [
        "1.attention.output.dense",
        "1.output.dense",
    ]
    assert modules(Lora(targets=("attention.output.dense",), layers=(1,))) == [
        "1.attention.output.dense"
    ]


def test_all_linear_leaves_pooler_and_head_out() -> None:
    assert len(modules(Lora(targets=("all-linear",)))) == 3 * len(WIDTHS)


def test_scaling_of_lora() -> None:
    def scaling(adapter: Lora) -> float:
        part = adapter.parts(bert())[0]
        assert isinstance(part, LoraPart)
        return part.scaling

    assert scaling(Lora(rank=4)) == 2  # alpha is twice the rank unless it is given
    assert scaling(Lora(rank=4, alpha=4)) == 1
    assert scaling(Lora(rank=4, alpha=4, rslora=True)) == 4 / math.sqrt(4)


def ranks(adapter: Lora) -> list[tuple[int, float]]:
    parts = adapter.parts(bert())
    assert all(isinstance(part, LoraPart) for part in parts)
    return [(p.rank, p.scaling) for p in parts if isinstance(p, LoraPart)]


def test_layers_of_a_rank_of_their_own() -> None:
    lower = ((1, 2), (-1, 3))
    one = (("query",), (), False, lower)
    # alpha / r of each layer: 8 / 4, 8 / 2, 8 / 3; twice the layer's own rank without alpha.
    assert ranks(Lora(4, 8.0, *one)) == [(4, 2.0), (2, 4.0), (3, 8 / 3)]
    assert ranks(Lora(4, 0.0, *one)) == [(4, 2.0), (2, 2.0), (3, 2.0)]
    rooted = ranks(Lora(4, 8.0, ("query",), (), True, lower))
    assert rooted == [(4, 4.0), (2, 8 / math.sqrt(2)), (3, 8 / math.sqrt(3))]
    a, b = Lora(4, ranks=lower).parts(bert())[2].specs  # the query of layer 1
    assert (a.shape, b.shape) == ((2, 8), (8, 2))


def test_peft_s_patterns_name_what_has_a_rank_of_its_own() -> None:
    config = Lora(rank=4, targets=("query",), ranks=((0, 4), (1, 2))).peft_config(bert())
    name = "bert.encoder.layer.1.attention.self.query"
    assert (config["rank_pattern"], config["alpha_pattern"]) == ({name: 2}, {name: 4.0})
    assert config["r"] == 4
    assert "rank_pattern" not in Lora(rank=4).peft_config(bert())


def test_ia3_scales_outputs_and_inputs_in_the_models_order() -> None:
    parts = Ia3(layers=(0,)).parts(bert())
    assert [(part.module.rpartition("layer.0.")[2], part.before) for part in parts] == [
        ("attention.self.key", False),
        ("attention.self.value", False),
        ("attention.output.dense", True),
        ("output.dense", True),
    ]


def test_ia3_a_module_that_is_named_twice_is_scaled_at_its_input() -> None:
    (part,) = Ia3(targets=("value",), feedforward=("value",), layers=(0,)).parts(bert())
    assert part.before


def test_bitfit_trains_every_bias_of_the_chosen_layers() -> None:
    names = modules(BitFit(layers=(1,)))
    assert names == [f"1.{name}" for name in WIDTHS] + ["1.output.LayerNorm"]
    assert modules(BitFit(layers=(1,), norms=False)) == [f"1.{name}" for name in WIDTHS]


def test_bitfit_on_a_backbone_without_biases() -> None:
    with pytest.raises(ConfigError, match="bitfit: 'llama' models have no biases to train"):
        BitFit().parts(bert("llama", biased=False))


def test_bottleneck_follows_the_feed_forward_output_only() -> None:
    assert modules(Bottleneck()) == [f"{i}.output.dense" for i in range(3)]
    houlsby = Bottleneck(targets=("attention.output.dense", "output.dense"), layers=(0,))
    assert modules(houlsby) == ["0.attention.output.dense", "0.output.dense"]


def test_head_only_attaches_nothing() -> None:
    assert modules(HeadOnly()) == []
    assert HeadOnly().peft_config(bert()) == {}


def test_affine_adapters() -> None:
    adapters = (Lora(), Ia3(), BitFit(), Bottleneck(), HeadOnly())
    assert [adapter.affine for adapter in adapters] == [False, True, True, False, True]


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        (Lora(targets=("qury",)), "no module 'qury'; known: dense, .* did you mean 'query'"),
        (Lora(layers=(3,)), "adapter.layers = 3: the backbone has layers 0 to 2"),
        (Lora(ranks=((3, 4),)), "adapter.ranks: layer = 3: the backbone has layers 0 to 2"),
        (Lora(ranks=((2, 4), (-1, 3))), "adapter.ranks: layer = -1: each layer once"),
        (Lora(layers=(0,), ranks=((1, 4),)), "layer = 1: each layer once, of those with an adap"),
        (Ia3(layers=(-4,)), "adapter.layers = -4: the backbone has layers 0 to 2"),
        (BitFit(layers=(7,)), "adapter.layers = 7: the backbone has layers 0 to 2"),
        (Bottleneck(targets=("classifier",)), "no module 'classifier'"),
    ],
)
def test_what_does_not_fit_the_backbone(adapter: Lora | Ia3 | BitFit, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        adapter.parts(bert())


@pytest.mark.parametrize("adapter", [Lora(), Ia3(), Bottleneck()])
def test_a_family_without_defaults_needs_targets(adapter: Lora | Ia3 | Bottleneck) -> None:
    with pytest.raises(ConfigError, match="no default for 'mamba' models; name modules such as"):
        adapter.parts(bert("mamba"))
    assert modules(Lora(targets=("query",)), bert("mamba"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lora", {"rank": 0}, "adapter.rank = 0: 1 or more"),
        ("lora", {"alpha": -1.0}, "adapter.alpha = -1.0"),
        ("bottleneck", {"width": 0}, "adapter.width = 0: 1 or more"),
        ("lora", {"rnk": 4}, "unknown option 'rnk'; .*did you mean 'rank'"),
        ("lora", {"ranks": 4}, "adapters.lora.ranks = 4: expected a list"),
        ("lora", {"ranks": (2, 4)}, r"adapters.lora.ranks\[0\] = 2: expected a list"),
        ("lora", {"ranks": ((2, 4, 1),)}, r"ranks\[0\] = \(2, 4, 1\): expected 2 values"),
        ("lora", {"ranks": ((2, 9),)}, "adapter.ranks of layer 2 = 9: 1 to adapter.rank = 8"),
        ("lora", {"ranks": ((2, 0),)}, "adapter.ranks of layer 2 = 0: 1 to adapter.rank = 8"),
    ],
)
def test_options_are_checked(name: str, options: dict[str, Option], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create("adapters", Component(name, options))


def test_peft_config_names_modules_in_full() -> None:
    config = Lora(rank=4, layers=(-1,)).peft_config(bert())
    assert config["target_modules"] == [
        "bert.encoder.layer.2.attention.self.query",
        "bert.encoder.layer.2.attention.self.value",
    ]
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (4, 8.0, "LORA")
    feed = Ia3(layers=(0,)).peft_config(bert())["feedforward_modules"]
    assert feed == [
        "bert.encoder.layer.0.attention.output.dense",
        "bert.encoder.layer.0.output.dense",
    ]
