"""The sequences of a measurement, and what padding makes of them."""

import numpy as np
from numpy.typing import NDArray

from fedloom.backbones.packing import pack
from fedloom.core.types import LocalWork
from fedloom.simulation.population import Population
from fedloom.tuning.base import Session
from fedloom.tuning.capacity import Capacity
from fedloom.tuning.cohort import chunks, size_of
from fedloom.tuning.examples import TextExamples
from fedloom.tuning.learners.local_batches import local_batches
from fedloom.tuning.learning import Assignment
from measurement import Measurement

__all__ = ["drawn_lengths", "padded_lengths", "texts", "useful"]

Ints = NDArray[np.int64]

SHORTEST, MEDIAN, SPREAD = 4, 20.0, 0.6
WORDS = 30_000
"""Token ids are drawn below this, whatever the vocabulary."""


def drawn_lengths(asked: Measurement) -> Ints:
    """Tokens of every example, client by client: int64 ``[clients * samples]``.

    Skewed lengths are log-normal twice over, by client and by example, since people differ.
    """
    count = asked.clients * asked.samples
    if asked.lengths == "equal":
        return np.full(count, asked.tokens)
    draws = np.random.default_rng(7)
    own = np.repeat(draws.normal(0, SPREAD, asked.clients), asked.samples)
    lengths = MEDIAN * np.exp(own + draws.normal(0, SPREAD, count))
    return np.clip(lengths, SHORTEST, asked.tokens).astype(np.int64)


def padded_lengths(asked: Measurement, population: Population, lengths: Ints, round: int) -> Ints:
    """Tokens of every example when the batches of a round are padded as `asked` says."""
    if asked.padding == "packed":
        return lengths
    if asked.padding == "longest":
        return np.full_like(lengths, asked.tokens)
    padded = lengths.copy()
    for name in (population.client(i).id for i in range(len(population))):
        assignment = Assignment(name, population.rows_of(name), round, population.seed)
        for batch in local_batches(assignment, LocalWork(batch_size=asked.batch)):
            padded[batch] = lengths[batch].max()
    return padded


def texts(asked: Measurement, lengths: Ints) -> TextExamples:
    """Random texts of these lengths, and random labels of two classes (none for causal models)."""
    draws = np.random.default_rng(2024)
    offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))
    tokens = draws.integers(1, WORDS, int(offsets[-1])).astype(np.int32)
    labels = None if asked.causal else draws.integers(0, 2, len(lengths))
    return TextExamples(tokens, offsets, labels)


def useful(
    asked: Measurement, population: Population, lengths: Ints, session: Session, capacity: Capacity
) -> float:
    """Share of the tokens that the steps of round 1 compute that are the data's own."""
    padded = padded_lengths(asked, population, lengths, 1)
    work = LocalWork(batch_size=asked.batch)
    names = [population.client(i).id for i in range(len(population))]
    rows = [population.rows_of(name) for name in names]
    sizes = [size_of(len(own), session.tokens(own), work) for own in rows]
    computed = 0.0
    for chunk in chunks(
        sizes, most=capacity.clients, budget=capacity.tokens, split=capacity.chunks
    ):
        plans = [
            list(local_batches(Assignment(names[i], rows[i], 1, population.seed), work))
            for i in chunk
        ]
        for step in zip(*plans, strict=True):
            pieces = [[np.zeros(padded[row], np.int32) for row in batch] for batch in step]
            packed = sum(int(padded[batch].sum()) for batch in step)
            computed += packed / pack(pieces, read=None).useful
    return float(lengths.sum() / computed)
