"""Jobs that run in a second: a tiny random model, words that tell their class, the command line."""

import json
import random
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from command_forks import start
from safetensors.numpy import load_file

ROOT = Path(__file__).parents[1]
WORDS = {
    "harbour": ("ship", "navy", "coast", "commerce", "port"),
    "field": ("farm", "corn", "land", "labor", "wheat"),
    "treasury": ("debt", "tax", "bank", "gold", "public"),
}
TIMES = ("seconds", "elapsed", "clients_per_second")


def labelled_rows(count: int = 240, clients: int = 12, seed: int = 3) -> list[dict[str, str]]:
    """Texts of six words, five of them of the class; a sixth of each client's are for the test."""
    draw = random.Random(seed)
    names, everything = list(WORDS), [w for words in WORDS.values() for w in words]
    rows = []
    for number in range(count):
        label = draw.choice(names)
        words = [draw.choice(WORDS[label]) for _ in range(5)] + [draw.choice(everything)]
        rows.append(
            {
                "text": " ".join(words),
                "label": label,
                "client": f"c{number % clients:02d}",
                "split": "test" if number // clients % 6 == 5 else "train",
            }
        )
    return rows


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Rows as a JSONL file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def causal_table(backbone: Path) -> dict[str, Any]:
    """A language model with LoRA over a few rounds, for rows in memory."""
    return {
        "name": "small-lm",
        "backbone": {"name": str(backbone), "task": "causal-lm", "max_tokens": 32},
        "data": {"client": "client", "split": "split"},
        "adapter": {"name": "lora", "rank": 4, "targets": ["all-linear"]},
        "run": {"workers": 1},
        "rounds": 6,
        "clients_per_round": 6,
        "local": {"optimizer": "adamw", "lr": 0.03, "batch_size": 4},
    }


def classify_table(backbone: Path, data: Path | str = "", **changes: Any) -> dict[str, Any]:
    """A job of two stages, the head first and then LoRA, as TOML would give it."""
    return {
        "name": "small",
        "backbone": {"name": str(backbone), "max_tokens": 32, "head_init": "normal"},
        "data": {"path": str(data), "client": "client", "split": "split"},
        "adapter": {"name": "lora", "rank": 4},
        "run": {"workers": 1, "cache_gb": 0.1, "cache_disk_gb": 0.0},
        "stages": [
            {
                "name": "head",
                "rounds": 3,
                "clients_per_round": 6,
                "train": ["head"],
                "local": {"lr": 0.2, "batch_size": 8},
            },
            {
                "name": "adapter",
                "rounds": 5,
                "clients_per_round": 6,
                "local": {"optimizer": "adamw", "lr": 0.01, "batch_size": 8},
                "strategy": {"name": "fedavgm", "momentum": 0.5},
            },
        ],
        **changes,
    }


def write_toml(path: Path, table: Mapping[str, Any]) -> Path:
    """A table of scalars, lists and tables as TOML; JSON's inline values are TOML's too."""
    lines = [f"{key} = {_inline(value)}" for key, value in table.items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_inline(item) for item in value) + "]"
    return json.dumps(value)


PAUSING_LEARNER = '''
"""Backprop that waits in the round that the file `pause` names, as long as the file is there."""

import time
from pathlib import Path

from fedloom.tuning.learners.backprop import Backprop


class Pausing:
    keeps = True

    def _named(self):
        try:
            return Path("pause").read_text()
        except FileNotFoundError:
            return ""

    def train(self, session, params, work, cohort, briefing):
        while self._named() == str(cohort[0].round):
            time.sleep(0.01)
        return Backprop().train(session, params, work, cohort)
'''


def fedloom(*arguments: str | Path, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run a command line to its end."""
    process = start(arguments, cwd)
    out, errors = process.communicate(timeout=120)
    return subprocess.CompletedProcess(arguments, process.wait(), out, errors)


def numbers_of(run: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl`` without what depends on the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]


def tensors_of(run: Path) -> dict[str, bytes]:
    """The bits of the last model."""
    tensors = load_file(run / "adapter" / "fedloom.safetensors")
    return {name: tensor.tobytes() for name, tensor in sorted(tensors.items())}
