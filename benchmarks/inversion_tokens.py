"""Attack: which token is it whose hidden state goes up?

The attacker runs the far side. It knows the frozen weights, which are public, where each token
stands, since lengths travel, and other people's texts.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedloom.backbones.base import Packing
from fedloom.backbones.embedding import Embedding
from fedloom.backbones.fused import FusedBackbone
from fedloom.backbones.packing import pack
from fedloom.tuning.examples import TextExamples

__all__ = ["Texts", "common_share", "known_share", "lookup_share", "regression_share", "texts_of"]

PLACES = range(1, 6)
"""Only tokens at these places are asked for, which is what the time goes into; 0 is ``[CLS]``."""
BATCH = 64


@dataclass(frozen=True, eq=False)
class Texts:
    """Some texts as one attacker, or one client, has them.

    Attributes:
        ids: int64 ``[n]``, all tokens.
        places: int64 ``[n]``, where in its text each stands.
        states: float32 ``[n, d]`` before the first block, after it, and so on.
    """

    ids: Tensor
    places: Tensor
    states: tuple[Tensor, ...]

    def asked(self) -> Tensor:
        """Which tokens are asked for, bool ``[n]``."""
        low, high = PLACES[0], PLACES[-1]
        return (self.places >= low) & (self.places <= high)


def texts_of(backbone: FusedBackbone, examples: TextExamples, rows: list[int]) -> Texts:
    """Texts through the frozen blocks, without their last token ``[SEP]``."""
    parts: list[list[Tensor]] = [[] for _ in range(backbone.shape.depth + 1)]
    ids, places = [], []
    for start in range(0, len(rows), BATCH):
        pieces = [examples.ids(i) for i in rows[start : start + BATCH]]
        packing = pack([pieces], read=None)
        kept = np.concatenate([np.arange(len(p)) < len(p) - 1 for p in pieces])
        ids.append(np.concatenate(pieces)[kept])
        places.append(np.concatenate([np.arange(len(p)) for p in pieces])[kept])
        for part, hidden in zip(parts, _through(backbone, packing), strict=True):
            part.append(hidden[0][torch.from_numpy(kept)])
    whole, where = (
        torch.from_numpy(np.concatenate(part).astype(np.int64)) for part in (ids, places)
    )
    return Texts(whole, where, tuple(torch.cat(part) for part in parts))


def _through(backbone: FusedBackbone, packing: Packing) -> Iterator[Tensor]:
    hidden = backbone.embed(packing)
    yield hidden
    for block in range(backbone.shape.depth):
        hidden = backbone.run(hidden, packing, first=block, last=block + 1)
        yield hidden


def common_share(known: Texts, secret: Texts) -> float:
    """How often guessing the most common token is right."""
    common = torch.bincount(known.ids[known.asked()]).argmax()
    return float((secret.ids[secret.asked()] == common).float().mean())


def known_share(known: Texts, secret: Texts) -> float:
    """How many of the tokens are among the known texts' words."""
    words = known.ids[known.asked()].unique()
    return float(torch.isin(secret.ids[secret.asked()], words).float().mean())


def lookup_share(backbone: FusedBackbone, known: Texts, secret: Texts, block: int) -> float:
    """Nearest neighbours among the known texts' words, each alone in a text; nothing is trained.

    The nearest by cosine, once the mean of either side is taken off.
    """
    words = known.ids[known.asked()].unique()
    first, last = int(known.ids[0]), 102
    alone = [np.array([first, w, last], dtype=np.int32) for w in words.tolist()]
    packing = pack([alone], read=None)
    *_, hidden = (h for h, _ in zip(_through(backbone, packing), range(block + 1), strict=False))
    bank, asked = hidden[0, 1::3], secret.asked()
    target = secret.states[block][asked]
    bank, target = (torch.nn.functional.normalize(x - x.mean(0), dim=-1) for x in (bank, target))
    found = words[(target @ bank.T).argmax(1)]
    return float((found == secret.ids[asked]).float().mean())


def regression_share(
    embedding: Embedding,
    known: Texts,
    secret: Texts,
    block: int,
    arrived: Tensor,
    deviation: float = 0.0,
) -> float:
    """The likeliest word, by a linear map from words to hidden states learned on known texts.

    Hidden states are taken for a linear map of the embedding of word and place, plus a Gaussian
    rest with the covariance that it has in the known texts, and noise on top; words are as frequent
    as there. Where hidden states are embeddings still, that is the best guess without context.

    Args:
        embedding: of the backbone.
        known: the attacker's own texts.
        secret: those it is after.
        block: so many blocks lie below the cut.
        arrived: what arrived of the secret hidden states, ``[n, d]``.
        deviation: of the noise on it.
    """
    first, there = known.states[0], known.states[block]
    low, high = first.mean(0), there.mean(0)
    x, y = (first - low).double(), (there - high).double()
    map_ = torch.linalg.solve(_regular(x.T @ x, 1e-4), x.T @ y)
    rest = y - x @ map_
    spread = _regular(rest.T @ rest / len(rest), 1e-3)
    inverse = torch.linalg.inv(spread + deviation**2 * torch.eye(len(spread), dtype=spread.dtype))
    pull, norm = (map_ @ inverse).float(), (map_ @ inverse @ map_.T).float()
    counts = torch.bincount(known.ids, minlength=embedding.tokens.shape[0]).float() + 0.02
    prior, right = (counts / counts.sum()).log(), 0
    for place in PLACES:
        here = secret.places == place
        words = _embedded(embedding, place) - low
        scores = (arrived[here] - high) @ pull.T @ words.T - (words @ norm * words).sum(1) / 2
        right += int(((scores + prior).argmax(1) == secret.ids[here]).sum())
    return right / int(secret.asked().sum())


def _embedded(embedding: Embedding, place: int) -> Tensor:
    """Every word of the vocabulary at one place, ``[vocab, d]``, before the first block."""
    assert embedding.positions is not None
    assert embedding.norm is not None
    return embedding.norm.apply((embedding.table() + embedding.positions[place])[None])[0][0]


def _regular(square: Tensor, share: float) -> Tensor:
    return square + share * square.diag().mean() * torch.eye(len(square), dtype=square.dtype)
