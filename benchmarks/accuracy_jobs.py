"""The jobs of the accuracy benchmark: data sets, methods, and how long each runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

__all__ = ["DATA", "METHODS", "Asked", "Method", "settings_of"]

FILES = Path(__file__).resolve().parent.parent / "examples" / "data"
LORA = {"name": "lora", "rank": 4, "layers": [-1]}
BACKBONE = {
    "normalize": True,
    "pooling": "mean",
    "max_tokens": 48,
    "dtype": "float32",
}

DATA: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "topic": {
            "path": str(FILES / "debpkg-topic.jsonl.gz"),
            "text": "text",
            "label": "topic",
            "client": "client",
            "split": "split",
            "max_examples": 64,
        },
        "sentiment": {
            "path": str(FILES / "sentiment.jsonl.gz"),
            "text": "text",
            "label": "label",
            "client": "client",
            "split": "split",
        },
    }
)


@dataclass(frozen=True)
class Asked:
    """What is run.

    Attributes:
        data: name of the data set.
        method: name of the method.
        seed: of the run.
        rounds: of this method.
        points: evaluations on the way.
        max_test: test examples at most; 0 for all.
        model: folder of the backbone.
        device: ``cpu`` or ``cuda``.
    """

    data: str
    method: str
    seed: int
    rounds: int
    points: int
    max_test: int
    model: str
    device: str


@dataclass(frozen=True)
class Method:
    """One way of training.

    Attributes:
        label: in the tables.
        recipe: packaged configuration; empty for the defaults.
        rounds: as a multiple of the backpropagation's.
        bits: of the backbone's weights; 32 for the model as it is.
        spare: forward passes of a client's round that only measure and are not counted.
        settings: by dotted key.
    """

    label: str
    recipe: str
    rounds: float
    bits: int = 32
    spare: float = 0.0
    settings: Mapping[str, Any] = field(default_factory=dict)


def _fwdllm(which: str, rate: float) -> Method:
    """FwdLLM with as many forward passes as `zeroth-order`.

    Of that, 50 clients take 17 in a round; of this, 100 take 2: what our learner adds, the loss
    where a client stands, is for its own measurements and is spared. So 3 x 850 / 200 times the
    rounds of backpropagation. Batches are as large as the others'; rank and layer are, too.
    """
    own = {"adapter": LORA, "local.batch_size": 64, "strategy.lr": rate}
    return Method(f"`fwdllm`, {which}", "fwdllm", 12.75, spare=1.0, settings=own)


BACKPROP: dict[str, Any] = {
    "adapter": LORA,
    "clients_per_round": 50,
    "train": ["head", "lora"],
    "local": {"optimizer": "sgd", "lr": 1.0, "head_lr": 0.2, "steps": 1, "batch_size": 64},
    "strategy": {"name": "fedavgm", "momentum": 0.8},
}
METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "backprop": Method("LoRA by backpropagation", "", 1, settings=BACKPROP),
        "backprop-slow": Method(
            "LoRA by backpropagation, a tenth of the rate",
            "",
            1,
            settings={**BACKPROP, "local": {**BACKPROP["local"], "lr": 0.1}},
        ),
        "head": Method(
            "the head alone",
            "",
            1,
            settings={**BACKPROP, "adapter": {"name": "head"}, "train": ["head"]},
        ),
        "zeroth-order": Method("`zeroth-order`", "zeroth-order", 3),
        "fwdllm": _fwdllm("as the recipe has it", 0.01),
        "fwdllm-10": _fwdllm("ten times the rate", 0.1),
        "fwdllm-100": _fwdllm("a hundred times the rate", 1.0),
        "int8": Method("`zeroth-order`, int8 backbone", "zeroth-order", 3, bits=8),
        "int4": Method("`zeroth-order`, int4 backbone", "zeroth-order", 3, bits=4),
    }
)


def settings_of(data: str, method: Method, **own: object) -> dict[str, object]:
    """What a method is run with: the data, the backbone, and what the method says itself.

    Args:
        data: name of the data set.
        method: the method.
        **own: ``seed``, ``rounds`` and the like.
    """
    found: dict[str, object] = {"partition": "natural", "data": dict(DATA[data])}
    found |= {f"backbone.{key}": value for key, value in BACKBONE.items()}
    found |= {"run.checkpoint_every": 1000, "run.cache_gb": 4.0, "run.memory_gb": 6.0}
    return found | dict(method.settings) | own
