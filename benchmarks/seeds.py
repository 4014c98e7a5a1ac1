"""The loop of benchmarks whose rows are ways to train, measured over several seeds."""

import argparse
import json
from collections.abc import Callable, Iterable

__all__ = ["add_seeds", "each_seed"]


def add_seeds(parser: argparse.ArgumentParser, ways: Iterable[str]) -> None:
    """Which seeds, and which of the ways; all of them by default."""
    names = list(ways)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=names, default=names)


def each_seed(
    options: argparse.Namespace,
    measured: Callable[[str, int, argparse.Namespace], dict[str, object]],
) -> list[dict[str, object]]:
    """Measure every way with one seed after the other; each row is printed once it is there."""
    rows = []
    for seed in options.seeds:
        for name in options.only:
            rows.append(measured(name, seed, options))
            print(json.dumps(rows[-1]), flush=True)
    return rows
