"""Ratio tables of the simulator: fedloom beside other systems doing the same work, in one run.

Usage, from anywhere: ``python benchmarks/simulator.py [--baselines PYTHON] [--quick]
[--only SECTION] [--device cpu|cuda]``. See benchmarks/README.md.
"""

import argparse
import importlib.util
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from results import commit, fill_readme, machine, page, write_section
from running import ROOT, run_all
from sections import SECTIONS, Setting

__all__ = ["main"]

HERE = Path(__file__).resolve().parent
LIMIT = 900.0
SHAPES = ("minilm", "tiny")


def main() -> int:
    """Measure, print the tables, and write them unless the run is a quick one."""
    options = _parser().parse_args()
    if options.device == "cuda":
        return _on_gpu(options)
    names = [options.only] if options.only else list(SECTIONS)
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(
            models=_models(Path(folder)),
            baselines=options.baselines,
            generic=importlib.util.find_spec("transformers") is not None,
            quick=options.quick,
        )
        failed = [name for name in names if not _section(name, setting, options)]
    if not options.quick:
        fill_readme(HERE / "README.md", options.output, "simulator", [*SECTIONS, "gpu"])
    return int(bool(failed))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks/simulator.py", description=__doc__)
    parser.add_argument("--baselines", default="", help="interpreter of the baselines' environment")
    parser.add_argument("--quick", action="store_true", help="a short look; nothing is written")
    parser.add_argument("--only", choices=tuple(SECTIONS), help="one section")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=0, help="runs of each system (1 or 3)")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder of results")
    return parser


def _models(folder: Path) -> Path:
    """Folders of random models, made in a process of their own to keep this one small."""
    code = "import sys, pathlib; from folders import write_folder\n" + "\n".join(
        f"write_folder({shape!r}, pathlib.Path(sys.argv[1]) / {shape!r})" for shape in SHAPES
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], cwd=HERE, check=True)
    return folder


def _section(name: str, setting: Setting, options: argparse.Namespace) -> bool:
    """Measure and print one section; whether all of it could be measured."""
    section = SECTIONS[name]
    print(f"{name}: {section.title}", file=sys.stderr, flush=True)
    load = os.getloadavg()[0]
    began = time.monotonic()
    repeats = options.repeats or (1 if setting.quick else 3)
    results = run_all(section.programs(setting), repeats=repeats, limit=LIMIT)
    facts = _facts(name, repeats) | {
        "load before": f"{load:.1f}",
        "took": f"{time.monotonic() - began:.0f} s",
    }
    text = page(section.title, section.table(results), facts)
    print(text, flush=True)
    if not setting.quick:
        write_section(options.output, name, results, text, facts)
    return not any("failed" in result for result in results)


def _facts(name: str, repeats: int) -> dict[str, str]:
    return {
        "machine": machine(),
        "command": f"`python benchmarks/simulator.py --only {name}`, best of {repeats} runs",
        "commit": commit(),
    }


def _on_gpu(options: argparse.Namespace) -> int:
    """The section on a GPU: one program, which prints its table itself."""
    command = [sys.executable, str(HERE / "gpu.py"), *(["--quick"] if options.quick else [])]
    paths = [str(ROOT), str(HERE), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    done = subprocess.run([*command, "--output", str(options.output)], env=environment, check=False)
    if done.returncode:
        print(f"failed: {shlex.join(command)}", file=sys.stderr)
    elif not options.quick:
        fill_readme(HERE / "README.md", options.output, "simulator", [*SECTIONS, "gpu"])
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
