"""How near estimates from N directions come to the true gradient of a real model's LoRA.

Usage: ``estimates.py MODEL_FOLDER DATA N REPEATS DEVICE``; prints one JSON line. DATA is the
sentiment set of the examples. LoRA of rank 4 in the last layer, queries and values, A and B; the
model has taken 30 steps of SGD, so that its gradient is neither zero nor all noise. The estimate is
the whole way of a client: directions, losses, 16-bit scalars, replay.
"""

import gzip
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedloom.core.component import Component
from fedloom.core.types import LocalWork, Params
from fedloom.tuning.base import Session, Task
from fedloom.tuning.build import build_model
from fedloom.tuning.examples import TextExamples
from fedloom.tuning.learners.backprop import Backprop
from fedloom.tuning.learners.finite_difference import FiniteDifference
from fedloom.tuning.learning import Assignment
from fedloom.tuning.tokens import read_tokenizer, tokenize

__all__ = ["law"]

BATCH = 8
WARM = LocalWork(steps=30, batch_size=64, lr=0.3)


def law(directions: int, size: int) -> float:
    """The cosine that mathematics gives."""
    return float((directions / (directions + size + 1)) ** 0.5)


def true_gradient(session: Session, params: Params, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """By backpropagation, of everything that trains."""
    store = session.store(params, 1)
    session.losses(store, [rows]).loss.sum().backward()
    found: NDArray[np.float32] = store.grad[0].cpu().numpy()
    return found


def estimated(
    learner: FiniteDifference, session: Session, params: Params, own: Assignment
) -> NDArray[np.float32]:
    """What a client's scalars stand for; its step is one of length one."""
    work = LocalWork(steps=1, batch_size=BATCH, lr=1.0)
    steps = learner.train(session, params, work, [own])[0].steps
    assert steps is not None
    return -steps.vector()


def sentences(folder: Path, data: Path) -> TextExamples:
    """Every seventh snippet of the set, so that all domains are there."""
    with gzip.open(data, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in list(file)[::7]]
    texts = tokenize([row["text"] for row in rows], read_tokenizer(folder), 48)
    return replace(texts, labels=np.array([int(row["label"] == "positive") for row in rows]))


def measured(
    folder: Path, data: Path, directions: int, repeats: int, device: str
) -> tuple[int, list[float]]:
    """The dimension, and cosines of estimates from different directions."""
    adapter = Component("lora", {"rank": 4, "layers": (-1,)})
    task, where = Task("classify", 2, "mean", normalize=True), torch.device(device)
    model = build_model(folder, adapter, task, dtype=torch.float32, device=where, engine="fused")
    examples, start = sentences(folder, data), model.initial(0)
    every = np.arange(len(examples))
    whole = model.session(start, ("*",), examples)
    warm = Backprop().train(whole, start, WARM, [Assignment("warm", every, 1, 0)])[0]
    params, rows = Params(start.layout, start.vector + warm.delta), every[::-150][:BATCH]
    session = model.session(params, ("lora",), examples)
    truth = true_gradient(session, params, rows).astype(np.float64)
    learner, found = FiniteDifference(directions=directions, exact=()), []
    for turn in range(1, repeats + 1):
        own = estimated(learner, session, params, Assignment("a", rows, turn, 0))
        found.append(float(own @ truth / np.linalg.norm(own) / np.linalg.norm(truth)))
    return len(truth), found


def main() -> None:
    """Measure, and print."""
    folder, data, device = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[5]
    directions, repeats = int(sys.argv[3]), int(sys.argv[4])
    torch.set_num_threads(1)
    size, cosines = measured(folder, data, directions, repeats, device)
    found = {"size": size, "cosine": float(np.mean(cosines)), "spread": float(np.std(cosines))}
    print(json.dumps(found | {"directions": directions, "law": law(directions, size)}))


if __name__ == "__main__":
    main()
