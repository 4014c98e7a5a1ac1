"""Losses of next words: the product with the vocabulary and its softmax, some words at a time.

Logits of 256 tokens and 150,000 words would take 154 MB. Of the words gone through so far a token
has the highest logit, the sum of exponentials beside it, and the logit of its own next word, as in
Milakov and Gimelshein, "Online normalizer calculation for softmax" (2018), section 3.
"""

import numpy as np
from numpy.typing import NDArray

from fedloom.backbones.allocator import give_back
from fedloom.backbones.families import FAMILIES
from fedloom.backbones.onnx.blocks import HIDDEN
from fedloom.backbones.onnx.graph import Graph
from fedloom.backbones.onnx.matrices import Floats, Matrix
from fedloom.backbones.onnx.runner import Runner
from fedloom.backbones.onnx.weights import Weights
from fedloom.backbones.shape import Shape
from fedloom.core.errors import ModelError

__all__ = ["ROWS", "WORDS", "WordHead", "word_matrix", "word_names"]

WORDS = 4096
"""Words at a time."""
ROWS = 256
"""Tokens at a time."""


class WordHead:
    """A frozen language-model head over hidden states that the final norm has gone through.

    Args:
        matrix: ``[vocab, d]``, as it is stored.
        threads: of its products (0: as many as onnxruntime likes).
    """

    def __init__(self, matrix: Matrix, threads: int = 0) -> None:
        words, self._width = matrix.shape
        self._parts = [
            (start, self._runner(matrix.part(slice(start, start + WORDS)), threads))
            for start in range(0, words, WORDS)
        ]

    def _runner(self, part: Matrix, threads: int) -> Runner:
        graph = Graph()
        x = graph.fed(HIDDEN, (1, "n", self._width))
        written = graph.written(graph.product(x, part, None), (1, "n", part.shape[0]))
        del graph
        found = Runner(written, threads, arena=False, alone=False)
        del written
        give_back()
        return found

    def losses(
        self, x: Floats, target: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Cross-entropy of each row and the word that it predicts, ``[n]`` both.

        Args:
            x: ``[n, d]``.
            target: ``[n]``, the words that follow.
        """
        spans = [slice(start, start + ROWS) for start in range(0, max(len(x), 1), ROWS)]
        each, predicted = zip(*(self._some(x[own], target[own]) for own in spans), strict=True)
        return np.concatenate(each), np.concatenate(predicted)

    def _some(
        self, x: Floats, target: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        count = np.arange(len(x))
        highest = np.full(len(x), -np.inf, dtype=np.float32)
        total, right = np.zeros(len(x)), np.zeros(len(x), dtype=np.float32)
        predicted = np.zeros(len(x), dtype=np.int64)
        for start, runner in self._parts if len(x) else ():
            logits = runner({HIDDEN: x[None]})[0]
            inside = (start <= target) & (target < start + logits.shape[1])
            right[inside] = logits[count[inside], target[inside] - start]
            best = logits.argmax(1)
            top = logits[count, best]
            predicted = np.where(top > highest, start + best, predicted)
            before, highest = highest, np.maximum(highest, top)
            logits -= highest[:, None]
            np.exp(logits, out=logits)
            total *= np.exp(before - highest)
            total += logits.sum(1)
        return np.log(total) + highest.astype(np.float64) - right, predicted


def word_names(shape: Shape) -> tuple[str, ...]:
    """Where the matrix of a language-model head lies: in the embedding, where they are tied."""
    family = FAMILIES[shape.family]
    return family.stored(family.outer["tokens"], "weight") if shape.tied else ("lm_head.weight",)


def word_matrix(shape: Shape, weights: Weights, tokens: Matrix) -> Matrix:
    """The matrix of a language-model head.

    Args:
        shape: of the backbone.
        weights: of the backbone.
        tokens: its embedding.

    Raises:
        ModelError: the family or the folder has none.
    """
    names = word_names(shape)
    if not shape.causal or not (shape.tied or weights.has(names)):
        raise ModelError(f"{weights.folder}: no language-model head (lm_head.weight)")
    return tokens if shape.tied else weights.matrix(names, (shape.vocab, shape.width))
