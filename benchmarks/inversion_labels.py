"""Attack: which label has a text whose gradient goes up, right below the head or further down?

The attacker runs the far side. One attacker looks at the gradients alone; the other also knows the
model that the round began with, which is the server's own.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedloom.backbones.base import Packing
from fedloom.backbones.lengths import lengths_of
from fedloom.core.split import SplitConfig
from fedloom.core.types import LocalWork, Params
from fedloom.tuning.activation_codecs import codec_named
from fedloom.tuning.cut import Cut
from fedloom.tuning.examples import TextExamples
from fedloom.tuning.fused_model import FusedModel
from fedloom.tuning.guard import guarded
from fedloom.tuning.learners.backprop import Backprop
from fedloom.tuning.learners.local_batches import local_batches
from fedloom.tuning.learning import Assignment
from fedloom.tuning.near import Codecs, NearStage
from fedloom.tuning.noise import SeededNoise
from fedloom.tuning.ordering import StageOptions
from fedloom.tuning.readout import losses_at
from fedloom.tuning.split_session import SplitSession
from fedloom.tuning.stage import Stage
from fedloom.tuning.targets import Places
from inversion_watch import Watching

__all__ = ["label_shares"]

ALL = ("*",)
WORK = LocalWork(optimizer="adamw", lr=0.003, batch_size=16)
PLAIN = codec_named("float32")


def label_shares(
    model: FusedModel,
    params: Params,
    examples: TextExamples,
    clients: list[NDArray[np.int64]],
    config: SplitConfig,
) -> tuple[float, float]:
    """The share of labels found from the gradients of one round of local training.

    Args:
        model: the whole model.
        params: where the round begins.
        examples: all examples.
        clients: rows of each client attacked; 16 or 32, so that its steps are one or two.
        config: the cut, and the defence.

    Returns:
        By the first singular direction of the gradients (the better way to name its two sides),
        and by comparing them with those that each label would give.
    """
    blind, knowing, truth = list[Tensor](), list[Tensor](), list[NDArray[np.int64]]()
    cut = Cut(config.bottom, model.depth - config.top)
    for number, rows in enumerate(clients):
        own = Assignment(f"attacked-{number}", rows, round=1, seed=number)
        watching = _watched(model, params, examples, cut, config, own)
        guesser = SplitSession(model, params, ALL, examples, cut=cut, fars=[watching])
        for step, batch in enumerate(local_batches(own, WORK), start=1):
            assert examples.labels is not None
            truth.append(examples.labels[batch])
            grad, packing = watching.gradients[step], watching.packings[step]
            blind.append(torch.stack([g.mean(0) for g in _texts(grad, packing)]))
            guesses = _candidates(model, params, guesser, cut, watching.sent[step], packing)
            likeness = [_likeness(grad, guess, packing) for guess in guesses]
            knowing.append(torch.stack(likeness, 1).argmax(1))
    labels = torch.from_numpy(np.concatenate(truth))
    side = _first_direction(torch.cat(blind)) > 0
    agree = float((side.long() == labels).float().mean())
    return max(agree, 1 - agree), float((torch.cat(knowing) == labels).float().mean())


def _watched(
    model: FusedModel,
    params: Params,
    examples: TextExamples,
    cut: Cut,
    config: SplitConfig,
    own: Assignment,
) -> Watching:
    """A client's local training, as its far side sees it."""
    stage = Stage(model, params, ALL, WORK, cut=cut, options=StageOptions("v1"))
    near = NearStage(stage, (own.client,), Codecs(PLAIN, PLAIN))
    watching = Watching(near, config.codec_up)
    far = guarded(watching, config, SeededNoise(own.seed, own.round, (own.client,)))
    session = SplitSession(model, params, ALL, examples, cut=cut, fars=[far])
    Backprop().train(session, params, WORK, [own])
    return watching


def _candidates(
    model: FusedModel,
    params: Params,
    session: SplitSession,
    cut: Cut,
    sent: Tensor,
    packing: Packing,
) -> Iterator[Tensor]:
    """The gradient that would come up if all texts had a label, for each label."""
    side, b = model.holding(cut.home(model.depth)), packing.examples
    for label in range(model.task.classes):
        store = session.store(params, 1)
        hidden = sent.detach().clone().requires_grad_()
        sites = side.relative(store.sites)
        above = side.backbone.run(hidden, packing, first=cut.last, sites=sites)
        places = Places(np.arange(b), np.full(b, label), np.zeros(b, np.int64))
        losses_at(side, store, above, packing, places).loss.sum().backward()
        assert hidden.grad is not None
        yield hidden.grad


def _likeness(grad: Tensor, guess: Tensor, packing: Packing) -> Tensor:
    """Cosines ``[b]`` of what came and what would have, text by text."""
    pairs = zip(_texts(grad, packing), _texts(guess, packing), strict=True)
    found = [torch.cosine_similarity(a.flatten(), b.flatten(), dim=0) for a, b in pairs]
    return torch.stack(found)


def _texts(values: Tensor, packing: Packing) -> tuple[Tensor, ...]:
    """One client's tokens ``[1, L, d]`` text by text."""
    (own,) = lengths_of(packing).tokens
    return torch.split(values[0, : sum(own)], list(own))


def _first_direction(vectors: Tensor) -> Tensor:
    """Where vectors ``[n, d]`` lie along the direction in which they are longest."""
    right: Tensor = torch.linalg.svd(vectors, full_matrices=False).Vh
    return vectors @ right[0]
