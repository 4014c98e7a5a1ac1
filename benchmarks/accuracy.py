"""Accuracy of methods without backpropagation, beside backpropagation, on two data sets.

Usage, from anywhere: ``python benchmarks/accuracy.py --model FOLDER [--data NAME ...]
[--methods NAME ...] [--seeds N ...] [--rounds N] [--device cpu|cuda] [--workers N]``.

Every run is a process of its own and leaves a file in ``results/accuracy``; one that is there
already is not run again, so that the whole can be made in parts. The tables and the picture are of
all files. See benchmarks/README.md.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from accuracy_jobs import DATA, METHODS, Asked
from accuracy_tables import accuracy_page, draw
from results import commit, fill_readme, machine
from running import Program, run_all

__all__ = ["main"]

HERE = Path(__file__).resolve().parent
LIMIT = 3000.0


@dataclass(frozen=True)
class Place:
    """Where a run is made and kept.

    Attributes:
        device: ``cpu`` or ``cuda``.
        output: folder of results.
    """

    device: str
    output: Path


def main() -> int:
    """Run what is asked for and not there yet, then write the tables of all that is."""
    options = _parser().parse_args()
    place = Place(options.device, options.output / "accuracy")
    place.output.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        models = _models(options.model.resolve(), Path(folder), options.methods)
        asked = [one for one in _asked(options, models) if not _file(place, one).is_file()]
        with ThreadPoolExecutor(options.workers) as pool:
            failed = [
                one
                for one, well in zip(asked, pool.map(partial(_run, place), asked), strict=True)
                if not well
            ]
    print(f"{len(asked)} runs, {len(failed)} failed, {time.monotonic() - began:.0f} s")
    if not options.quick:
        _publish(options, place)
    return int(bool(failed))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks/accuracy.py", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of MiniLM")
    parser.add_argument("--data", nargs="+", choices=tuple(DATA), default=list(DATA))
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=20, help="of backpropagation")
    parser.add_argument("--max-test", type=int, default=0, help="test examples at most (0: all)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--workers", type=int, default=1, help="runs side by side")
    parser.add_argument("--quick", action="store_true", help="only run; the README stays as it is")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder of results")
    return parser


def _models(source: Path, folder: Path, methods: list[str]) -> dict[int, Path]:
    """The backbone's folder by bits of its weights."""
    found = {32: source}
    for bits in {METHODS[name].bits for name in methods} - {32}:
        found[bits] = folder / f"int{bits}"
        command = [sys.executable, str(HERE / "quantized_folder.py"), str(source)]
        subprocess.run([*command, str(found[bits]), str(bits)], check=True)
    return found


def _asked(options: argparse.Namespace, models: dict[int, Path]) -> list[Asked]:
    """All runs, the first seed of everything first."""
    return [
        Asked(
            data=data,
            method=name,
            seed=seed,
            rounds=round(METHODS[name].rounds * options.rounds),
            points=12,
            max_test=options.max_test,
            model=str(models[METHODS[name].bits]),
            device=options.device,
        )
        for seed in options.seeds
        for data in options.data
        for name in options.methods
    ]


def _file(place: Place, asked: Asked) -> Path:
    return place.output / f"{asked.data}-{asked.method}-{asked.rounds}-{asked.seed}.json"


def _run(place: Place, asked: Asked) -> bool:
    """Run one, and keep what came out."""
    arguments = (str(HERE / "accuracy_run.py"), json.dumps(asdict(asked)))
    label = f"{asked.data}, {asked.method}, {asked.rounds} rounds, seed {asked.seed}"
    found = run_all([Program(label, arguments, rate="accuracy")], repeats=1, limit=LIMIT)[0]
    if "failed" in found:
        return False
    kept = {key: value for key, value in found.items() if key not in ("model", "peak_memory_mib")}
    facts = {"machine": machine(), "commit": commit()}
    _file(place, asked).write_text(json.dumps(kept | facts) + "\n", encoding="utf-8")
    return True


def _publish(options: argparse.Namespace, place: Place) -> None:
    """Tables, picture and README of all runs that are there."""
    paths = sorted(place.output.glob("*.json"))
    results = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    text = accuracy_page(results)
    (options.output / "accuracy.md").write_text(text, encoding="utf-8")
    print(text)
    try:
        draw(results, HERE.parent / "docs" / "pictures" / "accuracy-by-cost.png")
    except ImportError:
        print("no picture: matplotlib is not installed", file=sys.stderr)
    fill_readme(HERE / "README.md", options.output, "accuracy", ["accuracy"])


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
