"""What a far side can find out: tokens from hidden states, labels from gradients, defended or not.

Usage, from anywhere: ``python benchmarks/inversion.py [--defences NAME ...] [--seeds N ...]
[--rounds N]``. It needs the backbone ``minilm``. Four to five minutes of one core. What it
prints is explained in docs/security.md.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedloom.backbones.embedding import Embedding
from fedloom.core.seeds import stream
from fedloom.core.split import SplitConfig
from fedloom.simulation.simulator import Run
from fedloom.tuning.examples import TextExamples
from fedloom.tuning.fused_model import FusedModel
from inversion_jobs import DEFENCES, trained
from inversion_labels import label_shares
from inversion_tokens import (
    Texts,
    common_share,
    known_share,
    lookup_share,
    regression_share,
    texts_of,
)
from inversion_watch import arriving
from tables import markdown

__all__ = ["main"]

KNOWN, SECRET, CLIENTS = 1200, 150, 6
BLOCKS, FEW, TOPS = (0, 1, 2, 3, 4, 6), (0, 2, 4), (0, 1, 2)


def main() -> int:
    """Train, attack, and print the table."""
    options = _parser().parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder, seed = Path(name), options.seeds[0]
        base = trained("none", seed, options.rounds, folder)
        known, secret = _texts(base)
        rows = [_reference(base, known, secret)]
        for defence in options.defences:
            split = SplitConfig("v1", **DEFENCES[defence])
            again = options.seeds[1:] if defence == "none" else options.seeds
            runs = [trained(defence, one, options.rounds, folder) for one in again]
            if defence == "none":
                runs.insert(0, base)
            cells = [*_tokens(base, known, secret, split, defence), *_labels(base, split)]
            accuracy = [run.summary.after["accuracy"] for run in runs]
            rows.append([defence, *cells, f"{np.mean(accuracy):.3f}"])
            print("\t".join(rows[-1]), file=sys.stderr, flush=True)
    print(markdown([_header(), *rows]))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks/inversion.py", description=__doc__)
    names = list(DEFENCES)
    parser.add_argument("--defences", nargs="+", choices=names, default=names)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of training")
    parser.add_argument("--rounds", type=int, default=12, help="of training")
    return parser


def _header() -> list[str]:
    tokens = [f"tokens, {block} blocks" for block in BLOCKS]
    labels = [f"labels, {top} above" for top in TOPS]
    known = [f"{name}, model known" for name in labels]
    return ["defence", *tokens, *labels, *known, "accuracy"]


def _model(run: Run) -> FusedModel:
    model = run.prepared.model
    assert isinstance(model, FusedModel)
    return model


def _texts(run: Run) -> tuple[Texts, Texts]:
    """The attacker's texts, and those it is after: of the training and of the test split."""
    found = []
    for examples, count in ((run.prepared.corpus.train, KNOWN), (run.prepared.corpus.test, SECRET)):
        assert isinstance(examples, TextExamples)
        rows = stream(1, "attack").choose(len(examples), count).tolist()
        with torch.no_grad():
            found.append(texts_of(_model(run).backbone, examples, rows))
    return found[0], found[1]


def _reference(run: Run, known: Texts, secret: Texts) -> list[str]:
    """What is found without training an attacker, and by guessing alone."""
    backbone = _model(run).backbone
    with torch.no_grad():
        found = [lookup_share(backbone, known, secret, block) for block in BLOCKS]
    guessed, among = common_share(known, secret), known_share(known, secret)
    label = f"none; nearest of the known words ({among:.1%} of all; guessing finds {guessed:.1%})"
    return [label, *(f"{share:.1%}" for share in found), *[""] * (2 * len(TOPS) + 1)]


def _tokens(
    run: Run, known: Texts, secret: Texts, split: SplitConfig, defence: str
) -> Sequence[str]:
    embedding = _model(run).backbone.embedding
    assert isinstance(embedding, Embedding)
    cells = []
    for block in BLOCKS:
        if defence != "none" and block not in FEW:
            cells.append("")
            continue
        arrived = arriving(secret.states[block], split, 2)
        deviation = split.noise * split.clip
        share = regression_share(embedding, known, secret, block, arrived, deviation)
        cells.append(f"{share:.1%}")
    return cells


def _labels(run: Run, split: SplitConfig) -> Sequence[str]:
    """First by the gradients alone, then knowing the model."""
    examples = run.prepared.corpus.train
    assert isinstance(examples, TextExamples)
    clients = _clients(examples)
    found = [
        label_shares(_model(run), run.params, examples, clients, replace(split, top=top))
        for top in TOPS
    ]
    return [f"{pair[which]:.1%}" for which in (0, 1) for pair in found]


def _clients(examples: TextExamples) -> list[NDArray[np.int64]]:
    """Clients of 32 examples each."""
    chosen = stream(2, "attack").permutation(len(examples))[: 32 * CLIENTS]
    return list(chosen.reshape(CLIENTS, 32))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
