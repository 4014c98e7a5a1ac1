"""Rounds of LoRA without a model: two modules, a head, and what clients have come to."""

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np

from fedloom.core.component import Component, Option
from fedloom.core.layout import Layout, TensorSpec, Vector
from fedloom.core.ranks import cut_to, limited, of_rank
from fedloom.core.registry import create
from fedloom.core.types import ClientUpdate, Delta, Params, State
from fedloom.strategies.base import Strategy
from fedloom.strategies.lora.algebra import Matrix

MODULES = {"q": (6, 5), "v": (4, 5)}
EXAMPLES = (10, 30, 20, 40)
RANK = 3
WHOLE: tuple[int | None, ...] = (None, None, None, None)
MIXED: tuple[int | None, ...] = (1, 2, None, 2)
ROOM = 9
"""No product of the small modules has a higher rank than 5: nothing is cut off."""


def strategy(name: str, **options: Option) -> Strategy:
    """A built-in strategy."""
    return cast(Strategy, create("strategies", Component(name, options)))


def tensors(params: Params) -> dict[str, Matrix]:
    """A model's tensors by name, float64."""
    found = params.layout.unflatten(params.vector)
    return {name: tensor.astype(np.float64) for name, tensor in found.items()}


def layout_of(side: int = 0, rank: int = RANK) -> Layout:
    """LoRA on two modules, what the server has beside it, and a head."""
    specs = []
    for name, (d_out, d_in) in MODULES.items():
        tags = frozenset({"lora"})
        specs.append(TensorSpec(f"{name}.lora_A.weight", (rank, d_in), "layer.0", tags | {"A"}))
        specs.append(TensorSpec(f"{name}.lora_B.weight", (d_out, rank), "layer.0", tags | {"B"}))
        if side:
            own = frozenset({"side"})
            specs.append(TensorSpec(f"{name}.side_A", (side, d_in), "layer.0", own))
            specs.append(TensorSpec(f"{name}.side_B", (d_out, side), "layer.0", own))
    head = TensorSpec("classifier.weight", (3, 4), "head", frozenset({"head"}))
    return Layout((*specs, head))


def start(side: int = 0, seed: int = 0, *, trained: bool = True) -> Params:
    """A model; one that has been trained has no zero in its pairs."""
    layout, rng = layout_of(side), np.random.default_rng(seed)
    vector = rng.normal(size=layout.size).astype(np.float32)
    for spec in layout:
        if "side" in spec.tags or ("B" in spec.tags and not trained):
            layout.view(vector, spec.name)[...] = 0
    return Params(layout, vector)


def locals_of(
    params: Params, ranks: Sequence[int | None], seed: int = 1, spread: float = 1.0
) -> list[Params]:
    """What clients of some ranks come to: the model as they have it, and noise where they train."""
    rng, found = np.random.default_rng(seed), []
    for rank in ranks:
        noise = spread * rng.normal(size=params.layout.size).astype(np.float32)
        for spec in params.layout:
            if not spec.trains:
                noise[params.layout.span(spec.name)] = 0
        mine = limited(params, rank)
        moved = Params(params.layout, mine.vector + noise)
        found.append(limited(moved, rank))
    return found


def updates_of(
    params: Params, local: Sequence[Params], ranks: Sequence[int | None]
) -> list[ClientUpdate]:
    """What such clients send."""
    found = []
    sent = Layout(tuple(spec for spec in params.layout if spec.trains))
    for i, (mine, rank) in enumerate(zip(local, ranks, strict=True)):
        change = Delta(sent, mine.only(sent).vector - limited(params, rank).only(sent).vector)
        delta = cut_to(change, rank)
        assert delta.layout == of_rank(sent, rank)
        found.append(ClientUpdate(f"c{i}", 1, EXAMPLES[i], delta=delta))
    return found


def applied(
    strategy: Strategy, params: Params, updates: Sequence[ClientUpdate]
) -> tuple[State, Mapping[str, float]]:
    """The state after one round."""
    state, total = strategy.init(params), None
    for update in updates:
        total = strategy.accumulate(total, update)
    return strategy.apply(state, total)


def product(params: Params, module: str) -> Matrix:
    """What a module adds to the frozen weight, without its scaling: ``B A + side_B side_A``."""
    own = tensors(params)
    found: Matrix = own[f"{module}.lora_B.weight"] @ own[f"{module}.lora_A.weight"]
    if f"{module}.side_A" in own:
        found = found + own[f"{module}.side_B"] @ own[f"{module}.side_A"]
    return found


def ideal(local: Sequence[Params], module: str) -> Matrix:
    """``sum p_k B_k A_k``."""
    whole = sum(EXAMPLES[: len(local)])
    parts = (n / whole * product(p, module) for n, p in zip(EXAMPLES, local, strict=False))
    found: Matrix = sum(parts, np.zeros(MODULES[module]))
    return found


def error(after: Params, local: Sequence[Params]) -> float:
    """How far a model is from the mean of the clients' products, relative to it."""
    pairs = [(product(after, m), ideal(local, m)) for m in MODULES]
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs)


def head(params: Params) -> Vector:
    """The head's numbers."""
    return params.layout.view(params.vector, "classifier.weight")
