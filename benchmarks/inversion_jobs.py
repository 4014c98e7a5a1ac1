"""The federated runs of the measured attacks on split learning, and the defences."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import fedloom
from fedloom.progress import Quiet
from fedloom.simulation.simulator import Run

__all__ = ["DEFENCES", "trained"]

FILES = Path(__file__).resolve().parent.parent / "examples" / "data"
CLIPS: Mapping[str, float] = MappingProxyType({"clip": 12.0, "clip_grad": 0.002})
"""About the norm of MiniLM's hidden states, and of a token's gradient at batch 16."""
DEFENCES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "none": {},
        "int8": {"codec_up": "int8"},
        "noise 0.02": {**CLIPS, "noise": 0.02},
        "noise 0.1": {**CLIPS, "noise": 0.1},
        "noise 0.5": {**CLIPS, "noise": 0.5},
        "noise 2": {**CLIPS, "noise": 2.0},
    }
)
"""Keys of ``[split]``."""


def trained(defence: str, seed: int, rounds: int, folder: Path) -> Run:
    """Sentiment of short texts with MiniLM and LoRA, two blocks below and one above at home."""
    return fedloom.simulate(
        {
            "name": "inversion",
            "seed": seed,
            "backbone": {
                "name": "minilm",
                "normalize": True,
                "max_tokens": 24,
                "dtype": "float32",
            },
            "data": {
                "path": str(FILES / "sentiment.jsonl.gz"),
                "text": "text",
                "label": "label",
                "client": "client",
                "split": "split",
                "max_examples": 32,
                "max_test": 600,
            },
            "partition": "natural",
            "adapter": {"name": "lora", "rank": 4},
            "rounds": rounds,
            "clients_per_round": 8,
            "local": {"optimizer": "adamw", "lr": 0.003, "batch_size": 16},
            "split": {"mode": "v1", **DEFENCES[defence]},
            "evaluate": {"every": rounds},
            "run": {
                "directory": str(folder / defence / str(seed)),
                "cache_gb": 0.0,
                "workers": 1,
                "checkpoint_every": 1000,
            },
        },
        observer=Quiet(),
    )
