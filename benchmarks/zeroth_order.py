"""Tables of methods without backpropagation: memory, batching, and the laws of their estimates.

Usage, from anywhere: ``python benchmarks/zeroth_order.py [--model FOLDER] [--quick]
[--only SECTION] [--device cpu|cuda]``. See benchmarks/README.md.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from direction_tables import (
    batched_rows,
    batched_table,
    law_rows,
    law_table,
    memory_rows,
    memory_table,
)
from results import commit, fill_readme, machine, page, write_section
from running import Program, Result, run_all

__all__ = ["main"]

HERE = Path(__file__).resolve().parent
LIMIT = 900.0


@dataclass(frozen=True)
class Setting:
    """What all sections share.

    Attributes:
        folder: of MiniLM; its weights matter to the laws only.
        real: whether they are those of the published model.
        device: ``cpu`` or ``cuda``.
        quick: fewer repeats.
    """

    folder: Path
    real: bool
    device: str
    quick: bool


@dataclass(frozen=True)
class Section:
    """One section.

    Attributes:
        title: above its table.
        programs: what is run.
        table: rows of cells, the first being the header.
        repeats: runs of each program.
        real: whether it needs the published model.
    """

    title: str
    programs: Callable[[Path, str, bool], list[Program]]
    table: Callable[[Sequence[Result]], list[list[str]]]
    repeats: int
    real: bool = False


SECTIONS = MappingProxyType(
    {
        "step-memory": Section(
            "Memory of one local step beyond the model, MiniLM-L6, 64 x 32 tokens, LoRA in all"
            " layers, float32",
            memory_rows,
            memory_table,
            repeats=2,
        ),
        "directions": Section(
            "16 clients x 8 directions, MiniLM-L6, LoRA of rank 4 (B trains), float32",
            batched_rows,
            batched_table,
            repeats=2,
        ),
        "laws": Section(
            "Estimates of a true gradient: MiniLM-L6, LoRA of rank 4 in the last layer, sentiment",
            law_rows,
            law_table,
            repeats=1,
            real=True,
        ),
    }
)


def main() -> int:
    """Measure, print the tables, and write them unless the run is a quick one."""
    options = _parser().parse_args()
    names = [options.only] if options.only else list(SECTIONS)
    with tempfile.TemporaryDirectory() as folder:
        real = options.model is not None
        model = options.model or _random_model(Path(folder) / "minilm")
        setting = Setting(model.resolve(), real, options.device, options.quick)
        failed = [name for name in names if not _section(name, setting, options)]
    if not options.quick:
        both = [name + suffix for name in SECTIONS for suffix in ("", "-gpu")]
        fill_readme(HERE / "README.md", options.output, "zeroth-order", both)
    return int(bool(failed))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks/zeroth_order.py", description=__doc__)
    parser.add_argument("--model", type=Path, help="folder of MiniLM; random weights without")
    parser.add_argument("--quick", action="store_true", help="a short look; nothing is written")
    parser.add_argument("--only", choices=tuple(SECTIONS), help="one section")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder of results")
    return parser


def _random_model(folder: Path) -> Path:
    """A folder of random weights, made in a process of its own to keep this one small."""
    code = "import sys, pathlib; from folders import write_folder\n"
    code += "write_folder('minilm', pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(folder)], cwd=HERE, check=True)
    return folder


def _section(name: str, setting: Setting, options: argparse.Namespace) -> bool:
    """Measure and print one section; whether all of it could be measured."""
    section = SECTIONS[name]
    print(f"{name}: {section.title}", file=sys.stderr, flush=True)
    if section.real and not setting.real:
        print("  left out: it needs --model, a folder of the published model", file=sys.stderr)
        return True
    load, began = os.getloadavg()[0], time.monotonic()
    repeats = 1 if setting.quick else section.repeats
    programs = section.programs(setting.folder, setting.device, setting.quick)
    results = run_all(programs, repeats=repeats, limit=LIMIT)
    facts = _facts(name, setting, repeats) | {
        "load before": f"{load:.1f}",
        "took": f"{time.monotonic() - began:.0f} s",
    }
    on_gpu = setting.device == "cuda"
    title = section.title + (", one GPU" if on_gpu else "")
    text = page(title, section.table(results), facts)
    print(text, flush=True)
    if not setting.quick:
        write_section(options.output, name + ("-gpu" if on_gpu else ""), results, text, facts)
    return not any("failed" in result for result in results)


def _facts(name: str, setting: Setting, repeats: int) -> dict[str, str]:
    device = " --device cuda" if setting.device == "cuda" else ""
    model = " --model MINILM" if setting.real else ""
    command = f"python benchmarks/zeroth_order.py{model} --only {name}{device}"
    return {
        "machine": (_gpu_name() if device else "") + machine(),
        "command": f"`{command}`, best of {repeats} runs",
        "commit": commit(),
    }


def _gpu_name() -> str:
    code = "import torch; print(torch.cuda.get_device_name())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return f"{done.stdout.strip() or 'a GPU'}; "


if __name__ == "__main__":
    sys.exit(main())
