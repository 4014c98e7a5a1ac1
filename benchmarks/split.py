"""Tables of split learning over the wire: what streams cost beside one process, and beside gRPC.

Usage, from anywhere: ``python benchmarks/split.py [--quick] [--only SECTION ...] [--device cpu]``.
See benchmarks/README.md.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from live.split_sections import SECTIONS, Setting
from results import facts_of, fill_readme, page, write_section
from running import run_all

__all__ = ["main"]

HERE = Path(__file__).resolve().parent
LIMIT = 300.0
SHAPES = ("minilm", "bert-base")


def main() -> int:
    """Measure, print the tables, and write them unless the run is a quick one."""
    options = _parser().parse_args()
    # Threads of one process that spin for work take the cores from the other one.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    names = options.only or list(SECTIONS)
    with tempfile.TemporaryDirectory() as folder:
        _write_models(Path(folder))
        setting = Setting(Path(folder), options.device, options.threads, options.quick)
        failed = [name for name in names if not _section(name, setting, options.output)]
    if not options.quick:
        both = [name + suffix for name in SECTIONS for suffix in ("", "-gpu")]
        fill_readme(HERE / "README.md", options.output, "split", both)
    return int(bool(failed))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks/split.py", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short look; nothing is written")
    parser.add_argument("--only", choices=tuple(SECTIONS), nargs="+", help="some sections")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of the far side")
    parser.add_argument("--threads", type=int, default=2, help="of the products, on each side")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder of results")
    return parser


def _write_models(folder: Path) -> None:
    """Random models, made in a process of its own to keep this one small."""
    code = (
        "import sys, pathlib; from folders import write_folder\n"
        f"for shape in {SHAPES!r}:\n"
        "    write_folder(shape, pathlib.Path(sys.argv[1]) / shape)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], cwd=HERE, check=True)


def _section(name: str, setting: Setting, output: Path) -> bool:
    """Measure and print one section; whether all of it could be measured."""
    section = SECTIONS[name]
    print(f"{name}: {section.title}", file=sys.stderr, flush=True)
    load, began = os.getloadavg()[0], time.monotonic()
    results = run_all(section.programs(setting), repeats=1, limit=LIMIT)
    cuda = setting.device == "cuda"
    command = f"python benchmarks/split.py --only {name}" + (" --device cuda" if cuda else "")
    facts = facts_of(f"`{command}`, medians", load)
    facts["took"] = f"{time.monotonic() - began:.0f} s"
    title = section.title + (", far side on a GPU" if cuda else "")
    text = page(title, section.table(results), facts)
    print(text, flush=True)
    if not setting.quick:
        write_section(output, name + ("-gpu" if cuda else ""), results, text, facts)
    return not any("failed" in result for result in results)


if __name__ == "__main__":
    sys.exit(main())
